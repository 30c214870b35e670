"""The checks that are made of a descriptor before anything of it is done, in the order of their codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from golden.machine import Machine
from golden.program.descriptor import (
    ALIGNED,
    ALIGNMENT,
    BLOCK_LOG2_LEAST,
    LIMITS,
    REGIONS,
    TRANSFORMS,
    Descriptor,
    ErrorCode,
    Opcode,
    OpcodeError,
    decode,
    reserved_bits,
)
from golden.program.pack import Packing

__all__ = ["Surroundings", "block_offsets", "check", "describe", "run_end"]

SPACE_TO_DEPTH = 2


@dataclass(frozen=True)
class Surroundings:
    """What the checks of a descriptor depend on beside itself.

    Parameters
    ----------
    machine : Machine
    program_size, data_size : int
        Bytes of the regions.
    blocks : sequence of int or None
        Parameter blocks of the batch; None before the first BATCH.
    """

    machine: Machine
    program_size: int
    data_size: int
    blocks: Sequence[int] | None = None


def run_end(first: int, stride: int, runs: int, length: int) -> int:
    """End of the last of `runs` runs."""
    return first + (runs - 1) * stride + length


def block_offsets(item: Descriptor, blocks: Sequence[int]) -> list[int]:
    """Offset of each of the parameter blocks that a layer loads, of those of the batch."""
    used = blocks[:1] and (0,) if item["one_block"] else blocks
    return [item["params"] + (block << item["block_log2"]) for block in used]


def check(raw: bytes, around: Surroundings) -> ErrorCode | None:
    """The error that a descriptor deserves, None if it is legal.

    NO_END, the contents of a batch table and the errors of a running layer are not among them.
    """
    found = describe(raw, around)
    return None if found is None else found[0]


def describe(raw: bytes, around: Surroundings) -> tuple[ErrorCode, str] | None:
    """As `check`, and in words what is wrong."""
    try:
        item = decode(raw)
    except OpcodeError as error:
        return ErrorCode.OPCODE, str(error)
    checks: tuple[tuple[ErrorCode, Callable[[Descriptor, Surroundings], str | None]], ...] = (
        (ErrorCode.RESERVED, lambda item, _: _reserved(raw, item)), (ErrorCode.SIZE, _size), (ErrorCode.RANGE, _range),
        (ErrorCode.OVERLAP, _overlap), (ErrorCode.BATCH, _batch))
    for code, look in checks:
        if (problem := look(item, around)) is not None:
            return code, problem
    return None


def _reserved(raw: bytes, item: Descriptor) -> str | None:
    if bits := reserved_bits(raw, item.opcode):
        place = (bits & -bits).bit_length() - 1
        return f"bit {place % 32} of w{place // 32} is reserved and set"
    for name in ALIGNED:
        if item.get(name) % ALIGNMENT:
            return f"{name}={item[name]} is not a multiple of {ALIGNMENT}"
    if item.values.get("block_log2", BLOCK_LOG2_LEAST) < BLOCK_LOG2_LEAST:
        return f"block_log2={item['block_log2']}: the distance of blocks is not a multiple of {ALIGNMENT}"
    if item.get("transform") >= TRANSFORMS:
        return f"transform={item['transform']} is reserved"
    return None


def _size(item: Descriptor, around: Surroundings) -> str | None:
    machine = around.machine
    for name, limit in LIMITS.items():
        if name in item.values and not limit.low <= item[name] <= limit.high(machine):
            return f"{name}={item[name]} is not from {limit.low} to {limit.high(machine)}, {limit.text}"
    if item.get("detect"):
        channels = item["outputs"] * (4 if item["transform"] == SPACE_TO_DEPTH else 1)
        if item["label_first"] + channels > machine.label_depth:
            return f"{channels} labels from {item['label_first']} on; label_depth={machine.label_depth}"
    width, height = item.get("width"), item.get("height")
    if item.get("upsampled") and (width not in machine.upsampled_widths or height % 2):
        return f"a map of {width} x {height} pixels is not read upsampled; upsampled_widths={machine.upsampled_widths}"
    if item.get("x_strided") and width not in machine.strided_widths:
        return f"a result {width} pixels wide is not read strided; strided_widths={machine.strided_widths}"
    words = 0
    if item.opcode in REGIONS:
        words = item["outputs"] * len(block_offsets(item, around.blocks or ()))
    if words > machine.param_depth // 2:
        return f"{words} parameter words in all blocks; param_depth/2={machine.param_depth // 2}"
    return None


def _range(item: Descriptor, around: Surroundings) -> str | None:
    machine, packing = around.machine, Packing.of(around.machine)
    for region in REGIONS.get(item.opcode, ()):
        base, end = item[region.base], item[region.end]
        if not base <= end <= machine.act_nibbles:
            return f"nibbles {region.base}={base} to {region.end}={end}; act_nibbles={machine.act_nibbles}"
    beat = packing.beat_bytes
    ends: list[tuple[str, int, int]] = []
    if item.opcode == Opcode.BATCH:
        ends = [("batch table", item["offset"] + (item["blocks"] + item["samples"]) * beat, around.data_size)]
    elif item.opcode in (Opcode.LOAD, Opcode.STORE):
        ends = [
            ("last run on chip", run_end(item["chip_first"], item["chip_stride"], item["runs"], item["beats"]),
             machine.act_nibbles // packing.beat_nibbles),
            ("last run in the data region", run_end(item["offset"], item["stride"], item["runs"], item["beats"] * beat),
             around.data_size)]
    elif item.opcode in REGIONS:
        ends = [("parameter block", offset + item["outputs"] * packing.param_bytes, around.program_size)
                for offset in block_offsets(item, around.blocks or ())]
        if item.opcode == Opcode.CONV:
            tile = packing.ktile_bytes(item["words"], bool(item["one_tap"]), item["groups"])
            ends += [("channel table", item["table"] + item["table_count"] * beat, around.program_size),
                     ("last k-tile", item["weights"] + item["k_tiles"] * tile, around.program_size)]
    for what, end, size in ends:
        if end > size:
            return f"the {what} ends at {end} of {size}"
    return None


def _overlap(item: Descriptor, _: Surroundings) -> str | None:
    regions = REGIONS.get(item.opcode, ())
    written = [region for region in regions if region.written]
    for out in written:
        for region in regions:
            if not region.written and item[region.base] < item[out.end] and item[out.base] < item[region.end]:
                return (f"the written nibbles {item[out.base]} to {item[out.end]} overlap {region.base}="
                        f"{item[region.base]} to {region.end}={item[region.end]}")
    return None


def _batch(item: Descriptor, around: Surroundings) -> str | None:
    if item.opcode == Opcode.BATCH and item["blocks"] > item["samples"]:
        return f"{item['blocks']} blocks for {item['samples']} samples"
    if item.opcode in REGIONS and around.blocks is None:
        return "no batch table yet"
    return None
