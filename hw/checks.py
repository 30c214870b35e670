"""The descriptor checker's program: what `hw.checker` does for each opcode, made from the tables of `golden.program`.

The fields and their limits are those of `golden.program.descriptor`; docs/program.md lists the errors. A field is
compared where it lies in its word, with a limit that is shifted there, so that fields need no shifting to the right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

from golden.program.descriptor import (
    ALIGNED,
    ALIGNMENT,
    BLOCK_LOG2_LEAST,
    FIELDS,
    LIMITS,
    REGIONS,
    TRANSFORMS,
    WORDS,
    ErrorCode,
    Field,
    Opcode,
)

from .config import Config
from .interfaces import Transform

__all__ = ["ALL", "SHIFTS", "Do", "Program", "Source", "When", "make_program", "step_layout"]

ALL = (1 << 32) - 1
NO_ERROR = 0
SHIFTS = (0, 16, 20)    # of a word to the right


class Do(enum.Enum, shape=4):
    """What a step does with its operand and the total."""

    END = 0
    JUMP = 1        # to the step `word` of 32, `mask`
    NEXT_BLOCK = 2  # as JUMP, if there is another parameter block; it becomes the one that is looked at
    TEST = 3        # the flag says whether the operand is not 0
    ZERO = 4        # wrong if the operand is not 0
    SET = 5         # total = operand
    ADD = 6
    SUBTRACT = 7
    MOST = 8        # wrong if total > operand
    LEAST = 9       # wrong if total < operand
    FACTOR = 10     # the first factor of a product
    TAKE = 11       # the total is the first factor; total = 0
    TIMES = 12      # total += first factor * operand
    SHIFTED = 13    # total += first factor << operand
    KEEP_WEIGHT = 14    # the total is the number of beats of the weights
    KEEP_BLOCK = 15     # and that of a parameter block


class Source(enum.Enum, shape=3):
    """Where an operand comes from; bits that are not set in `mask` are 0."""

    WORD = 0
    ONES = 1        # so that the operand is `mask`
    REGION = 2      # bytes of the program region for layers, of the data region for others
    BLOCKS = 3      # parameter blocks of the batch
    BLOCK = 4       # number of the one that is looked at


class When(enum.Enum, shape=2):
    """Whether a step is done."""

    ALWAYS = 0
    IF = 1          # the flag is set
    UNLESS = 2


def step_layout() -> data.StructLayout:
    """A step.

    Members
    -------
    do : Do
    source : Source
    when : When
    word : 5 bits
        Word of the descriptor.
    shift : 2 bits
        Place in `SHIFTS`.
    also : 1 bit
        Wrong only if the comparison before was wrong too.
    error : 3 bits
        What is wrong then; 0 for nothing.
    mask : 32 bits
    """
    return data.StructLayout({"do": Do, "source": Source, "when": When, "word": 5, "shift": 2, "also": 1, "error": 3,
                              "mask": unsigned(32)})


@dataclass
class Program:
    """Steps, each a value of `step_layout`, and where an opcode's begin."""

    steps: list[int] = field(default_factory=list)
    starts: dict[Opcode, int] = field(default_factory=dict)

    def add(self, do: Do, mask: int = ALL, *, source: Source = Source.ONES, when: When = When.ALWAYS, word: int = 0,
            shift: int = 0, also: bool = False, error: int = NO_ERROR) -> None:
        """Append a step; its operand is `mask` unless there is another source."""
        constant = step_layout().const({
            "do": do, "source": source, "when": when, "word": word, "shift": SHIFTS.index(shift), "also": also,
            "error": error, "mask": mask})
        self.steps.append(constant.as_value().value)

    def on(self, do: Do, item: Field, mask: int = ALL, *, when: When = When.ALWAYS, shift: int = 0, also: bool = False,
           error: int = NO_ERROR) -> None:
        """Append a step whose operand is a field, where it lies in its word, or shifted to the right by `shift`."""
        bits = (1 << item.bits) - 1 << item.lsb >> shift
        self.add(do, bits & mask, source=Source.WORD, when=when, word=item.word, shift=shift, also=also, error=error)

    def unused(self, words: Iterator[int] | range, fields: tuple[Field, ...]) -> None:
        """Append the steps that find bits that are set in no field, or that make a field no multiple of 16."""
        for word in words:
            used = 0
            for item in fields:
                bits = (1 << item.bits) - 1 << 32 * item.word + item.lsb
                if item.name in ALIGNED:
                    bits &= ~(ALIGNMENT - 1 << 32 * item.word + item.lsb)
                used |= bits >> 32 * word & ALL
            if used != ALL:
                self.add(Do.ZERO, ALL ^ used, source=Source.WORD, word=word, error=ErrorCode.RESERVED)


