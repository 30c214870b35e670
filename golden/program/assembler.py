"""Listing of a program: readable text from bytes, and the same bytes from the text.

    machine cols=4 lanes_per_scale=4 acc_bits=24 ...    sizes, where table entries and parameters are to be readable
    batch offset=0x0 samples=2 blocks=1                 a descriptor: fields that are not 0, flags by name alone
    conv detect transform=upsample steps=0,2,4-63       steps= is the execute mask, all steps unless given
        width=8 height=8 pixels=128                     an indented line goes on with the statement before it
    end
    at 0x180                                            what follows lies there, gaps are zeros
    entry base=64 weight=0 taps=000_010_000 last        of a channel table; taps from bit 8 to bit 0
    param 120 0 -4096                                   M, R, B
    bytes 0123456789abcdef                              anything else
    zeros 64

Numbers are decimal or 0x hexadecimal; a comment begins with a semicolon.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields

from golden.layer import Entry, TableEntry
from golden.program.descriptor import (
    ALIGNED,
    ALL_STEPS,
    BYTES,
    FIELDS,
    DescriptorError,
    Opcode,
    OpcodeError,
    decode,
    encode,
)
from golden.program.pack import Packing

__all__ = ["AssemblyError", "assemble", "disassemble"]

TRANSFORM_NAMES = ("none", "upsample", "space_to_depth")
LINE_BYTES = 32
LEAST_ZEROS = 32        # fewer zeros are written as bytes
STEPS = 64
GROUP_STARTS = ("width", "out_base", "res_base", "in0_base", "label_first", "table", "params")
ENTRY_NUMBERS = ("base", "weight", "group", "exponent", "label", "slot")
ENTRY_FLAGS = ("a_signed", "w_signed", "last", "dense_ok")


class AssemblyError(ValueError):
    """A listing that cannot be assembled; the message begins with the line's number."""


# From bytes to text.

def disassemble(program: bytes, count: int | None = None, packing: Packing | None = None) -> str:
    """List a program.

    Parameters
    ----------
    program : bytes
        The program region.
    count : int, optional
        Descriptors; by default up to the first END, or as far as there are opcodes.
    packing : Packing, optional
        Of the configuration; without it tables and parameters are listed as bytes.
    """
    if count is None:
        count = _count(program)
    lines = [f"machine {' '.join(f'{item.name}={getattr(packing, item.name)}' for item in fields(packing))}"
             ] if packing else []
    for number in range(count):
        raw = program[BYTES * number:BYTES * (number + 1)]
        lines += _descriptor_lines(raw, number)
    position = min(BYTES * count, len(program))
    for start, end, what, reader in _sections(program, count, packing):
        if start < position or end > len(program):
            continue
        lines += _byte_lines(program[position:start], position)
        lines += [f"at {start:#x}    ; {what}"]
        lines += _payload_lines(program[start:end], reader, packing)
        position = end
    lines += _byte_lines(program[position:], position)
    return "\n".join(lines) + "\n"


def _count(program: bytes) -> int:
    number = 0
    for start in range(0, len(program) - BYTES + 1, BYTES):
        try:
            opcode = decode(program[start:start + BYTES]).opcode
        except OpcodeError:
            break
        number += 1
        if opcode is Opcode.END:
            break
    return number


def _descriptor_lines(raw: bytes, number: int) -> list[str]:
    try:
        item = decode(raw)
        exact = encode(item.opcode, **item.values) == raw
    except ValueError:
        exact = False
    if not exact:       # cut off, no such opcode, or reserved bits are set
        return [f"; {number}: not a legal descriptor", *_byte_lines(raw, None)]
    flags, groups = [], [[]]    # type: tuple[list[str], list[list[str]]]
    for field in FIELDS[item.opcode]:
        value = item.get(field.name)
        if field.name in GROUP_STARTS:
            groups.append([])
        if field.name == "opcode" or field.name == "mask" or value == 0:
            continue
        if field.name == "transform" and value < len(TRANSFORM_NAMES):
            flags.append(f"transform={TRANSFORM_NAMES[value]}")
        elif field.bits == 1 and field.word == 0:
            flags.append(field.name)
        elif field.bits == 1:
            groups[-1].append(field.name)
        else:
            groups[-1].append(f"{field.name}={value:#x}" if field.name in ALIGNED else f"{field.name}={value}")
    if item["mask"] != ALL_STEPS:
        flags.append(f"steps={_steps_text(item['mask'])}")
    first = " ".join([item.opcode.name.lower(), *flags, *groups[0]])
    return [f"{first:<60}; {number}", *("    " + " ".join(group) for group in groups[1:] if group)]


