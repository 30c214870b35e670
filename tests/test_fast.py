"""The fast lane carries beats exactly, repeats itself, and says what is wrong."""

import random

import numpy as np
import pytest

from sim import toolchain
from sim.fast import FastSim, Hang
from sim.words import from_words, to_words
from tests.fifo import BUILD, WIDTH, Fault, emit


@pytest.fixture(scope="module")
def verilog(tmp_path_factory):
    return emit(tmp_path_factory.mktemp("fifo"))


@pytest.fixture
def sim(verilog):
    with FastSim.build(verilog, "fifo", BUILD) as sim:
        sim.reset()
        yield sim


def beats(count):
    generator = random.Random(count)
    return to_words([generator.getrandbits(WIDTH) for _ in range(count)], WIDTH)


def transfer(sim, data, stall):
    sim.send("i", data, stall)
    received = sim.receive("o", len(data), stall)
    return sim.run(100 * len(data)), received


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.9])
def test_carries_every_beat_in_order(sim, stall):
    data = beats(500)
    cycles, received = transfer(sim, data, stall)
    assert (received == data).all()
    assert cycles >= 500 / (1 - stall) * 0.9


def test_full_rate_without_stalls(sim):
    cycles, _ = transfer(sim, beats(1000), stall=0.0)
    assert cycles <= 1005


def test_a_seed_repeats_every_cycle(verilog):
    cycles = []
    for seed in (1, 1, 2):
        with FastSim.build(verilog, "fifo", BUILD, seed=seed) as sim:
            sim.reset()
            cycles.append(transfer(sim, beats(500), stall=0.5)[0])
    assert cycles[0] == cycles[1] != cycles[2]


def test_simulations_are_independent(sim, verilog):
    sim.poke("fault", Fault.LOSE.value)
    with FastSim.build(verilog, "fifo", BUILD) as other:
        assert other.peek("fault") == 0


def test_mutants_turn_red(sim):
    data = beats(100)
    sim.poke("fault", Fault.CORRUPT.value)
    _, received = transfer(sim, data, stall=0.3)
    wrong = (received != data).any(axis=1)
    assert (wrong == (data[:, 0] & np.uint64(7) == 5)).all()

    sim.poke("fault", Fault.LOSE.value)
    sim.send("i", data, stall=0.0)
    sim.receive("o", len(data), stall=0.9)
    with pytest.raises(Hang, match=r"waited 5000 cycles .* i sent 100 of 100 beats .*; o received \d+ of 100 beats"):
        sim.run(5000)


def test_stops_when_a_port_is_high(sim):
    sim.send("i", beats(10))
    assert sim.run(100, until="full") == 6  # five beats go in, then the FIFO is seen full
    assert sim.pending("i") == 5
    with pytest.raises(Hang, match="waited 10 cycles for the streams in vain: i sent 5 of 10 beats"):
        sim.run(10)


def test_reset_returns_an_offered_beat_to_the_queue(sim):
    data = beats(8)
    sim.send("i", data)
    sim.run(100, until="full")
    sim.reset()
    received = sim.receive("o", 3)
    sim.run(100)
    assert (received == data[5:]).all()


def test_payload_is_garbage_between_beats(sim):
    data = beats(1)
    sim.send("i", data)
    sim.step()
    assert sim.peek("i__payload") == from_words(data)[0] ^ ((1 << WIDTH) - 1)


def test_peek_sees_a_poke_through_logic(sim):
    assert sim.peek("i__ready") == 1
    sim.send("i", beats(10))
    sim.run(100, until="full")
    assert sim.peek("i__ready") == 0
    sim.poke("fault", Fault.LOSE.value)
    assert sim.peek("i__ready") == 1


def test_watch_records_each_cycle(sim):
    sim.watch(["full", "i__valid"], 20)
    sim.send("i", beats(5))
    sim.step(10)
    watched = sim.watched()
    assert watched.shape == (10, 2)
    assert watched[:, 1].tolist() == [1] * 5 + [0] * 5
    assert watched[:, 0].tolist() == [0] * 5 + [1] * 5


def test_trace(verilog, tmp_path):
    with FastSim.build(verilog, "fifo", BUILD, waves=True) as sim:
        sim.trace(tmp_path / "dump.vcd")
        sim.reset()
        transfer(sim, beats(5), stall=0.0)
    assert "i__payload" in (tmp_path / "dump.vcd").read_text()


def test_trace_needs_a_build_with_waves(sim, tmp_path):
    with pytest.raises(RuntimeError, match="build with waves=True"):
        sim.trace(tmp_path / "dump.vcd")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda sim: sim.poke("o__valid", 1), ValueError, "o__valid is an output"),
        (lambda sim: sim.poke("fault", 8), ValueError, "0x8 does not fit in the 3 bits of fault"),
        (lambda sim: sim.peek("nothing"), KeyError, "no port 'nothing'"),
        (lambda sim: sim.send("o", beats(1)), KeyError, "'o' is not a stream into the design"),
        (lambda sim: sim.receive("i", 1), KeyError, "'i' is not a stream out of the design"),
        (lambda sim: sim.send("i", beats(1), stall=1.0), ValueError, "stall is a probability from 0 to below 1"),
        (lambda sim: sim.send("i", np.zeros((3, 1), np.uint64)), ValueError, r"expected shape \[beats, 2\]"),
        (lambda sim: sim.send("i", np.zeros((3, 2), np.int64)), TypeError, "expected an array of uint64, got int64"),
        (lambda sim: sim.send("i", np.full((3, 2), 64, np.uint64)), ValueError, "beat 0 does not fit in 70 bits"),
        (lambda sim: (sim.send("i", beats(9)), sim.send("i", beats(9))), RuntimeError, "stream i has 9 beats left"),
        (lambda sim: sim.run(10), ValueError, "nothing to wait for"),
        (lambda sim: sim.run(10, until="fault"), ValueError, "one-bit port, fault has 3 bits"),
        (lambda sim: sim.watch(["i__payload"], 1), ValueError, "at most 64 bits, i__payload has 70"),
    ],
)
def test_refusals(sim, call, error, message):
    with pytest.raises(error, match=message):
        call(sim)


def test_missing_compiler_is_one_line(verilog, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sim.toolchain.fast_compiler", toolchain.system_compiler.__wrapped__)
    with pytest.raises(toolchain.ToolError, match=r"^no C\+\+ compiler found: install g\+\+ .*\Z"):
        FastSim.build(verilog, "fifo", tmp_path)


def test_broken_verilog_is_refused(tmp_path):
    broken = tmp_path / "broken.v"
    broken.write_text("module broken(clk, rst);\n  input clk;\n  input rst;\n  assign = 1;\nendmodule\n")
    with pytest.raises(toolchain.ToolError, match=r"verilating broken.v failed[\s\S]*syntax error"):
        FastSim.build(broken, "broken", tmp_path)
    assert not list((tmp_path / "fast").glob("*/libsim.so"))


def test_words_of_any_width():
    values = [0, 1, (1 << 130) - 1, 1 << 64]
    assert from_words(to_words(values, 130)) == values
    with pytest.raises(ValueError, match="value 1 is 0x8, which does not fit in 3 unsigned bits"):
        to_words([7, 8], 3)