def make_program(config: Config) -> Program:
    """Return the checks of all opcodes for a configuration.

    Opcodes share what they have in common: STORE goes on as LOAD, both layers go on alike, and END, BATCH and LOAD end
    with the same words that must be 0.
    """
    made = Program()
    named = {code: {item.name: item for item in FIELDS[code]} for code in Opcode}
    word_of = {code: max(item.word for item in FIELDS[code]) + 1 for code in (Opcode.END, Opcode.BATCH, Opcode.LOAD)}

    # LOAD and STORE; the flag of STORE is wrong in LOAD's first word.
    made.starts[Opcode.STORE] = 0
    made.unused(range(1), FIELDS[Opcode.STORE])
    made.starts[Opcode.LOAD] = len(made.steps)
    made.unused(range(word_of[Opcode.LOAD]), FIELDS[Opcode.LOAD])
    _limits(made, config, FIELDS[Opcode.LOAD])
    _runs(made, config, named[Opcode.LOAD])
    end = len(made.steps)
    made.add(Do.JUMP, 0)    # to the words at the end, below

    # Layers: their own, then what both have.
    both = tuple(item for item in FIELDS[Opcode.CONV] if item in FIELDS[Opcode.ELEMENTWISE])
    jumps = []
    for code in (Opcode.CONV, Opcode.ELEMENTWISE):
        made.starts[code] = len(made.steps)
        made.unused(range(WORDS), FIELDS[code])
        _limits(made, config, tuple(item for item in FIELDS[code] if item not in both))
        _regions(made, config, code)
        if code == Opcode.CONV:
            _conv(made, config, named[code])
        else:
            made.on(Do.TEST, named[code]["x_strided"])
            _one_of(made, named[code]["width"], config.strided_widths)
        jumps.append(len(made.steps))
        made.add(Do.JUMP, 0)
    for place in jumps:
        _aim(made, place)
    _limits(made, config, both)
    _layer(made, config, named[Opcode.CONV])
    made.add(Do.END)

    # BATCH, and END, whose words from BATCH's first one on are all unused.
    made.starts[Opcode.BATCH] = len(made.steps)
    made.unused(range(word_of[Opcode.BATCH]), FIELDS[Opcode.BATCH])
    _limits(made, config, FIELDS[Opcode.BATCH])
    _batch(made, config, named[Opcode.BATCH])
    jump = len(made.steps)
    made.add(Do.JUMP, 0)
    made.starts[Opcode.END] = len(made.steps)
    made.unused(range(word_of[Opcode.BATCH]), FIELDS[Opcode.END])
    _aim(made, jump)
    made.unused(range(word_of[Opcode.BATCH], word_of[Opcode.LOAD]), FIELDS[Opcode.END])
    _aim(made, end)
    made.unused(range(word_of[Opcode.LOAD], WORDS), FIELDS[Opcode.END])
    made.add(Do.END)
    return made


def _aim(made: Program, place: int) -> None:
    """Let the jump at a place lead to the next step."""
    target = {"do": Do.JUMP, "source": Source.ONES, "mask": len(made.steps)}
    made.steps[place] = step_layout().const(target).as_value().value


def _limits(made: Program, config: Config, fields: tuple[Field, ...]) -> None:
    """Smallest and largest values of fields."""
    for item in fields:
        limit = LIMITS.get(item.name)
        if limit is None:
            continue
        low, high = limit.low, limit.high(config)
        if low > 0 or high < (1 << item.bits) - 1:
            made.on(Do.SET, item)
        if low > 0:
            made.add(Do.LEAST, low << item.lsb, error=ErrorCode.SIZE)
        if high < (1 << item.bits) - 1:
            made.add(Do.MOST, high << item.lsb, error=ErrorCode.SIZE)


def _one_of(made: Program, item: Field, legal: tuple[int, ...]) -> None:
    """If the flag is set, the field must have one of these values, in ascending order; it is at least 1."""
    made.on(Do.SET, item)
    for below, above in zip((0, *legal), (*legal, 1 << item.bits), strict=True):    # wrong if between two of them
        made.add(Do.MOST, below << item.lsb)
        made.add(Do.LEAST, above << item.lsb, when=When.IF, also=True, error=ErrorCode.SIZE)


