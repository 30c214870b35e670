"""Bytes of all that a program carries beside its descriptors: tables, weights, codes, parameters, batch, tensors.

Every item begins with a beat of its own, LSB first, and is padded with zeros to whole beats; docs/program.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from golden.formats import (
    NIBBLE_BITS,
    Format,
    Int64Array,
    Tensor,
    Uint8Array,
    from_planes,
    pack_nibbles,
    to_planes,
    unpack_nibbles,
)
from golden.layer import Entry, TableEntry
from golden.machine import Machine
from golden.ppu import FACTOR_BITS
from golden.program.descriptor import ALIGNMENT

__all__ = ["Packing", "aligned", "pack_batch", "pack_tensor", "unpack_tensor"]

TAPS = 9
LINE_TAPS = 3
CENTRE = 1


def aligned(size: int) -> int:
    """`size` bytes, rounded up to what offsets must be multiples of."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _bits(values: int) -> int:
    return max(1, (values - 1).bit_length())


@dataclass(frozen=True)
class Packing:
    """Widths of a configuration, and the packing that follows from them.

    Parameters
    ----------
    cols, lanes_per_scale, acc_bits, act_nibbles, weight_depth, scale_depth, label_depth, label_slots, bus_bits : int
        As of the configuration.
    """

    cols: int
    lanes_per_scale: int
    acc_bits: int
    act_nibbles: int
    weight_depth: int
    scale_depth: int
    label_depth: int
    label_slots: int
    bus_bits: int

    @classmethod
    def of(cls, machine: Machine) -> "Packing":
        """The packing of a configuration."""
        return cls(machine.cols, machine.lanes_per_scale, machine.acc_bits, machine.act_nibbles, machine.weight_depth,
                   machine.scale_depth, machine.label_depth, machine.label_slots, machine.bus_bits)

    # Sizes.

    @property
    def beat_bytes(self) -> int:
        """Bytes of a beat."""
        return self.bus_bits // 8

    @property
    def beat_nibbles(self) -> int:
        """Nibbles of a beat."""
        return self.bus_bits // NIBBLE_BITS

    def beats(self, bits: int) -> int:
        """Beats that hold so many bits."""
        return -(-bits // self.bus_bits)

    @property
    def tap_bytes(self) -> int:
        """Bytes of one tap of a weight word."""
        return self.beats(NIBBLE_BITS * self.cols) * self.beat_bytes

    @property
    def scale_units(self) -> int:
        """Codes of a scale word."""
        return -(-self.cols // self.lanes_per_scale)

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale word."""
        return self.beats(8 * self.scale_units) * self.beat_bytes

    @property
    def param_bytes(self) -> int:
        """Bytes of a parameter word."""
        return self.beats(2 * FACTOR_BITS + self.bias_bits) * self.beat_bytes

    @property
    def bias_bits(self) -> int:
        """Width of B."""
        return self.acc_bits + FACTOR_BITS

    def ktile_bytes(self, words: int, one_tap: bool, groups: int) -> int:
        """Bytes of a k-tile's weights and codes."""
        taps = 1 if one_tap else LINE_TAPS
        return words * taps * self.tap_bytes + groups * self.lanes_per_scale * self.scale_bytes

    # Channel table.

    @cached_property
    def entry_members(self) -> tuple[tuple[str, int], ...]:
        """Names and widths of a table entry's members, from the LSB."""
        return (("base", _bits(self.act_nibbles)), ("weight", _bits(self.weight_depth)),
                ("group", _bits(self.scale_depth)), ("taps", TAPS), ("a_signed", 1), ("w_signed", 1), ("exponent", 2),
                ("last", 1), ("dense_ok", 1), ("label", _bits(self.label_depth)), ("slot", _bits(self.label_slots)))

    def pack_entry(self, item: TableEntry) -> bytes:
        """One beat.

        Raises
        ------
        ValueError
            If a member does not fit its width.
        """
        members = vars(item.entry) | {"dense_ok": item.dense_ok, "label": item.label, "slot": item.slot}
        value = place = 0
        for name, bits in self.entry_members:
            member = int(members[name])
            if not 0 <= member < 1 << bits:
                raise ValueError(f"table entry: {name}={member} does not fit {bits} bits")
            value |= member << place
            place += bits
        return value.to_bytes(self.beat_bytes, "little")

    def unpack_entry(self, beat: bytes) -> TableEntry:
        """The inverse of `pack_entry`; bits beyond the last member are passed over."""
        value, members = int.from_bytes(beat, "little"), {}
        for name, bits in self.entry_members:
            members[name] = value & (1 << bits) - 1
            value >>= bits
        return TableEntry(
            Entry(members["base"], members["weight"], members["group"], members["taps"], bool(members["a_signed"]),
                  bool(members["w_signed"]), members["exponent"], bool(members["last"])),
            bool(members["dense_ok"]), members["label"], members["slot"])

    # Weights and scale codes.

    def pack_ktile(self, weights: Int64Array, codes: Int64Array, one_tap: bool) -> bytes:
        """Weights and codes of a k-tile.

        Parameters
        ----------
        weights : u4 integers [words, 3, cols]
        codes : integers [groups, lanes_per_scale, scale_units]
        one_tap : bool
            Leave out all but the centre tap.
        """
        kept = weights[:, CENTRE:CENTRE + 1] if one_tap else weights
        nibbles = np.zeros((*kept.shape[:2], 2 * self.tap_bytes), np.uint8)
        nibbles[..., :self.cols] = kept
        scales = np.zeros((*codes.shape[:2], self.scale_bytes), np.uint8)
        scales[..., :self.scale_units] = codes
        return pack_nibbles(nibbles.reshape(-1)).tobytes() + scales.tobytes()

    def unpack_ktile(self, raw: bytes, words: int, one_tap: bool, groups: int) -> tuple[Int64Array, Int64Array]:
        """Weights as nibbles [words, 3, cols] and codes [groups, cols] of each column; taps not stored are 0."""
        taps = 1 if one_tap else LINE_TAPS
        split = words * taps * self.tap_bytes
        nibbles = unpack_nibbles(raw[:split], 2 * split).reshape(words, taps, -1)[..., :self.cols].astype(np.int64)
        weights = np.zeros((words, LINE_TAPS, self.cols), np.int64)
        weights[:, CENTRE if one_tap else slice(None)] = nibbles[:, 0] if one_tap else nibbles
        scales = np.frombuffer(raw[split:], np.uint8).reshape(groups, self.lanes_per_scale, self.scale_bytes)
        codes = scales[..., :self.scale_units].transpose(0, 2, 1).reshape(groups, -1)[:, :self.cols]
        return weights, codes.astype(np.int64)

    # Parameters.

    def pack_param(self, m: int, r: int, b: int) -> bytes:
        """One parameter word.

        Raises
        ------
        ValueError
            If a value does not fit its width.
        """
        value = place = 0
        for name, number, bits in (("M", m, FACTOR_BITS), ("R", r, FACTOR_BITS), ("B", b, self.bias_bits)):
            if not -1 << bits - 1 <= number < 1 << bits - 1:
                raise ValueError(f"parameter {name}={number} does not fit {bits} bits, signed")
            value |= (number & (1 << bits) - 1) << place
            place += bits
        return value.to_bytes(self.param_bytes, "little")

    def unpack_param(self, raw: bytes) -> tuple[int, int, int]:
        """M, R and B of a word; the inverse of `pack_param`."""
        value, numbers = int.from_bytes(raw, "little"), []
        for bits in (FACTOR_BITS, FACTOR_BITS, self.bias_bits):
            number = value & (1 << bits) - 1
            numbers.append(number - (1 << bits) if number >> bits - 1 else number)
            value >>= bits
        return numbers[0], numbers[1], numbers[2]


def pack_batch(bus_bits: int, blocks: Sequence[int], samples: Sequence[int]) -> bytes:
    """The batch table: parameter-block numbers, then for each sample an index into them; a beat each.

    Raises
    ------
    ValueError
        If a block does not fit 16 bits, or there is no such index.
    """
    if not 1 <= len(blocks) <= len(samples):
        raise ValueError(f"{len(blocks)} blocks for {len(samples)} samples: there must be 1 to {len(samples)}")
    if not all(0 <= block < 1 << 16 for block in blocks):
        raise ValueError(f"block numbers must be from 0 to 65535, not {list(blocks)}")
    if not all(0 <= sample < len(blocks) for sample in samples):
        raise ValueError(f"samples must name one of {len(blocks)} blocks by its index, not {list(samples)}")
    return b"".join(int(value).to_bytes(bus_bits // 8, "little") for value in (*blocks, *samples))


def pack_tensor(tensor: Tensor) -> bytes:
    """A tensor as it lies in host memory: the nibbles as on chip, padded with zeros to a multiple of 16 bytes."""
    raw = pack_nibbles(to_planes(tensor.values, tensor.fmt).swapaxes(0, 1).reshape(-1)).tobytes()
    return raw.ljust(aligned(len(raw)), b"\0")


def unpack_tensor(raw: bytes | bytearray, fmt: Format, shape: Sequence[int]) -> Tensor:
    """The tensor of `shape` (C, N, H, W) in `raw`; the inverse of `pack_tensor`."""
    channels, *inner = shape
    nibbles: Uint8Array = unpack_nibbles(bytes(raw), int(np.prod(shape)) * fmt.planes)
    return Tensor(from_planes(nibbles.reshape(channels, fmt.planes, *inner).swapaxes(0, 1), fmt), fmt)
