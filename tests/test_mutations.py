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
from sim.benches import BENCHES, Job
from sim.toolchain import ToolError, icarus

BUILD = Path(__file__).parents[1] / "build"
SEEDS = (1, 3, 5)     # tried in turn: a bench of a few random layers need not meet every fault with each seed
# The benches' tests that run on a mutant; enough for each, and quicker than all.
TESTS = {
    "dense": "tiles_are_exact|a_late_post|a_vector_may_end|reset_forgets",
    "sparse": "tiles_are_exact|zeros_in_every_position",
    "detector": "labels_of_every",
    "scheduler": "lists_of_every",
    "fetcher": "windows_in_order",
    "addrgen": "requests_of_every",
    "ppu": "every_layer_is_exact_while",
    "engine": "layers_back_to_back_are_exact_whatever|late_weights",
}


@dataclass(frozen=True)
class Mutant:
    """A fault: in the module `module`, of the package hw unless said otherwise, the text `old`, which occurs once,
    reads `new`; `bench` must fail."""

    what: str
    bench: str
    module: str
    old: str
    new: str


MUTANTS = [
    Mutant("the next vector ends a cycle too early", "dense-4x4", "row_control",
           "gap = Signal(drain_cycles - 1)", "gap = Signal(drain_cycles - 2)"),
    Mutant("all tiles use one accumulator bank", "dense-4x4", "row_control",
           "bank.eq(bank ^ step.tile_last)", "bank.eq(bank)"),
    Mutant("a third accumulator bank is handed out", "dense-4x4", "row_control",
           "(held_after == 2)", "(held_after == 3)"),
    Mutant("a tile adds to what its bank held", "dense-4x4", "row_control",
           "control.overwrite.eq(valid & tile_first)", "control.overwrite.eq(0)"),
    Mutant("signed activations are taken as unsigned", "dense-4x4", "dense", "value[3] & a_signed", "value[3] & 0"),
    Mutant("the left border is not masked", "dense-4x4", "dense",
           "(now.mask.left, Const(-1, rows)", "(Const(-1, rows), Const(-1, rows)"),
    Mutant("lines lie a nibble too near", "dense-4x4", "dense",
           "Mux(line_now[1], self.pitch, 0)", "Mux(line_now[1], 0, 0)"),
    Mutant("the other half's codes scale a vector", "dense-4x4", "row_control",
           "self.scale_half.eq(now.step.half)", "self.scale_half.eq(drain.step.half)"),
    Mutant("beats for other memories commit a half", "dense-4x4", "weights",
           "beat.commit & ((beat.space == Space.WEIGHT) | (beat.space == Space.SCALE))", "beat.commit"),
    Mutant("a vector begins with the last one's sum", "dense-4x4", "pe_row",
           "control.clear_local[late]", "0"),
    Mutant("a weight's top bit is added", "dense-4x4", "pe_row", "part[3], 1, minus=True)", "part[3], 1)"),
    Mutant("a lane's weights come a cycle early", "dense-4x4", "pe_row", "range(1, lane % config.lanes_per_scale + 1)",
           "range(1, lane % config.lanes_per_scale)"),
    Mutant("the third tap is left out", "dense-4x4", "pe_row", "sum(pairs[1:], pairs[0])", "pairs[0] + 0"),
    Mutant("a lane is not cleared when its sum has left", "dense-4x4", "pe_row", "control.clear_out[late]", "0"),
    Mutant("the mantissa's upper bits are worth half", "dense-4x4", "pe_row", "share[3], 1), 2)", "share[3], 1), 1)"),
    Mutant("a scale loses its exponent", "dense-4x4", "pe_row", "value << number for number, value in enumerate(fine)",
           "value for number, value in enumerate(fine)"),
    Mutant("what is under way at a reset gets into a vector", "dense-4x4", "row_control",
           '{"ends": cycle > 0}', '{"ends": 0}'),

    Mutant("a vector's end is lost on the held window", "sparse-4x4", "row_queue",
           "| window.ends.as_value()", "| window.ends.as_value() & 0b110"),
    Mutant("a tile's end is lost on the held window", "sparse-4x4", "row_queue",
           "| window.ends.as_value()", "| window.ends.as_value() & 0b101"),
    Mutant("a k-tile's end is lost on the held window", "sparse-4x4", "row_queue",
           "| window.ends.as_value()", "| window.ends.as_value() & 0b011"),
    Mutant("a tile of zeros is left out", "sparse-4x4", "row_queue",
           "(nonzero | window.ends.tile_last & ~open_tile)", "nonzero"),
    Mutant("windows without nonzeros are kept", "sparse-4x4", "row_queue",
           "nonzero = window.plan.taps.any()", "nonzero = window.plan.taps.any() | 1"),
    Mutant("a nibble of 8 counts as zero", "sparse-4x4", "sparse",
           "lines[line][pixel + tap].any()", "lines[line][pixel + tap][:3].any()"),
    Mutant("a full FIFO is written", "sparse-4x4", "row_queue", "self.ready.eq(~full)", "self.ready.eq(1)"),
    Mutant("a window is taken from the queue before it is there", "sparse-8x4", "row_queue",
           "Mux(more, plan, held.plan)", "plan"),
    Mutant("a window is overwritten while it waits", "sparse-8x4", "row_queue",
           "1 << (depth - 1).bit_length()", "1 << (depth - 1).bit_length() - 1"),
    Mutant("lines lie two nibbles too near", "sparse-8x4", "align", "4 * (line << bit)", "4 * (line << bit >> 1)"),
    Mutant("pixels are read where rows were", "sparse-4x4", "sparse",
           "self.tiles.acc[pixel].eq(by_pixel[pixel])", "self.tiles.acc[pixel].eq(accs[pixel])"),
    Mutant("the skew follows the wrong tile", "sparse-8x4", "sparse", "undeal.eq(masks[read])",
           "undeal.eq(masks[given])"),
    Mutant("passes are not shifted", "sparse-4x4", "row_control",
           "(tail[2][-1] if self.sparse else 0)", "0"),
    Mutant("weights are taken as signed", "sparse-4x4", "pe_row",
           "Mux(self.w_signed, a, -a)", "Mux(1, a, -a)"),
    Mutant("a row's weights come from one half", "sparse-4x4", "sparse",
           "weights.half.eq(half)", "weights.half.eq(0)"),
    Mutant("a half is freed by its fastest row", "sparse-8x4", "sparse",
           "release.eq(Cat(finished).all())", "release.eq(Cat(finished).any())"),

    Mutant("nothing is rounded", "ppu-4x4", "formula", "rounding.eq((1 << layer.shift) >> 1)", "rounding.eq(0)"),
    Mutant("large results are not clamped", "ppu-4x4", "formula", "too_large = beyond | ", "too_large = "),
    Mutant("negative digits of R lack one", "ppu-4x4", "formula", " + correction(codes[1][0])", ""),
    Mutant("a top digit of 0 counts as 2", "ppu-4x4", "product", "Mux(top[:2].any(), ", "Mux(1, "),
    Mutant("8-bit residuals are unsigned", "ppu-4x4", "formula", "high[3] & fmt.signed", "high[3] & 0"),
    Mutant("a negative x is positive", "ppu-4x4", "formula", "upper.eq(~0)", "upper.eq(0)"),
    Mutant("strided channels begin a pixel late", "ppu-4x4", "ppu", "Mux(layer.x_strided, line_step - 1,",
           "Mux(layer.x_strided, line_step,"),
    Mutant("a strided tile is read where a plain one is", "ppu-4x4", "segments",
           "Mux(layer.x_strided, pixel << 2, pixel)", "pixel"),
    Mutant("the dead zone is one too wide", "ppu-4x4", "formula", "twice < shared.zone", "twice <= shared.zone"),
    Mutant("all samples use the first one's parameters", "ppu-4x4", "segments",
           "sample_read.addr.eq(sample)", "sample_read.addr.eq(layer.sample_first)"),
    Mutant("upsampled lines overwrite each other", "ppu-4x4", "segments", "drift + (layer.width << 1)", "drift"),
    Mutant("a segment ends with its run, though the tile ends before", "ppu-4x4", "segments",
           "Mux(ends_tile, tile_rows, run_end)", "run_end"),
    Mutant("a tile is as long as its run", "ppu-4x4", "segments",
           "ends_tile.eq(run_left >= tile_left)", "ends_tile.eq(run_left > tile_left)"),
    Mutant("tiles are taken before the lists are complete", "ppu-4x4", "ppu", "self.lists_complete & ((", "(("),
    Mutant("an array without channels is added", "ppu-4x4", "ppu", "m.If(unused[array])", "m.If(0)"),
    Mutant("rows beyond the segment are counted", "ppu-4x4", "ppu", "before.rows[row] & Mux(", "Mux("),
    Mutant("the high plane is not counted", "ppu-4x4", "formula", "clamped.any()", "clamped[:4].any()"),
    Mutant("both copies of an upsampled line are counted", "ppu-4x4", "ppu", "& ~(upsample & copy)", ""),

    Mutant("a channel ends with the first half of its pixels", "ppu-4x4", "ppu",
           "final.eq(part == last_part)", "final.eq(1)"),
    Mutant("channels of even lines have no end", "ppu-4x4", "ppu", " | to_depth & (segment.behind == layer.width)", ""),

    Mutant("labels come 30 cycles late", "detector-4x4", "detector", "ended = Signal(6) ", "ended = Signal(36) "),
    Mutant("a bin is taken whatever it holds", "detector-4x4", "detector",
           "fits = item.nonzeros < gap", "fits = gap > 0"),
    Mutant("neighbours in the histogram forget each other", "detector-4x4", "detector",
           "Mux(again, sum_before, item)", "item"),
    Mutant("a k-tile's counts go to the channels of the first one", "detector-4x4", "detector",
           "channel_now.eq(ktile_first + ", "channel_now.eq("),
    Mutant("a column goes on counting in the next k-tile", "detector-4x4", "detector",
           "Mux(last, 0, total_now)", "total_now"),

    Mutant("a run does not carry into the next row of banks", "engine-4x4", "actmem",
           "Mux(bank < first, after, row)", "row"),
    Mutant("upsampled lines lie too near", "fetcher-16x16", "fetcher", "(line + 1 - odd) // 2", "line // 2"),
    Mutant("an upsampled window begins too late", "addrgen-16x16", "addrgen", "width // 2 + 1", "1"),
    Mutant("the right border is not masked", "engine-4x4", "addrgen", "(next_mask.right, ~right_edge)",
           "(next_mask.right, 1)"),
    Mutant("both k-tiles load into one half", "engine-4x4", "weights", "self.half ^ self.commit", "self.half"),
    Mutant("a read port is granted to two users", "engine-3x5", "fetcher", "free = free & ~user.en", "free = free"),
    Mutant("labels are read before they are made", "engine-4x4", "engine", "scheduler.go.eq(~unlabelled)",
           "scheduler.go.eq(1)"),
    Mutant("an 8-bit layer goes to a dense array", "engine-4x4", "scheduler", "label.sparse | ~item.dense_ok",
           "label.sparse"),
    Mutant("work is counted in entries", "scheduler-2-3", "scheduler", "Mux(anywhere, 1, cost)", "1"),
    Mutant("an even layer follows its labels", "scheduler-2-3", "scheduler",
           "Mux(anywhere, least(range(config.arrays)), ", "Mux(0, least(range(config.arrays)), "),
    Mutant("dead channels are added", "engine-4x4", "scheduler", "chosen & ~label.dead &", "chosen &"),
    Mutant("a vector runs on where it continues elsewhere", "engine-4x4", "scheduler",
           "m.d.sync += waiting.last.eq(1)", "m.d.sync += waiting.last.eq(waiting.last)"),
    Mutant("the latest entry is forgotten", "engine-4x4", "scheduler", "waits & (taken | flush)", "waits & taken"),
    Mutant("labels go to the table that is read", "engine-4x4", "detector",
           "Cat(write_index, ~table.bit_select(layer.label_slot, 1))",
           "Cat(write_index, table.bit_select(layer.label_slot, 1))"),
]


