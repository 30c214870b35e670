"""Beats of the engine's load port: a layer image, or a memory, as what travels over the bus.

Addresses count beats of their space as `hw.interfaces.Space` says: the fields below the word take powers of two of
places, beats that do not exist are never sent.
"""

import operator
from collections.abc import Callable, Mapping
from enum import EnumType
from functools import cache
from typing import Any, Protocol

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.detector import Labels, RefreshPolicy
from golden.layer import LabelPlace, LayerImage
from hw.config import Config
from hw.interfaces import (
    Refresh,
    Space,
    Transform,
    label_layout,
    layer_layout,
    load_layout,
    param_layout,
    policy_layout,
    table_layout,
)

from .words import Words, to_words

__all__ = ["KTiles", "image_beats", "ktile_beats", "label_beats", "label_words", "layer_word", "load_beats",
           "memory_beats", "nibbles_of_beats", "packer", "policy_word"]

ADDRESS_BITS = 24


class KTiles(Protocol):
    """Weights and scale codes of k-tiles; `golden.layer.LayerImage` says what these are, and is one."""

    @property
    def weights(self) -> NDArray[np.int64]: ...
    @property
    def taps(self) -> NDArray[np.bool_]: ...
    @property
    def codes(self) -> NDArray[np.int64]: ...


def packer(layout: data.StructLayout) -> Callable[[Mapping[str, Any]], int]:
    """Return a function that packs a mapping of the layout's members, nested where the layout is.

    `layout.const` does the same, but a layer has hundreds of entries and parameters, and it takes 50 us for each.
    The function raises ValueError for a value that its member cannot hold, signed or not.
    """
    fields: list[tuple[str, int, int, Callable[[Any], int]]] = []
    for name, field in layout:
        pack: Callable[[Any], int] = int
        if isinstance(field.shape, data.StructLayout):
            pack = packer(field.shape)
        elif isinstance(field.shape, EnumType):
            pack = operator.attrgetter("value")
        fields.append((str(name), field.offset, field.width, pack))

    def pack_all(values: Mapping[str, Any]) -> int:
        word = 0
        for name, offset, width, pack in fields:
            value = pack(values[name])
            if not -(1 << width - 1) <= value < 1 << width:
                raise ValueError(f"{name}={value} does not fit in {width} bits")
            word |= (value & (1 << width) - 1) << offset
        return word

    return pack_all


@cache
def _packer(layout: Callable[[Config], data.StructLayout], config: Config) -> Callable[[Mapping[str, Any]], int]:
    return packer(layout(config))


