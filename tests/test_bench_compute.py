"""The benches of the arrays, the post-processor and the layer engine pass, in odd sizes."""

from pathlib import Path

import pytest

from sim.benches import BENCHES, Bench
from sim.toolchain import ToolError, icarus

BUILD = Path(__file__).parents[1] / "build"
SEED = 1
RUNS = [pytest.param(bench, simulator, id=f"{bench.name}-{simulator}")
        for bench in BENCHES if bench.block in ("dense", "sparse", "ppu", "engine") for simulator in bench.simulators]


@pytest.mark.parametrize(("bench", "simulator"), RUNS)
def test_bench_passes(bench: Bench, simulator: str) -> None:
    if simulator == "icarus":
        try:
            icarus()
        except ToolError as absence:
            pytest.skip(f"unknown values not checked: {absence}")
    bench.run(SEED, simulator, build_dir=BUILD).require()