def mutated(mutant: Mutant, package: str = "hw") -> tuple[ModuleType, ModuleType]:
    """The original module, and one made of its text with the fault."""
    original = import_module(f"{package}.{mutant.module}")
    assert original.__file__ is not None
    text = Path(original.__file__).read_text()
    found = text.count(mutant.old)
    assert found == 1, f"{package}/{mutant.module}.py has {found} x {mutant.old!r}, not one"
    faulty = ModuleType(original.__name__)
    faulty.__package__ = original.__package__
    faulty.__file__ = original.__file__
    exec(compile(text.replace(mutant.old, mutant.new), original.__file__, "exec"), faulty.__dict__)
    return original, faulty


def check_turns_red(mutant: Mutant, tests: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the bench's tests whose names match on the faulty hardware; one must fail, with some seed."""
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

    def prepare(directory: Path, seed: int) -> Job:
        return replace(bench.prepare(directory, seed), env={"COCOTB_TEST_FILTER": tests})

    name = f"{bench.name}-mutant-{mutant.what.replace(' ', '-')}"
    for seed in SEEDS:
        outcome = replace(bench, name=name, prepare=prepare).run(seed, simulator, build_dir=BUILD)
        if outcome.failed:
            break
    assert outcome.failed, f"{mutant.bench} passes with seeds {SEEDS} although {mutant.what}"
    assert "simulation" not in outcome.failed, f"the simulation broke: {outcome.failed['simulation']}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "-"))
def test_fault_turns_its_bench_red(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    check_turns_red(mutant, TESTS[mutant.bench.split("-")[0]], monkeypatch)
