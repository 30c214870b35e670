"""Every bench of the memory path passes, and turns red on designs that are broken on purpose."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hw import gen
from sim.benches import BENCHES, Bench
from sim.stimulus_memory import ARBITER_USERS
from tests.fifo import BUILD

SEED = 1
# File and class of each block.
BLOCKS = {
    "actmem": ("actmem", "ActivationMemory"),
    "addrgen": ("addrgen", "AddressGenerator"),
    "arbiter": ("fetcher", "PortArbiter"),
    "fetcher": ("fetcher", "WindowFetcher"),
    "readout": ("readout", "Readout"),
    "weights": ("weights", "WeightMemory"),
}
MEMORY_BENCHES = [bench for bench in BENCHES if bench.block in BLOCKS]
RUNS = [pytest.param(bench, simulator, id=f"{bench.name}-{simulator}")
        for bench in MEMORY_BENCHES for simulator in bench.simulators]
# A compilation takes longer than the simulation of a mutant, and Icarus needs next to none.
QUICK = "icarus" if shutil.which("iverilog") else "verilator"

# Block, a text in its source, what takes its place, and what the bench says of it.
MUTANTS = [
    ("actmem", "bank < first", "bank <= first", "read__0__data is"),
    ("actmem", "read.valid.eq(banked)", "read.valid.eq(read.en)", "read__0__valid is"),
    ("actmem", "memory.read_port()", "memory.read_port(transparent_for=(writer,))", "read__0__data is"),
    ("actmem", "doubled_mask[:config.row_nibbles] | doubled_mask[config.row_nibbles:]",
     "doubled_mask[:config.row_nibbles]", "read__0__data is"),
    ("arbiter", "reversed(list(self.user)[:-1])", "list(self.user)[:-1]", "memory__addr is"),
    ("arbiter", "granted[number] & self.memory.valid", "granted.any() & self.memory.valid", "__valid is"),
    ("arbiter", "free = free & ~user.en", "free = free & 1", "__ready is"),
    ("weights", "held != 2", "held != 3", "load_ready is"),
    ("weights", "Cat(word, loading)", "Cat(word, loading & 0)", " is "),
    ("weights", "self.load_en & (load.space == space)", "self.load_en", " is "),
    ("weights", "loading.eq(loading ^ commit)", "loading.eq(loading ^ self.take)", " is "),
    ("addrgen", "entry.weight + ordinal", "entry.weight + line", "of stream requests"),
    ("addrgen", "inside & ~bottom_edge", "inside", "of stream requests"),
    ("addrgen", "next_e0 - 1 - layer.width", "next_e0 - layer.width", "of stream requests"),
    ("addrgen", "& room & (~fresh_ktile | self.ktile_ready)", "& room", "before its weights are loaded"),
    ("addrgen", "(skips != 0) & self.ktile_ready", "skips != 0", "before its weights are loaded"),
    ("addrgen", "next_valid & (~tile_valid | tile_done)", "next_valid & ~tile_valid", "cycles for"),
    ("addrgen", "fresh_ktile = Signal(init=1)", "fresh_ktile = Signal(init=1, reset_less=True)", "0 k-tiles taken"),
    ("fetcher", "taken != config.fetch_depth", "taken <= config.fetch_depth", "of stream windows"),
    ("fetcher", "READ_CYCLES = 2", "READ_CYCLES = 1", "of stream windows"),
    ("fetcher", "self.weight_en.eq(issue)", "self.weight_en.eq(self.requests.valid)", "weight_en is"),
    ("fetcher", "self.idle.eq(taken == 0)", "self.idle.eq(~self.windows.valid)", "idle is"),
    ("fetcher", "taken = Signal(range(config.fetch_depth + 1))",
     "taken = Signal(range(config.fetch_depth + 1), reset_less=True)", "idle is"),
    ("readout", "taken != config.fetch_depth", "taken <= config.fetch_depth", "of stream beats"),
    ("readout", "self.addresses.payload << (", "self.addresses.payload << 0 * (", "of memory is of address"),
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
    monkeypatch.setitem(gen.BLOCKS, block, (lambda config: cls(config, ARBITER_USERS)) if block == "arbiter" else cls)
    bench = next(bench for bench in MEMORY_BENCHES if bench.block == block)
    outcome = replace(bench, name=f"{bench.name}-mutant{number}").run(SEED, QUICK, build_dir=BUILD)
    with pytest.raises(AssertionError, match=f"seed {SEED}; log in"):
        outcome.require()
    assert any(reason in told for told in outcome.failed.values()), outcome.failed
