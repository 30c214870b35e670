"""The benches can fail: each deliberate fault in the hardware's source turns its bench red.

A fault is a substitution in the text of a module of `hw`. The mutated class takes the original's place wherever the
generator uses it, the block is emitted, and its bench runs on Icarus, which compiles in no time (on Verilator where
there is no Icarus).
"""

import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hw import gen
from sim.benches import BENCHES
from sim.toolchain import ToolError, icarus

BUILD = Path(__file__).parents[1] / "build"
SEED = 1


@dataclass(frozen=True)
class Mutant:
    """A fault: in the module hw.`module`, the text `old`, which occurs once, reads `new`; `bench` must fail."""

    what: str
    bench: str
    module: str
    old: str
    new: str


MUTANTS = [
    Mutant("the next vector ends a cycle too early", "dense-4x4", "dense",
           "gap.eq(drain_cycles - 1)", "gap.eq(drain_cycles - 2)"),
    Mutant("all tiles use one accumulator bank", "dense-4x4", "dense", "bank.eq(bank ^ ends_tile)", "bank.eq(bank)"),
    Mutant("a third accumulator bank is handed out", "dense-4x4", "dense", "(held == 2)", "(held == 3)"),
    Mutant("a tile adds to what its bank held", "dense-4x4", "dense",
           "control.overwrite.eq(overwrite)", "control.overwrite.eq(0)"),
    Mutant("signed activations are taken as unsigned", "dense-4x4", "dense",
           "nibble[3] & window.a_signed", "nibble[3] & 0"),
    Mutant("the border mask is ignored", "dense-4x4", "dense", " & window.mask[tap][row].replicate(4)", ""),
    Mutant("a vector begins with the last one's sum", "dense-4x4", "pe_row", "Mux(control.first, 0, local)", "local"),
    Mutant("a scale loses its exponent", "dense-4x4", "pe_row", "scaled << control.shift_by[unit]", "scaled"),
    Mutant("nothing is rounded", "ppu-4x4", "ppu", "rounding.eq((1 << layer.shift) >> 1)", "rounding.eq(0)"),
    Mutant("large results are not clamped", "ppu-4x4", "ppu", "m.Elif(shifted > most)", "m.Elif(shifted != shifted)"),
    Mutant("an 8-bit residual is unsigned", "ppu-4x4", "ppu",
           "res_high[3] & layer.res_format.signed", "res_high[3] & 0"),
    Mutant("the dead zone is one too wide", "ppu-4x4", "ppu",
           "magnitude < layer.dead_zone", "magnitude <= layer.dead_zone"),
    Mutant("all samples use the first one's parameters", "ppu-4x4", "ppu",
           "sample_read.addr.eq(sample)", "sample_read.addr.eq(layer.sample_first)"),
    Mutant("the residual is read though the port is taken", "ppu-4x4", "ppu",
           "(self.residual.ready | ~reads)", "1"),
    Mutant("a run does not carry into the next row of banks", "engine-4x4", "actmem", "row + (bank < first)", "row"),
    Mutant("the right border is not masked", "engine-4x4", "addrgen", 'inside_line & tile["right"]', "inside_line"),
    Mutant("both k-tiles load into one half", "engine-4x4", "weights", "Cat(word, loading)", "Cat(word, loading & 0)"),
    Mutant("a read port is granted to two users", "engine-3x5", "fetcher", "free = free & ~user.en", "free = free"),
]


def mutated(mutant: Mutant) -> tuple[ModuleType, ModuleType]:
    """The original module, and one made of its text with the fault."""
    original = import_module(f"hw.{mutant.module}")
    assert original.__file__ is not None
    text = Path(original.__file__).read_text()
    assert text.count(mutant.old) == 1, f"hw/{mutant.module}.py has {text.count(mutant.old)} x {mutant.old!r}, not one"
    faulty = ModuleType(original.__name__)
    faulty.__package__ = original.__package__
    exec(compile(text.replace(mutant.old, mutant.new), original.__file__, "exec"), faulty.__dict__)
    return original, faulty


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "-"))
def test_fault_turns_its_bench_red(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    original, faulty = mutated(mutant)
    users = [module for name, module in sys.modules.items() if name.startswith("hw.")]
    for name in original.__all__:
        sound, broken = getattr(original, name), getattr(faulty, name)
        for user in users:
            if getattr(user, name, None) is sound:
                monkeypatch.setattr(user, name, broken)
        for block, made in gen.BLOCKS.items():
            if made is sound:
                monkeypatch.setitem(gen.BLOCKS, block, broken)
    try:
        icarus()
        simulator = "icarus"
    except ToolError:
        simulator = "verilator"
    bench = next(bench for bench in BENCHES if bench.name == mutant.bench)
    number = MUTANTS.index(mutant)
    outcome = replace(bench, name=f"{bench.name}-mutant{number}").run(SEED, simulator, build_dir=BUILD)
    assert outcome.failed, f"{mutant.bench} passes although {mutant.what}"
    assert "simulation" not in outcome.failed, f"the simulation broke: {outcome.failed['simulation']}"