def _steps_text(mask: int) -> str:
    parts, step = [], 0
    while step < STEPS:
        if mask >> step & 1:
            first = step
            while step + 1 < STEPS and mask >> step + 1 & 1:
                step += 1
            parts.append(f"{first}" if first == step else f"{first}-{step}")
        step += 1
    return ",".join(parts) or "none"


Section = tuple[int, int, str, str]     # start, end, what it is, how to read it


def _sections(program: bytes, count: int, packing: Packing | None) -> list[Section]:
    """Tables, weights and parameters that the descriptors name, by their place; of several at one place the first."""
    found: dict[int, Section] = {}
    blocks: list[tuple[Section, int]] = []      # parameter block 0, and the distance of the others
    if packing is None:
        return []
    for number in range(count):
        try:
            item = decode(program[BYTES * number:BYTES * (number + 1)])
        except ValueError:
            continue
        sections = []
        if item.opcode is Opcode.CONV:
            tile = packing.ktile_bytes(item["words"], bool(item["one_tap"]), item["groups"])
            sections += [
                (item["table"], item["table_count"] * packing.beat_bytes, "channel table", "entry"),
                (item["weights"], item["k_tiles"] * tile, "weights and codes", "bytes")]
        if item.opcode in (Opcode.CONV, Opcode.ELEMENTWISE):
            start, end = item["params"], item["params"] + item["outputs"] * packing.param_bytes
            blocks.append(((start, end, f"parameters of descriptor {number}, block", "param"), 1 << item["block_log2"]))
        for start, size, what, reader in sections:
            found.setdefault(start, (start, start + size, f"{what} of descriptor {number}", reader))
    # How many blocks there are is not written anywhere: as many as fit before what comes next.
    starts = sorted({*found, *(section[0] for section, _ in blocks), len(program)})
    for (first, end, what, reader), distance in blocks:
        limit = next((start for start in starts if start > first), first)
        for block, start in enumerate(range(first, limit - (end - first) + 1, max(distance, end - first))):
            found.setdefault(start, (start, start + end - first, f"{what} {block}", reader))
    return sorted(found.values())


def _payload_lines(raw: bytes, reader: str, packing: Packing | None) -> Iterator[str]:
    if packing is None or reader == "bytes":
        yield from _byte_lines(raw, None)
        return
    size = packing.beat_bytes if reader == "entry" else packing.param_bytes
    for start in range(0, len(raw), size):
        word = raw[start:start + size]
        if reader == "entry":
            item = packing.unpack_entry(word)
            exact, text = packing.pack_entry(item) == word, _entry_text(item)
        else:
            numbers = packing.unpack_param(word)
            exact, text = packing.pack_param(*numbers) == word, f"param {' '.join(map(str, numbers))}"
        yield text if exact else f"bytes {word.hex()}"


def _entry_text(item: TableEntry) -> str:
    members = vars(item.entry) | {"dense_ok": item.dense_ok, "label": item.label, "slot": item.slot}
    taps = f"{item.entry.taps:09b}"
    return " ".join(["entry", f"base={item.entry.base}", f"weight={item.entry.weight}", f"group={item.entry.group}",
                     f"taps={taps[:3]}_{taps[3:6]}_{taps[6:]}", f"exponent={item.entry.exponent}",
                     f"label={item.label}", f"slot={item.slot}", *(name for name in ENTRY_FLAGS if members[name])])


def _byte_lines(raw: bytes, start: int | None) -> list[str]:
    """Bytes, and runs of zeros; with `start` the place is named where it is not obvious."""
    lines, position = [], 0
    while position < len(raw):
        zeros = len(raw) - position - len(raw[position:].lstrip(b"\0"))
        if zeros >= LEAST_ZEROS or zeros == len(raw) - position:
            lines.append(f"zeros {zeros}")
            position += zeros
        else:
            lines.append(f"bytes {raw[position:position + LINE_BYTES].hex()}")
            position += LINE_BYTES
    return lines if start is None or not any(raw) else [f"at {start:#x}", *lines]


# From text to bytes.

