"""The benches of the accelerator and of the blocks around its sequencer pass, and turn red on faults."""

import shutil
from pathlib import Path

import pytest

from sim.benches import BENCHES, Bench
from tests.test_mutations import Mutant, check_turns_red

BUILD = Path(__file__).parents[1] / "build"
SEED = 1
# One simulator each, to save time; `make sim` runs all. Icarus, where it is installed, knows unknown values.
QUICK = "icarus" if shutil.which("iverilog") else "verilator"
RUNS = [pytest.param(bench, QUICK if QUICK in bench.simulators else "verilator", id=bench.name) for bench in BENCHES
        if bench.block in ("guard", "checker", "loader", "accelerator")]
# Tests that run on a mutant.
PROGRAMS, FAILED_BEAT, SOFT_RESET, ANY = "programs_leave.*0.4", "a_failed_beat", "a_soft_reset", "."

MUTANTS = [
    (Mutant("a region is a nibble longer", "guard-4x4", "guard", "(size - offset)[", "(size - offset + 1)["),
     ANY),
    (Mutant("a short region has no end", "guard-4x4", "guard", "(place - before < short)", "1"), ANY),
    (Mutant("a write below the region is inside", "guard-7x2", "guard", "(before <= place)", "(before != place)"), ANY),

    (Mutant("what ends with its region is refused", "checker-64", "checker", "carry.eq((ahead.do == Do.SUBTRACT)",
            "carry.eq((ahead.do == Do.MOST) | (ahead.do == Do.SUBTRACT)"), ANY),
    (Mutant("a run is counted that there is not", "checker-64", "checks", "made.on(Do.SUBTRACT, named[stride])",
            "pass"), ANY),
    (Mutant("only the first block of parameters is looked at", "checker-64", "checker",
            "self.block_index + 1 < self.blocks", "self.block_index + 1 < 1"), ANY),
    (Mutant("a region is taken for its first nibble", "checker-64", "checks", "made.on(Do.SET, named[out.end])",
            "made.on(Do.SET, named[out.base])"), ANY),
    (Mutant("regions overlap on one side", "checker-64", "checker", "(~judged.also | before)", "1"), ANY),
    (Mutant("the last error is told", "checker-64", "checker", "for error in reversed(found)", "for error in found"),
     ANY),
    (Mutant("a sum is cut off", "checker-64", "checker", "SUM_BITS = 56", "SUM_BITS = 36"), ANY),
    (Mutant("a jump does the step behind it", "checker-64", "checker", "come.eq(0), here.eq(0)]",
            "come.eq(0)]"), ANY),
    (Mutant("steps go on during a product", "checker-64", "checker", "doing.eq(here & ~busy &", "doing.eq(here &"),
     ANY),

    (Mutant("centre taps go to the left", "loader-64", "loader", "Mux(job.one_tap, 1, inner[:2])", "inner[:2]"), ANY),
    (Mutant("every group completes its k-tile", "loader-64", "loader",
            "end.eq(codes & last_beat & last_inner & last_outer)", "end.eq(codes & last_beat & last_inner)"), ANY),
    (Mutant("beats do not wait for memories", "loader-64", "loader", "(skid.i.ready | ~to_memory)", "1"), ANY),
    (Mutant("a failed beat is loaded", "loader-64", "loader", "beats.valid & ~beats.payload.error", "beats.valid"),
     ANY),
    (Mutant("samples use blocks in turn", "loader-64", "loader", "Mux(job.one_block, 0, index_read.data)",
            "Mux(job.one_block, 0, number)"), ANY),
    (Mutant("a block's parameters go on after the last one's", "loader-64", "loader",
            "Mux(done, 0, param_word + 1)", "param_word + 1"), ANY),

    (Mutant("a store does not wait for layers", "accelerator-2x2", "sequencer", "m.If(layers_done & idle)",
            "m.If(idle)"), PROGRAMS),
    (Mutant("weights come from the data region", "accelerator-2x2", "sequencer",
            "read.offset.eq(conv.weights)", "read.offset.eq(conv.weights), read.of_data.eq(1)"),
     PROGRAMS),
    (Mutant("an error names the next descriptor", "accelerator-2x2", "sequencer",
            "m.d.comb += self.error_descriptor.eq(index)", "m.d.comb += self.error_descriptor.eq(index + 1)"),
     PROGRAMS),
    (Mutant("a reset does not wait for the bus", "accelerator-2x2", "accelerator",
            "with m.If(read_dma.idle & write_dma.idle)", "with m.If(1)"), SOFT_RESET),
    (Mutant("failed writes go unnoticed", "accelerator-2x2", "accelerator", "with m.Elif(write_dma.error)",
            "with m.Elif(0)"), FAILED_BEAT),
]


@pytest.mark.parametrize(("bench", "simulator"), RUNS)
def test_bench_passes(bench: Bench, simulator: str) -> None:
    bench.run(SEED, simulator, build_dir=BUILD).require()


@pytest.mark.parametrize(("mutant", "tests"), MUTANTS, ids=[mutant.what.replace(" ", "-") for mutant, _ in MUTANTS])
def test_fault_turns_its_bench_red(mutant: Mutant, tests: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_turns_red(mutant, tests, monkeypatch)
