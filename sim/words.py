"""Values of any width as rows of 64-bit words: how bulk data travels between Python and the simulators."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_words", "from_words", "to_words", "words_per_value"]

Words = NDArray[np.uint64]


def words_per_value(width: int) -> int:
    """Number of 64-bit words that hold ``width`` bits."""
    return max(1, -(-width // 64))


def to_words(values: Iterable[int], width: int) -> Words:
    """Pack unsigned integers of ``width`` bits into an array ``[values, words]``, least significant word first."""
    size = 8 * words_per_value(width)
    items = list(values)
    for index, value in enumerate(items):
        if not 0 <= value < 1 << width:
            raise ValueError(f"value {index} is {value:#x}, which does not fit in {width} unsigned bits")
    packed = b"".join(value.to_bytes(size, "little") for value in items)
    return np.frombuffer(packed, dtype="<u8").astype(np.uint64).reshape(len(items), size // 8)


def from_words(words: Words) -> list[int]:
    """Unpack an array ``[values, words]`` into a list of Python integers."""
    return [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in words]


def check_words(words: Words, width: int) -> Words:
    """Return ``words`` as a contiguous array ``[values, words_per_value(width)]``, refusing what does not fit.

    An array with one dimension is taken as one word per value.
    """
    array = np.asarray(words)
    if array.dtype != np.uint64:
        raise TypeError(f"expected an array of uint64, got {array.dtype}: use `.astype(np.uint64)` or `to_words`")
    if array.ndim == 1:
        array = array[:, None]
    expected = words_per_value(width)
    if array.ndim != 2 or array.shape[1] != expected:
        raise ValueError(f"expected shape [beats, {expected}] for {width}-bit values, got {list(array.shape)}")
    spare = 64 * expected - width
    if spare and len(array) and (excess := array[:, -1] >> np.uint64(64 - spare)).any():
        index = int(np.flatnonzero(excess)[0])
        raise ValueError(f"beat {index} does not fit in {width} bits: its top word is {int(array[index, -1]):#x}")
    return np.ascontiguousarray(array)