def assemble(text: str) -> bytes:
    """The program region that a listing describes.

    Raises
    ------
    AssemblyError
        Names the line, and what was expected.
    """
    result = bytearray()
    packing: Packing | None = None
    for line, words in _statements(text):
        name, arguments = words[0], words[1:]
        try:
            if name == "machine":
                packing = Packing(**{key: _number(value) for key, value in map(_pair, arguments)})
            elif name == "at":
                result += _gap(_one(arguments), len(result))
            elif name == "zeros":
                result += bytes(_one(arguments))
            elif name == "bytes":
                result += bytes.fromhex("".join(arguments))
            elif name in ("entry", "param"):
                if packing is None:
                    raise ValueError(f"{name} needs a machine statement before it")
                result += _entry(arguments, packing) if name == "entry" else _param(arguments, packing)
            elif name.upper() in Opcode.__members__:
                result += encode(Opcode[name.upper()], **_values(Opcode[name.upper()], arguments))
            else:
                known = [opcode.name.lower() for opcode in Opcode]
                raise ValueError(f"{name!r} is no statement; there are {', '.join(known)}, machine, at, entry, param, "
                                 "bytes and zeros")
        except (ValueError, TypeError, DescriptorError) as error:
            raise AssemblyError(f"line {line}: {error}") from None
    return bytes(result)


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each statement's line and words."""
    first, words = 0, []    # type: tuple[int, list[str]]
    for number, raw in enumerate(text.splitlines(), 1):
        content = raw.partition(";")[0]
        if not content.strip():
            continue
        if content[0].isspace():
            if not words:
                raise AssemblyError(f"line {number}: an indented line goes on with a statement, and there is none yet")
            words += content.split()
        else:
            if words:
                yield first, words
            first, words = number, content.split()
    if words:
        yield first, words


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _one(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        raise ValueError(f"one number expected, not {len(arguments)}")
    number = _number(arguments[0])
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{number} is not from 0 to 2**32 - 1")
    return number


def _gap(target: int, position: int) -> bytes:
    if target < position:
        raise ValueError(f"at {target:#x} lies before {position:#x}, where the listing is already")
    return bytes(target - position)


def _pair(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not value:
        raise ValueError(f"name=value expected, not {argument!r}")
    return name, value


def _values(opcode: Opcode, arguments: Sequence[str]) -> dict[str, int]:
    """Fields of a descriptor statement."""
    flags = {field.name for field in FIELDS[opcode] if field.bits == 1}
    values: dict[str, int] = {}
    for argument in arguments:
        name, value = (argument, "1") if argument in flags else _pair(argument)
        if name == "steps":
            name, number = "mask", _mask(value)
        elif name == "transform" and value in TRANSFORM_NAMES:
            number = TRANSFORM_NAMES.index(value)
        else:
            number = _number(value)
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = number
    return values


def _mask(text: str) -> int:
    if text == "none":
        return 0
    mask = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = _number(first), _number(last if dash else first)
        if not 0 <= low <= high < STEPS:
            raise ValueError(f"steps={part} is not legal: steps are from 0 to {STEPS - 1}, the first before the last")
        mask |= (1 << high + 1) - (1 << low)
    return mask


def _entry(arguments: Sequence[str], packing: Packing) -> bytes:
    numbers, flags, taps = dict.fromkeys(ENTRY_NUMBERS, 0), dict.fromkeys(ENTRY_FLAGS, False), 0
    for argument in arguments:
        if argument in flags:
            flags[argument] = True
            continue
        name, value = _pair(argument)
        if name == "taps":
            taps = int(value, 2)
        elif name in numbers:
            numbers[name] = _number(value)
        else:
            raise ValueError(f"an entry has no {name}; it has {', '.join((*ENTRY_NUMBERS, 'taps', *ENTRY_FLAGS))}")
    entry = Entry(numbers["base"], numbers["weight"], numbers["group"], taps, flags["a_signed"], flags["w_signed"],
                  numbers["exponent"], flags["last"])
    return packing.pack_entry(TableEntry(entry, flags["dense_ok"], numbers["label"], numbers["slot"]))


def _param(arguments: Sequence[str], packing: Packing) -> bytes:
    if len(arguments) != 3:
        raise ValueError(f"param takes M, R and B, not {len(arguments)} numbers")
    m, r, b = map(_number, arguments)
    return packing.pack_param(m, r, b)