def load_beats(config: Config, space: Space, addresses: NDArray[np.int64], values: Words,
               commit: bool = False) -> Words:
    """Payloads of the load stream.

    Parameters
    ----------
    config : Config
    space : Space
    addresses : integers [beats]
    values : uint64 [beats, words of a beat]
    commit : bool
        Set the last beat's commit flag.

    Returns
    -------
    uint64 [beats, words of load_layout]
    """
    control = addresses.astype(np.uint64) | np.uint64(space.value << ADDRESS_BITS)
    if commit:
        control[-1] |= np.uint64(1 << (ADDRESS_BITS + Space.as_shape().width))
    beats = np.concatenate([values, control[:, None]], axis=1)
    assert beats.shape[1] == -(-load_layout(config).size // 64), "load_layout has other members than this packs"
    return beats


def _bytes_to_beats(config: Config, data: NDArray[np.uint8]) -> Words:
    """uint8 [..., bytes] as uint64 [..., beats, words of a beat], padded with zeros to whole beats."""
    beat_bytes = config.bus_bits // 8
    beats = -(-data.shape[-1] // beat_bytes)
    padded = np.zeros((*data.shape[:-1], beats * beat_bytes), np.uint8)
    padded[..., :data.shape[-1]] = data
    return padded.view("<u8").astype(np.uint64).reshape(*data.shape[:-1], beats, beat_bytes // 8)


def _pack_nibbles(nibbles: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Nibbles, signed or not, [..., count] as uint8 [..., ceil(count / 2)], low nibble first."""
    even = np.zeros((*nibbles.shape[:-1], nibbles.shape[-1] + nibbles.shape[-1] % 2), np.uint8)
    even[..., :nibbles.shape[-1]] = nibbles & 15
    return even[..., ::2] | even[..., 1::2] << np.uint8(4)


def memory_beats(config: Config, nibbles: NDArray[np.uint8]) -> Words:
    """Beats that fill the activation memory from address 0."""
    values = _bytes_to_beats(config, _pack_nibbles(nibbles.astype(np.int64)))
    return load_beats(config, Space.ACTIVATION, np.arange(len(values)), values)


def nibbles_of_beats(config: Config, beats: Words) -> NDArray[np.uint8]:
    """Nibbles of beats read from the activation memory, uint8 [beats * bus_nibbles]."""
    data = np.ascontiguousarray(beats.astype("<u8")).view(np.uint8)
    return np.stack([data & 15, data >> 4], axis=-1).reshape(-1)


def ktile_beats(config: Config, image: KTiles) -> list[Words]:
    """Weights and scale codes of each k-tile; the last beat of each commits it."""
    beat_bits = (config.tap_beats - 1).bit_length()
    word, tap = np.nonzero(image.taps)
    beat = np.arange(config.tap_beats)
    tap_addresses = ((word << 2 | tap) << beat_bits)[:, None] | beat
    beat_bits = (config.scale_beats - 1).bit_length()
    groups, lanes = image.codes.shape[1:3]
    scale_words = np.arange(groups)[:, None] << config.scale_bits - config.group_bits | np.arange(lanes)
    scale_addresses = (scale_words << beat_bits)[..., None] | np.arange(config.scale_beats)
    tiles = []
    for weights, codes in zip(image.weights, image.codes, strict=True):
        taps = _bytes_to_beats(config, _pack_nibbles(weights[word, tap]))
        scales = _bytes_to_beats(config, codes.astype(np.uint8))
        tiles.append(np.concatenate([
            load_beats(config, Space.WEIGHT, tap_addresses.reshape(-1), taps.reshape(-1, taps.shape[-1])),
            load_beats(config, Space.SCALE, scale_addresses.reshape(-1), scales.reshape(-1, scales.shape[-1]),
                       commit=True),
        ]))
    return tiles


def image_beats(config: Config, image: LayerImage) -> Words:
    """Channel table, parameters and sample table of a layer."""
    bus_words = config.bus_bits // 64
    pack = _packer(table_layout, config)
    entries = [pack({**vars(item), "entry": vars(item.entry)}) for item in image.table]
    places = image.table_first + np.arange(len(entries))
    beats = [load_beats(config, Space.TABLE, places, to_words(entries, 64 * bus_words))]

    pack, per_word = _packer(param_layout, config), config.param_beats
    params = [pack(dict(zip("mrb", row, strict=True))) for row in image.params.tolist()]
    mask = (1 << config.bus_bits) - 1
    pieces = [value >> config.bus_bits * beat & mask for value in params for beat in range(per_word)]
    beat_bits = (per_word - 1).bit_length()
    places = ((np.arange(len(params)) + image.param_first << beat_bits)[:, None] | np.arange(per_word)).reshape(-1)
    beats.append(load_beats(config, Space.PARAM, places, to_words(pieces, 64 * bus_words)))

    samples = image.sample_words
    places = image.fields["sample_first"] + np.arange(len(samples))
    beats.append(load_beats(config, Space.SAMPLE, places, to_words(map(int, samples), 64 * bus_words)))
    return np.concatenate(beats)


def label_words(labels: Labels) -> list[int]:
    """A tensor's labels as `hw.interfaces.label_layout` has them."""
    return [label_layout().const({"sparse": bool(sparse), "dead": bool(dead), "bin": int(count_bin)}).as_value().value
            for sparse, dead, count_bin in zip(labels.sparse, labels.dead, labels.bin, strict=True)]


def label_beats(config: Config, place: LabelPlace, labels: Labels) -> Words:
    """Beats that write a tensor's labels."""
    values = label_words(labels)
    places = place.slot << config.label_bits | place.first + np.arange(len(values))
    return load_beats(config, Space.LABEL, places, to_words(values, config.bus_bits))


def policy_word(policy: RefreshPolicy) -> int:
    """Value of the engine's refresh policy port."""
    refresh = Refresh[policy.refresh.upper()]
    return policy_layout().const({"refresh": refresh, "n": policy.n, "mask": policy.mask}).as_value().value


def layer_word(config: Config, image: LayerImage) -> int:
    """Payload of the engine's configuration port."""
    fields = image.fields | {"transform": Transform[image.fields["transform"].upper()]}
    return _packer(layer_layout, config)(fields)
