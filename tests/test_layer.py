"""What a configuration cannot run is refused, with the limit in the message."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from golden.conv import AccumulatorOverflow
from golden.detector import threshold_detection
from golden.formats import S4, S8, U4, U8, Tensor
from golden.layer import LabelPlace, Layer, LayerError, Placement, compile_layer, place
from golden.ppu import PostParams
from hw.config import preset

TINY = preset("tiny")


def layer(channels: int = 2, outputs: int = 3, samples: int = 1, height: int = 4, width: int = 6, blocks: int = 1,
          group: int = 4) -> Layer:
    post = PostParams(M=np.ones((blocks, outputs), np.int64), R=np.zeros((blocks, outputs), np.int64),
                      B=np.zeros((blocks, outputs), np.int64), shift=4, dead_zone=0,
                      sample_block=np.zeros(samples, np.int64))
    return Layer("L", (Tensor(np.ones((channels, samples, height, width), np.int64), U4),),
                 np.ones((outputs, channels, 3, 3), np.int64), S4,
                 np.ones((outputs, -(-channels // group)), np.uint8), group, post, U4)


def with_post(**changes: object) -> Layer:
    return replace(layer(), post=replace(layer().post, **changes))


LABELS = {"detection": threshold_detection(24)}
REFUSED: dict[str, tuple[Callable[[], Layer], dict[str, int], dict[str, object], str]] = {
    # what: layer, changes of the configuration, arguments of compile_layer, message
    "8-bit weights": (lambda: replace(layer(), w_fmt=S8), {"sparse": 0}, {},
                      "layer 'L': s8 weights on u4 activations need a sparse array, and this configuration has none; "
                      "dense arrays run s4 weights on 4-bit activations"),
    "8-bit activations": (lambda: replace(layer(), inputs=(Tensor(layer().inputs[0].values, U8),)),
                          {"sparse": 0}, {}, "layer 'L': s4 weights on u8 activations need a sparse array"),
    "a wide map": (lambda: layer(width=70), {}, {}, "the map is 70 x 4 pixels; dim_bits=6 allows 63"),
    "a high map": (lambda: layer(height=64), {}, {}, "the map is 6 x 64 pixels; dim_bits=6 allows 63"),
    "many k-tiles": (lambda: layer(outputs=4 * 1023 + 1, height=1, width=1), {}, {},
                     "4093 output channels make 1024 k-tiles; there can be 1023"),
    "odd space-to-depth": (lambda: replace(layer(height=5), transform="space_to_depth"), {}, {},
                           "space_to_depth needs an even width and height, not 6 x 5"),
    "a long shift": (lambda: with_post(shift=TINY.shift_max + 1), {}, {}, "shift 40 is above 39"),
    "a wide B": (lambda: with_post(B=np.full((1, 3), 1 << 39)), {}, {}, "B exceeds 40 bits"),
    "a low B": (lambda: with_post(B=np.full((1, 3), -(1 << 39) - 1)), {}, {}, "B exceeds 40 bits"),
    "many kernel lines": (lambda: layer(channels=3), {"weight_depth": 8}, {},
                          "a k-tile has 9 kernel lines; weight_depth=8"),
    "many groups": (lambda: layer(channels=3, group=1), {"scale_depth": 2}, {}, "3 groups; scale_depth=2"),
    "a long table": (lambda: layer(channels=5), {}, {"table_first": 60},
                     "5 entries of the channel table from 60 on; table_depth=64"),
    "a long list": (lambda: layer(channels=5), {"list_depth": 4}, {},
                    "5 entries may go to one array; list_depth=4"),
    "a long table of passes": (lambda: replace(layer(channels=5, group=5), w_fmt=S8,
                                               inputs=(Tensor(np.full((5, 1, 4, 6), 99), U8),),
                                               weights=np.full((3, 5, 3, 3), 99)), {"table_depth": 16, "group": 8}, {},
                               "20 entries of the channel table from 0 on; table_depth=16"),
    "many labels of an input": (layer, {}, {"in_labels": [LabelPlace(127, 0)]},
                                "labels of 2 channels from 127 on; label_depth=128"),
    "many labels of the output": (layer, {}, LABELS | {"out_labels": LabelPlace(126, 1)},
                                  "labels of 3 channels from 126 on; label_depth=128"),
    "many parameters": (lambda: layer(blocks=2), {}, {"param_first": 59},
                        "2 parameter blocks of 3 words from 59 on; param_depth=64"),
    "many samples": (lambda: layer(samples=2), {}, {"sample_first": 7}, "2 samples from 7 on; samples=8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_compile_layer_refuses(what: str) -> None:
    make, changes, arguments, message = REFUSED[what]
    config = replace(TINY, **{"act_nibbles": 1 << 16} | changes)
    refused = make()
    with pytest.raises(LayerError) as error:
        compile_layer(refused, config, place(refused, config), **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("arguments", [
    {"table_first": 59}, {"param_first": 58}, {"sample_first": 6}, {"in_labels": [LabelPlace(123, 3)]},
    LABELS | {"out_labels": LabelPlace(125, 3)}])
def test_compile_layer_accepts_what_just_fits(arguments: dict[str, object]) -> None:
    config = replace(TINY, weight_depth=16, scale_depth=2)
    fits = layer(channels=5, blocks=2, samples=2, width=63, height=3)
    compile_layer(fits, config, place(fits, config), **arguments)


def test_detection_needs_a_place_for_the_labels() -> None:
    with pytest.raises(ValueError, match="detection needs out_labels, the place of the labels"):
        compile_layer(layer(), TINY, place(layer(), TINY), **LABELS)


def test_place_refuses_what_does_not_fit_and_accepts_what_just_does() -> None:
    # 2 channels in and 3 out of 24 pixels, and 3 + 4 nibbles of gaps; there is no residual to put a gap before.
    config = replace(TINY, act_nibbles=128)
    assert place(layer(), config, [4, 0, 4]) == Placement((4,), 52, 56, 128)
    with pytest.raises(LayerError, match=r"layer 'L' needs 129 nibbles of activation memory for its inputs, residual "
                                         r"and output; there are 128"):
        place(layer(), config, [5, 0, 4])


def test_a_placement_beyond_the_memory_is_refused() -> None:
    with pytest.raises(LayerError, match="its tensors end at nibble 8193 of 8192"):
        compile_layer(layer(), TINY, Placement((0,), 0, 8193 - 72, 8193))


@pytest.mark.parametrize(("channels", "group", "code", "message"), [
    (2, 1, 31, None),
    (4, 1, 31, "layer 'L': acc needs 19 bits for sums in .*, it has 18; widen it or use smaller scale codes"),
    (2, 2, 1, None),
    (3, 3, 1, "layer 'L': psum needs 13 bits for sums in .*, it has 12; widen it or use a smaller group"),
])
def test_compile_layer_proves_the_accumulators(channels: int, group: int, code: int, message: str | None) -> None:
    """A channel of u4 activations and weights of 7 adds up to 9 * 15 * 7 = 945; code 31 stands for 60."""
    config = replace(TINY, group=1, acc_bits=18)
    proved = replace(layer(channels=channels, group=group), weights=np.full((3, channels, 3, 3), 7),
                     codes=np.full((3, channels // group), code, np.uint8))
    if message is None:
        compile_layer(proved, config, place(proved, config))
    else:
        with pytest.raises(AccumulatorOverflow, match=message):
            compile_layer(proved, config, place(proved, config))


@pytest.mark.parametrize("order", [[0], [0, 1, 1], [0, 2], [1, 0, 2]])
def test_order_must_name_each_channel_once(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"order must name each of 0\.\.1 once, not \["):
        compile_layer(layer(), TINY, place(layer(), TINY), order)


def test_vectors_are_runs_of_a_group_and_pass() -> None:
    """Two groups, the second split by the order; s8 weights make two passes of each run."""
    wide = replace(layer(channels=6, group=4), w_fmt=S8, weights=np.full((3, 6, 3, 3), 99))
    table = compile_layer(wide, TINY, place(wide, TINY), [5, 2, 0, 4, 1, 3]).table
    entries = [item.entry for item in table]
    assert [item.label for item in table] == [5, 5, 2, 0, 2, 0, 4, 4, 1, 3, 1, 3]
    assert [entry.group for entry in entries] == [1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert [entry.exponent for entry in entries] == [0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1]
    assert [entry.last for entry in entries] == [True, True, *[False, True] * 2, True, True, *[False, True] * 2]
    assert not any(item.dense_ok for item in table)


def test_weight_addresses_are_never_below_zero() -> None:
    """One word for channel 0's line 0, then channel 1 begins at line 2: its line 0 would lie before the memory."""
    weights = np.zeros((3, 2, 3, 3), np.int64)
    weights[:, 0, 0], weights[:, 1, 2] = 1, 2
    sparse = replace(layer(), weights=weights)
    image = compile_layer(sparse, TINY, place(sparse, TINY))
    assert [item.entry.weight for item in image.table] == [0, 0]
    np.testing.assert_array_equal(image.weights[0, [0, 2], :, 0], [[1, 1, 1], [2, 2, 2]])
