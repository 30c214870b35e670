"""Programs on the accelerator's RTL by the host driver, and the cycle model of whole programs against its counters."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from golden.program.placement import plan
from golden.program.tiler import tile
from golden.program.timeline import predict_program
from golden.workload.network import NetworkStep
from hw.accelerator import counter_events
from hw.config import preset
from sim.accelerator import SimBackend
from sim.step import StepRun, main, run_step
from sim.stimulus_network import random_case
from sqdm import Device

BUILD = Path(__file__).parents[1] / "build"
TINY = replace(preset("tiny"), table_depth=128, act_nibbles=1 << 14)
DEVIATION = {"run": 0.03, "layer": 0.05}     # of the predicted cycles; these programs are short


@cache
def backend() -> SimBackend:
    return SimBackend.build(TINY, BUILD / "test_step", BUILD)


def run_random(seed: int) -> StepRun:
    rng = np.random.default_rng([seed, 11])
    case = random_case(rng, TINY, (2, 4, 6), 4, masks=True)
    block = rng.integers(0, case.network.blocks, 2).tolist() if case.network.blocks > 1 else [0, 0]
    return run_step(TINY, Device.open(backend()), NetworkStep(case.network, case.inputs, tuple(block)), 0)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_are_exact_and_predicted(seed: int) -> None:
    run = run_random(seed)
    assert run.exact, seed
    assert run.beats_predicted, (seed, run.predicted, run.counters)
    assert run.counters["layers"] == run.predicted.layers
    for name, most in DEVIATION.items():
        assert abs(run.deviation(name)) <= most, (seed, name, run.predicted, run.counters)
    for number, array in enumerate(run.predicted.array):
        kind = f"dense{number}" if number < TINY.dense else f"sparse{number - TINY.dense}"
        for cause in ("busy", "steps"):     # whatever waits
            assert run.counters[f"{kind}_{cause}"] == array[cause], (seed, kind, cause)


def test_a_wrong_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: another block than the expected one."""
    rng = np.random.default_rng([3, 12])
    case = random_case(rng, TINY, (2, 4, 6), 4)
    device = Device.open(backend())
    monkeypatch.setattr(device, "set_batch", lambda _: Device.set_batch(device, [1, 1]))
    assert not run_step(TINY, device, NetworkStep(case.network, case.inputs, (0, 2)), 0).exact


def test_the_model_refuses_a_run_with_an_error() -> None:
    rng = np.random.default_rng([4, 12])
    case = random_case(rng, TINY, (2, 4, 6), 2)
    program = tile(case.network, TINY)
    data = program.data(case.inputs, [0] * 2)
    with pytest.raises(ValueError, match="the run ends with RANGE at descriptor 0"):
        predict_program(TINY, replace(program, code=b""), data)


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in ((["--preset", "x"], "preset=x is not legal"), (["--stall", "1"], "below 1"),
                               (["--model", "digits8"], "must be one of digits16"),
                               (["--batch", "0"], "samples=0 is not legal")):
        assert main(arguments) == 2
        assert problem in capsys.readouterr().err


def test_counters_have_their_names() -> None:
    names = list(counter_events(TINY))
    assert names[:6] == ["run", "idle", "layer", "layers", "read", "written"]
    assert len(names) == 6 + 7 * TINY.arrays


def test_planned_places_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        sizes = {str(number): int(rng.integers(1, 9)) for number in range(8)}
        lives = {name: tuple(sorted(rng.integers(0, 10, 2).tolist())) for name in sizes}
        places = plan(sizes, lives, 20)
        if places is None:
            continue
        found += 1
        for name, first in places.items():
            assert 0 <= first <= 20 - sizes[name]
            for other, start in places.items():
                if name != other and lives[name][0] <= lives[other][1] and lives[other][0] <= lives[name][1]:
                    assert first + sizes[name] <= start or start + sizes[other] <= first
    assert 20 < found < 200
    assert plan({"a": 4, "b": 3}, {"a": (0, 1), "b": (1, 2)}, 6) is None
    assert plan({"a": 4, "b": 3}, {"a": (0, 1), "b": (2, 2)}, 4) == {"a": 0, "b": 0}
