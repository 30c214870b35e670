"""Which mix of dense and sparse arrays does the most work per area, on recorded activations?

    python -m synth.equal_area
    python -m synth.equal_area --dense-3-area 30000 --sparse-area 28000     what if the arrays were smaller

Each mix is timed by the cycle model, layer by layer, and its arrays' area added up. *Work per area* is the baseline's
cycles x area over the mix's, so 1 is the baseline: one dense array, three multipliers per accumulator. Two
areas are used: LUT-equivalents of the arrays alone, and the same with each block RAM counted as its share
of the device (ECP5-85F: 83,640 LUTs, 208 block RAMs). Fetchers and read ports, which an array of
either kind needs alike, and what an engine has once are not counted.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from golden.report import Table
from golden.study import Mode, TraceLayer, read_trace, sweep
from hw.config import Config, preset

__all__ = ["MIXES", "ArrayArea", "Mix", "main", "table"]

DATA = Path(__file__).parents[1] / "golden" / "data"
LUTS_PER_BLOCK_RAM = 83640 / 208    # of an ECP5-85F
MODE: Mode = "balance"


@dataclass(frozen=True)
class ArrayArea:
    """Area of one array: LUT-equivalents and block RAMs."""

    luts: float
    block_rams: int

    @property
    def device(self) -> float:
        """LUT-equivalents, each block RAM as many as there are per block RAM in the device."""
        return self.luts + LUTS_PER_BLOCK_RAM * self.block_rams


# 16 x 16, default preset, FIFO 32, `python -m synth --small`, Yosys 0.70; by "sparse" or the taps of a dense array.
AREAS: dict[str, ArrayArea] = {
    "sparse": ArrayArea(68280, 208),
    "dense 3": ArrayArea(85732, 13),
    "dense 1": ArrayArea(49193, 13),
}


@dataclass(frozen=True)
class Mix:
    """Arrays that work together.

    Parameters
    ----------
    dense, sparse, taps : int
        Arrays of each kind, and multipliers per accumulator of the dense ones.
    """

    dense: int
    sparse: int
    taps: int = 3

    def __str__(self) -> str:
        dense = [f"{self.dense} dense, {self.taps} taps"] if self.dense else []
        return " + ".join([*dense, *([f"{self.sparse} sparse"] if self.sparse else [])])

    def machine(self, config: Config) -> Config:
        """Return the configuration; each array has a read port of its own as far as there are ports."""
        return replace(config, dense=self.dense, sparse=self.sparse, dense_taps=self.taps,
                       read_ports=min(4, self.dense + self.sparse))

    def area(self, areas: Mapping[str, ArrayArea]) -> ArrayArea:
        """Return the sum of the arrays' areas."""
        dense, sparse = areas[f"dense {self.taps}"], areas["sparse"]
        return ArrayArea(self.dense * dense.luts + self.sparse * sparse.luts,
                         self.dense * dense.block_rams + self.sparse * sparse.block_rams)


MIXES = (Mix(1, 0), Mix(2, 0), Mix(1, 1), Mix(2, 1), Mix(1, 2), Mix(1, 3), Mix(0, 1), Mix(0, 2), Mix(0, 3),
         Mix(2, 0, 1), Mix(1, 1, 1))


def table(cycles: Mapping[Mix, int], areas: Mapping[str, ArrayArea]) -> Iterator[str]:
    """Yield the lines of a trace's table; the first mix is the baseline."""
    columns = Table({"mix": -26, "cycles": 9, "speed-up": 8, "LUT-eq.": 8, "DP16KD": 6, "per LUT": 8, "per device": 10})
    yield columns.head()
    base, base_area = next((count, mix.area(areas)) for mix, count in cycles.items())
    for mix, count in cycles.items():
        area = mix.area(areas)
        yield columns.line([
            mix, count, f"{base / count:.2f}", f"{area.luts:.0f}", area.block_rams,
            f"{base * base_area.luts / (count * area.luts):.2f}",
            f"{base * base_area.device / (count * area.device):.2f}",
        ])


def _watched(layers: Sequence[TraceLayer]) -> Iterator[TraceLayer]:
    """Yield the layers; on a terminal, say how many are done."""
    began = time.monotonic()
    for done, layer in enumerate(layers):
        if sys.stderr.isatty():
            print(f"\r{done} of {len(layers)} layers, {time.monotonic() - began:.0f} s ", end="", file=sys.stderr)
        yield layer
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)


def time_mixes(layers: Sequence[TraceLayer], config: Config) -> dict[Mix, int]:
    """Return each mix's cycles for the layers."""
    machines: dict[str, tuple[Config, Mode]] = {str(mix): (mix.machine(config), MODE) for mix in MIXES}
    totals = sweep(_watched(layers), machines)
    return {mix: totals[str(mix)].cycles for mix in MIXES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each trace."""
    parser = argparse.ArgumentParser(prog="python -m synth.equal_area", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR",
                        help="folder of trace_pre.npz and trace_post.npz; golden/data if absent")
    parser.add_argument("--fifo-depth", type=int, help="instead of the default preset's")
    for key in AREAS:
        parser.add_argument(f"--{key.replace(' ', '-')}-area", type=float, metavar="LUTS",
                            help=f"LUT-equivalents of a {key} array, instead of {AREAS[key].luts}")
    options = vars(parser.parse_args(arguments))
    areas = dict(AREAS)
    for key, area in AREAS.items():
        given = options[f"{key.replace(' ', '_')}_area"]
        if given is not None:
            areas[key] = replace(area, luts=given)
    config = preset("default")
    if options["fifo_depth"] is not None:
        config = replace(config, fifo_depth=options["fifo_depth"])
    print(f"{config.rows} x {config.cols}, FIFO {config.fifo_depth}, labels by {MODE}")
    for trace in ("pre", "post"):
        path = options["data"] / f"trace_{trace}.npz"
        try:
            layers = list(read_trace(path))
        except OSError as error:
            print(f"synth.equal_area: cannot read {path}: {error.strerror}", file=sys.stderr)
            return 1
        lines = table(time_mixes(layers, config), areas)
        print(f"\ntrace {trace}, {len(layers)} layers and steps\n")
        for line in lines:
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
