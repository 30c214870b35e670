"""Whole layers through the emitted engine, in the fast lane: every nibble of the memory is what golden says."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from golden.formats import FORMATS, S4, U4, U8, Tensor
from golden.layer import Layer, LayerError, compile_layer, place
from golden.workload.layers import Workload, real_layer
from hw.config import preset
from hw.gen import emit
from hw.interfaces import layer_layout
from sim.beats import image_beats, ktile_beats, layer_word, memory_beats
from sim.engine import EngineRun, FastEngine
from sim.fast import FastSim
from sim.stimulus import LayerCase, array_steps, chained_case, difference, layer_case, random_layer, random_tensor
from sim.words import to_words

BUILD = Path(__file__).parents[1] / "build"
TINY = preset("tiny")
CONFIGS = {
    "4x4": TINY,
    "4x4-one-tap": replace(TINY, dense_taps=1, lanes_per_scale=3, read_ports=1, scale_exp_bits=1),
    "3x5-two-arrays": replace(TINY, rows=3, cols=5, dense=2, read_ports=1, lanes_per_scale=2, bus_bits=128,
                              scale_exp_bits=4, acc_bits=36, dense_taps=1),
    "7x2-three-arrays": replace(TINY, rows=7, cols=2, dense=3, read_ports=1, lanes_per_scale=1),
    # Large enough for the trained network.
    "4x6": replace(TINY, cols=6, act_nibbles=1 << 16, samples=16, weight_depth=512, param_depth=512,
                   list_depth=128, scale_exp_bits=1),
}
LAYERS = 80     # random layers for each configuration
WORKLOAD = Workload(channels=16)


@cache
def emitted(name: str) -> Path:
    return emit(CONFIGS[name], out=BUILD / "test_engine" / name)


def open_engine(name: str, stall: float = 0.0) -> FastEngine:
    sim = FastSim.build(emitted(name), "sqdm", BUILD)
    sim.reset()
    return FastEngine(CONFIGS[name], sim, stall)


def run_case(engine: FastEngine, case: LayerCase, where: str, *, fill: bool = True) -> EngineRun:
    """Run a layer and compare the memory and the step counters with the golden model."""
    if fill:
        engine.fill(case.before)
    counters = engine.run(case.image, limit=200_000)
    assert not (wrong := difference(case, engine.read())), f"{where}: {wrong}"
    steps = array_steps(engine.config, case.image)
    assert [counts["busy"] for counts in counters.array] == steps, where
    assert all(sum(counts.values()) <= counters.cycles for counts in counters.array), where
    return counters


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_random_layers_are_exact(name: str, stall: float) -> None:
    engine, config = open_engine(name, stall), CONFIGS[name]
    for seed in range(LAYERS // 2):
        rng = np.random.default_rng([seed, int(10 * stall)])
        case = layer_case(rng, config, random_layer(rng, config))
        run_case(engine, case, f"{name}, stall {stall}, seed {seed}")


def plain_memory(layer: Layer, out: int, before: np.ndarray) -> np.ndarray:
    """Memory after a layer by the formulas of the architecture page, one pixel at a time."""
    values = np.concatenate([tensor.values for tensor in layer.inputs])
    channels, samples, height, width = values.shape
    outputs, _, kernel, _ = layer.weights.shape
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (0, 0), (half, half), (half, half)))
    memory, post, fmt = before.copy(), layer.post, layer.out_fmt
    _, _, out_height, out_width = layer.out_shape

    def write(k: int, n: int, h: int, w: int, y: int) -> None:
        for plane in range(fmt.planes):
            address = out + w + out_width * (h + out_height * (n + samples * (plane + fmt.planes * k)))
            memory[address] = y >> 4 * plane & 15

    for k, n, h, w in np.ndindex(outputs, samples, height, width):
        acc = 0
        for c in range(channels):
            exponent, mantissa = divmod(int(layer.codes[k, c // layer.group]), 8)
            scale = mantissa if exponent == 0 else (8 + mantissa) << exponent - 1
            acc += scale * int((padded[c, n, h:h + kernel, w:w + kernel] * layer.weights[k, c]).sum())
        block = post.sample_block[n]
        total = acc * int(post.M[block, k]) + int(post.B[block, k])
        if layer.residual is not None:
            total += int(layer.residual.values[k, n, h, w]) * int(post.R[block, k])
        if post.shift:
            total += 1 << post.shift - 1
        y = min(max(total >> post.shift, fmt.min), fmt.max)
        y = 0 if abs(y) < post.dead_zone else y
        if layer.transform == "none":
            write(k, n, h, w, y)
        elif layer.transform == "upsample":
            for row, column in np.ndindex(2, 2):
                write(k, n, 2 * h + row, 2 * w + column, y)
        else:
            write(4 * k + 2 * (h & 1) + (w & 1), n, h >> 1, w >> 1, y)
    return memory


@pytest.mark.parametrize("transform", ["none", "upsample", "space_to_depth"])
def test_engine_agrees_with_a_plain_convolution(transform: str) -> None:
    """Independent of golden.conv, golden.ppu and golden.layout."""
    engine, config = open_engine("3x5-two-arrays"), CONFIGS["3x5-two-arrays"]
    for seed in range(4):
        rng = np.random.default_rng([seed, len(transform)])
        layer = random_layer(rng, config, shape=(5, 2, 4, 6), outputs=7, transform=transform)
        case = layer_case(rng, config, layer)
        run_case(engine, case, f"seed {seed}")
        np.testing.assert_array_equal(engine.read(), plain_memory(layer, case.placement.out, case.before))


EDGES = {
    "all weights zero": {"shape": (3, 2, 3, 4), "outputs": 6, "kernel": 3, "weights": np.zeros((6, 3, 3, 3), np.int64)},
    "a map of one pixel": {"shape": (4, 1, 1, 1), "kernel": 3},
    "a map one pixel wide": {"shape": (2, 2, 9, 1), "kernel": 3},
    "one channel": {"shape": (1, 2, 5, 3)},
    "one output": {"outputs": 1},
    "outputs fill the k-tiles": {"outputs": 10},
    "one output in the last k-tile": {"outputs": 11},
    "samples share tiles": {"shape": (3, 3, 2, 2)},
    "the widest map": {"shape": (1, 1, 2, 63), "kernel": 3, "outputs": 2},
    "one group": {"shape": (9, 1, 3, 3), "group": 9},
    "a group per channel": {"shape": (9, 1, 3, 3), "group": 1},
}


@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_are_exact(edge: str) -> None:
    engine, config = open_engine("3x5-two-arrays"), CONFIGS["3x5-two-arrays"]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        run_case(engine, layer_case(rng, config, random_layer(rng, config, **EDGES[edge])), f"seed {seed}")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_largest_values_are_exact(sign: int, fmt: object) -> None:
    """Every product at its largest, scale codes and parameters too."""
    config = CONFIGS["4x4"]
    rng = np.random.default_rng(0)
    inputs = (Tensor(np.full((4, 1, 4, 4), 15), U4), Tensor(np.full((2, 1, 4, 4), -8), S4))
    weights = np.full((5, 6, 3, 3), 7 if sign > 0 else -8)
    weights[:, 4:] = -8 if sign > 0 else 7
    layer = random_layer(rng, config, inputs=inputs, outputs=5, kernel=3, group=6, out_fmt=fmt, transform="none",
                         residual=fmt, weights=weights, codes=np.full((5, 1), 31, np.uint8))
    largest = np.full((1, 5), sign * ((1 << 15) - 1))
    post = replace(layer.post, M=largest, R=largest, B=np.full((1, 5), sign * ((1 << config.bias_bits - 1) - 1)),
                   shift=config.shift_max - 4, dead_zone=0, sample_block=np.zeros(1, np.int64))
    run_case(open_engine("4x4"), layer_case(rng, config, replace(layer, post=post)), f"sign {sign}")


def test_result_does_not_depend_on_the_split_of_channels_or_their_order() -> None:
    engine, config = open_engine("3x5-two-arrays"), CONFIGS["3x5-two-arrays"]
    layer = random_layer(np.random.default_rng(1), config, shape=(8, 2, 3, 5), outputs=7, kernel=3, group=3)
    splits = [[list(range(8)), []], [[], list(range(8))], [list(range(7, -1, -1)), []], [[0, 2, 4, 6], [1, 3, 5, 7]],
              [[5, 0, 3], [7, 6, 1, 2, 4]], [[4], [0, 1, 2, 3, 5, 6, 7]]]
    for split in splits:
        # The same seed, so the same memory and placement.
        run_case(engine, layer_case(np.random.default_rng(2), config, layer, channels=split), f"split {split}")


@pytest.mark.parametrize("name", ["4x4", "7x2-three-arrays"])
def test_chained_layers_need_no_refill(name: str) -> None:
    engine, config = open_engine(name, 0.2), CONFIGS[name]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        first = random_layer(rng, config, shape=(3, 2, 4, 5), outputs=3, out_fmt=U4, residual=None)
        case = layer_case(rng, config, first, first=(1, 2, 0))
        run_case(engine, case, f"seed {seed}, layer 0")
        for number, fmt in enumerate((S4, U8)):
            case = chained_case(rng, config, case, fmt)
            run_case(engine, case, f"seed {seed}, layer {number + 1}", fill=False)


@pytest.mark.parametrize("step", [0, 9, 17])
@pytest.mark.parametrize("name", ["u3.conv0", "down", "e1.conv1", "up", "u3.skip"])
def test_layers_of_the_trained_network_are_exact(name: str, step: int) -> None:
    """Real activations: two segments; space-to-depth input; residual; upsampled input; 1x1."""
    config = CONFIGS["4x6"]
    layer = real_layer(name, step, WORKLOAD).layer
    run_case(open_engine("4x6"), layer_case(np.random.default_rng(step), config, layer), f"{name}, step {step}")


@pytest.mark.parametrize("name", ["conv_in", "conv_out"])
def test_layers_with_8_bit_weights_are_refused(name: str) -> None:
    config = CONFIGS["4x6"]
    layer = real_layer(name, 9, WORKLOAD).layer
    with pytest.raises(LayerError, match=f"layer '{name}': s8 weights on .* need a sparse array; dense arrays run s4"):
        compile_layer(layer, config, place(layer, config))


def test_a_group_larger_than_the_hardwares_runs_where_its_weights_are_small() -> None:
    name = "4x4-one-tap"
    config = CONFIGS[name]
    rng = np.random.default_rng(3)
    channels = 2 * config.group
    layer = random_layer(rng, config, inputs=(random_tensor(rng, (channels, 1, 3, 3), U4),), outputs=3, kernel=3,
                         group=channels, weights=rng.integers(-1, 2, (3, channels, 3, 3)))
    run_case(open_engine(name), layer_case(rng, config, layer), "large group")


def test_the_host_may_load_activations_while_a_layer_runs() -> None:
    """The post-processor's writes go first, and no beat of the host's is lost."""
    name = "4x4"
    engine, config = open_engine(name), CONFIGS[name]
    rng = np.random.default_rng(4)
    layer = random_layer(rng, config, shape=(1, 2, 8, 8), outputs=4, kernel=1, transform="upsample", out_fmt=U8)
    case = layer_case(rng, config, layer)
    engine.fill(case.before)
    free = -(-case.placement.end // config.bus_nibbles)     # first beat behind the layer's tensors
    news = rng.integers(0, 16, config.act_nibbles).astype(np.uint8)
    case.after[free * config.bus_nibbles:] = news[free * config.bus_nibbles:]
    engine.sim.send("load", np.concatenate([image_beats(config, case.image), *ktile_beats(config, case.image)]))
    engine.sim.run(10_000)
    engine.sim.send("load", memory_beats(config, news)[free:])
    engine.sim.send("layer", to_words([layer_word(config, case.image)], layer_layout(config).size))
    engine.sim.run(10_000, until="done")
    engine.sim.run(10_000)
    assert not difference(case, engine.read())