def _batch(made: Program, config: Config, named: Mapping[str, Field]) -> None:
    """No more blocks than samples, and the batch table ends within the data region."""
    made.on(Do.SET, named["blocks"], shift=16)
    made.on(Do.MOST, named["samples"], error=ErrorCode.BATCH)
    made.on(Do.ADD, named["samples"])
    made.add(Do.TAKE)
    made.add(Do.TIMES, config.bus_bits // 8)
    made.on(Do.ADD, named["offset"])
    made.add(Do.MOST, source=Source.REGION, error=ErrorCode.RANGE)


def _runs(made: Program, config: Config, named: Mapping[str, Field]) -> None:
    """The last run of a transfer ends within the memory on chip, and within the data region."""
    for stride, first, beat in (("chip_stride", "chip_first", 1), ("stride", "offset", config.bus_bits // 8)):
        made.on(Do.SET, named[first])
        made.on(Do.FACTOR, named["beats"])
        made.add(Do.TIMES, beat)
        made.on(Do.FACTOR, named[stride])
        made.on(Do.TIMES, named["runs"])
        made.on(Do.SUBTRACT, named[stride])
        if first == "offset":
            made.add(Do.MOST, source=Source.REGION, error=ErrorCode.RANGE)
        else:
            made.add(Do.MOST, config.act_nibbles // config.bus_nibbles, error=ErrorCode.RANGE)


def _regions(made: Program, config: Config, code: Opcode) -> None:
    """Regions of activation memory lie in it, and none that is read overlaps one that is written."""
    named = {item.name: item for item in FIELDS[code]}
    for region in REGIONS[code]:
        made.on(Do.SET, named[region.base])
        made.on(Do.MOST, named[region.end], error=ErrorCode.RANGE)
        made.on(Do.SET, named[region.end])
        made.add(Do.MOST, config.act_nibbles, error=ErrorCode.RANGE)
    for out in REGIONS[code]:
        for other in REGIONS[code]:
            if out.written and not other.written:
                made.on(Do.SET, named[out.end])
                made.on(Do.MOST, named[other.base])
                made.on(Do.SET, named[other.end])
                made.on(Do.MOST, named[out.base], also=True, error=ErrorCode.OVERLAP)


def _conv(made: Program, config: Config, named: Mapping[str, Field]) -> None:
    """What only a convolution has: an upsampled map, channel table and weights."""
    beat = config.bus_bits // 8
    made.on(Do.TEST, named["upsampled"])
    _one_of(made, named["width"], config.upsampled_widths)
    made.on(Do.ZERO, named["height"], 1 << named["height"].lsb, when=When.IF, error=ErrorCode.SIZE)
    made.on(Do.SET, named["table"])
    made.on(Do.FACTOR, named["table_count"])
    made.add(Do.TIMES, beat)
    made.add(Do.MOST, source=Source.REGION, error=ErrorCode.RANGE)

    made.on(Do.TEST, named["one_tap"])      # beats of a k-tile
    made.add(Do.SET, 0)
    made.on(Do.FACTOR, named["words"])
    made.add(Do.TIMES, config.tap_beats, when=When.IF)
    made.on(Do.FACTOR, named["words"])
    made.add(Do.TIMES, 3 * config.tap_beats, when=When.UNLESS)
    made.on(Do.FACTOR, named["groups"], shift=20)
    made.add(Do.TIMES, config.lanes_per_scale * config.scale_beats)
    made.add(Do.TAKE)                       # of all
    made.on(Do.TIMES, named["k_tiles"])
    made.add(Do.KEEP_WEIGHT)
    made.add(Do.TAKE)
    made.add(Do.TIMES, beat)
    made.on(Do.ADD, named["weights"])
    made.add(Do.MOST, source=Source.REGION, error=ErrorCode.RANGE)


def _layer(made: Program, config: Config, named: Mapping[str, Field]) -> None:
    """What both kinds of layer have: transform, labels, parameters, and these for each block of the batch."""
    made.on(Do.SET, named["transform"])
    made.add(Do.MOST, TRANSFORMS - 1 << named["transform"].lsb, error=ErrorCode.RESERVED)
    made.on(Do.SET, named["block_log2"])
    made.add(Do.LEAST, BLOCK_LOG2_LEAST << named["block_log2"].lsb, error=ErrorCode.RESERVED)

    made.on(Do.TEST, named["transform"], Transform.SPACE_TO_DEPTH.value << named["transform"].lsb)
    made.on(Do.SET, named["label_first"])
    made.on(Do.ADD, named["outputs"])
    made.on(Do.FACTOR, named["outputs"])
    made.add(Do.TIMES, 3, when=When.IF)
    made.on(Do.TEST, named["detect"])
    made.add(Do.MOST, config.label_depth, when=When.IF, error=ErrorCode.SIZE)

    made.add(Do.SET, source=Source.BLOCKS)
    made.add(Do.LEAST, 1, error=ErrorCode.BATCH)
    made.on(Do.TEST, named["one_block"])
    made.add(Do.SET, 0)
    made.on(Do.FACTOR, named["outputs"])
    made.add(Do.TIMES, source=Source.BLOCKS, when=When.UNLESS)
    made.add(Do.MOST, config.param_depth // 2, error=ErrorCode.SIZE)
    made.add(Do.SET, 0)
    made.on(Do.FACTOR, named["outputs"])
    made.add(Do.TIMES, config.param_beats)
    made.add(Do.KEEP_BLOCK)

    again = len(made.steps)
    made.on(Do.SET, named["params"])
    made.on(Do.FACTOR, named["outputs"])
    made.add(Do.TIMES, config.param_beats * config.bus_bits // 8)
    made.add(Do.FACTOR, source=Source.BLOCK)
    made.on(Do.SHIFTED, named["block_log2"], shift=16, when=When.UNLESS)
    made.add(Do.TEST, source=Source.BLOCKS)
    made.add(Do.MOST, source=Source.REGION, when=When.IF, error=ErrorCode.RANGE)
    made.on(Do.TEST, named["one_block"])
    made.add(Do.NEXT_BLOCK, again, when=When.UNLESS)
