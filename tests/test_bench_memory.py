"""Every bench of the memory path and of its control passes, and turns red on designs broken on purpose."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hw import gen
from sim.benches import BENCHES, Bench
from tests.fifo import BUILD

SEED = 1
# File and class of each block.
BLOCKS = {
    "actmem": ("actmem", "ActivationMemory"),
    "addrgen": ("addrgen", "AddressGenerator"),
    "arbiter": ("fetcher", "PortArbiter"),
    "detector": ("detector", "SparsityDetector"),
    "fetcher": ("fetcher", "WindowFetcher"),
    "line_weights": ("weights", "LineWeights"),
    "readout": ("readout", "Readout"),
    "scales": ("weights", "ScaleMemory"),
    "scheduler": ("scheduler", "Scheduler"),
    "tap_weights": ("weights", "TapWeights"),
    "weight_halves": ("weights", "WeightHalves"),
}
MEMORY_BENCHES = [bench for bench in BENCHES if bench.block in BLOCKS]
RUNS = [pytest.param(bench, simulator, id=f"{bench.name}-{simulator}")
        for bench in MEMORY_BENCHES for simulator in bench.simulators]
# A compilation takes longer than the simulation of a mutant, and Icarus needs next to none.
QUICK = "icarus" if shutil.which("iverilog") else "verilator"

# Block, a text in its source, what takes its place, and what the bench says of it.
MUTANTS = [
    ("actmem", "bank < first", "bank <= first", "__data is"),
    ("actmem", "memory.read_port()", "memory.read_port(transparent_for=(writer,))", "__data is"),
    ("actmem", "Mux(low <= place, own, after)",
     "own", "__data is"),
    ("arbiter", "reversed(list(self.user)[:-1])", "list(self.user)[:-1]", "memory__addr is"),
    ("arbiter", "granted[number] & self.memory.valid", "granted.any() & self.memory.valid", "__valid is"),
    ("weight_halves", "held != 2", "held != 3", "free is"),
    ("weight_halves", "loaded + self.commit - self.take", "loaded + self.commit - self.release", "ready is"),
    ("line_weights", "Cat(word, load.half), places", "word, places", "weights is"),
    ("line_weights", "self.select[0], words[0]", "self.select[2], words[0]", "weights is"),
    ("tap_weights", "Mux(half, LINE_TAPS, 0)", "half", "weights is"),
    ("scales", "load.en & (load.beat.space == space)", "load.en", "codes is"),
    ("scales", "reader.addr.eq(Cat(self.addr, self.half)), self.codes", "reader.addr.eq(self.addr), self.codes",
     "codes is"),
    ("addrgen", "layer.width <= config.window_width", "layer.width < config.window_width", "of stream requests"),
    ("addrgen", "(~last_index | self.list_complete) & ", "", "requests"),
    ("addrgen", "& room & (~fresh_ktile | self.ktile_ready)", "& room", "before its weights are loaded"),
    ("addrgen", "self.list_complete & self.ktile_ready", "self.list_complete", "before its weights are loaded"),
    ("addrgen", "next_valid & (~tile_valid | tile_done)", "next_valid & ~tile_valid", "cycles for"),
    ("addrgen", "fresh_ktile = Signal(init=1)", "fresh_ktile = Signal(init=1, reset_less=True)", "0 k-tiles taken"),
    ("fetcher", "stage in range(READ_CYCLES)", "stage in range(READ_CYCLES - 1)", "of stream windows"),
    ("fetcher", "self.idle.eq(taken == 0)", "self.idle.eq(~self.windows.valid)", "idle is"),
    ("fetcher", "taken = Signal(range(config.fetch_depth + 1))",
     "taken = Signal(range(config.fetch_depth + 1), reset_less=True)", "idle is"),
    ("readout", "taken != config.fetch_depth", "taken <= config.fetch_depth", "of stream beats"),
    ("readout", "skid.o.payload << (", "skid.o.payload << 0 * (", "of memory is of address"),
    ("scheduler", "label.sparse | ~item.dense_ok", "label.sparse", "of array"),
    ("scheduler", "loads[array] < least_load", "loads[array] <= least_load", "of array"),
    ("scheduler", "~taken & chosen & item.entry.last", "taken & chosen & item.entry.last", "of array"),
    ("scheduler", "walking & self.go & (index != layer", "walking & (index != layer", "of array"),
    ("scheduler", "(read | came.any() | chosen)", "(read | came.any())", "complete after run"),
    ("detector", "fits = item.nonzeros < gap", "fits = item.nonzeros <= gap", "label of channel"),
    ("detector", "since + 1 == self.policy.n", "since == self.policy.n", "label of channel"),
    ("detector", "table ^ (1 << layer.label_slot)", "table ^ 1", "label of channel"),
]


@pytest.mark.parametrize(("bench", "simulator"), RUNS)
def test_bench_passes(bench: Bench, simulator: str) -> None:
    if simulator == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")
    bench.run(SEED, simulator, build_dir=BUILD).require()


def mutated(block: str, old: str, new: str) -> type:
    """The block's class, made of its source with one place of it changed."""
    stem, name = BLOCKS[block]
    path = Path(__file__).parents[1] / "hw" / f"{stem}.py"
    source = path.read_text()
    assert source.count(old) == 1, f"{old!r} is in hw/{stem}.py {source.count(old)} times: change the mutant"
    module = ModuleType(f"hw.{stem}")
    module.__package__ = "hw"
    exec(compile(source.replace(old, new), path, "exec"), module.__dict__)
    return module.__dict__[name]


@pytest.mark.parametrize(("number", "block", "old", "new", "reason"),
                         [(number, *mutant) for number, mutant in enumerate(MUTANTS)])
def test_bench_turns_red_on_mutant(monkeypatch: pytest.MonkeyPatch, number: int, block: str, old: str, new: str,
                                   reason: str) -> None:
    """The bench names what is wrong."""
    cls = mutated(block, old, new)
    original = getattr(gen, cls.__name__)
    monkeypatch.setattr(gen, cls.__name__, cls)
    if gen.BLOCKS[block] is original:
        monkeypatch.setitem(gen.BLOCKS, block, cls)
    bench = next(bench for bench in MEMORY_BENCHES if bench.block == block)
    outcome = replace(bench, name=f"{bench.name}-mutant{number}").run(SEED, QUICK, build_dir=BUILD)
    with pytest.raises(AssertionError, match=f"seed {SEED}; log in"):
        outcome.require()
    assert any(reason in told for told in outcome.failed.values()), outcome.failed
