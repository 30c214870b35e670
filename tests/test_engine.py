"""Whole layers through the emitted engine, in the fast lane: every nibble of the memory is what golden says."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Shape
from amaranth.lib import data

from golden.detector import RefreshPolicy, balance_detection, classify, threshold_detection
from golden.formats import FORMATS, S4, S8, U4, U8, Format, Tensor
from golden.layer import LayerError, compile_layer, place
from golden.workload.layers import Workload, real_layer
from hw.config import preset
from hw.gen import emit
from hw.interfaces import Transform, layer_layout, param_layout, table_layout
from sim.beats import image_beats, ktile_beats, label_beats, layer_word, memory_beats, packer
from sim.engine import EngineRun, FastEngine
from sim.fast import FastSim
from sim.stimulus import (
    Labelled,
    LayerCase,
    array_steps,
    chained_case,
    difference,
    layer_case,
    random_labels,
    random_layer,
    random_tensor,
)
from sim.words import to_words
from tests.plain import plain_memory
from tests.program import CHANNELS, LABELS, Step, program

BUILD = Path(__file__).parents[1] / "build"
TINY = preset("tiny")
# Dense + sparse arrays, each in another geometry.
CONFIGS = {
    "1+1": TINY,
    "2+0": replace(TINY, rows=3, cols=5, dense=2, sparse=0, read_ports=1, lanes_per_scale=2, bus_bits=128,
                   scale_exp_bits=4, acc_bits=36, dense_taps=1),
    "0+1": replace(TINY, rows=7, cols=2, dense=0, read_ports=1, lanes_per_scale=2, fifo_depth=1),
    "0+2": replace(TINY, rows=8, cols=3, dense=0, sparse=2, scale_exp_bits=1, window_width=0,
                   fifo_depth=3, lanes_per_scale=2),
    "1+2": replace(TINY, cols=3, sparse=2, read_ports=1, dense_taps=1, lanes_per_scale=3, fetch_depth=9),
    # Large enough for the trained network.
    "1+1, large": replace(TINY, cols=6, act_nibbles=1 << 16, samples=16, weight_depth=512, param_depth=512,
                          table_depth=128, list_depth=128, label_depth=256, scale_exp_bits=1),
}
SMALL = [name for name in CONFIGS if "large" not in name]
WITH_SPARSE = [name for name in SMALL if CONFIGS[name].sparse]
LAYERS = 80     # random layers for each configuration
WORKLOAD = Workload(model="digits16")


@pytest.mark.parametrize("layout", [table_layout(TINY), param_layout(TINY), layer_layout(TINY)])
def test_packer_packs_as_amaranth_does(layout: data.StructLayout) -> None:
    rng = np.random.default_rng(1)

    def some(shape: data.StructLayout) -> dict[str, Any]:
        return {str(name): some(field.shape) if isinstance(field.shape, data.StructLayout)
                else rng.choice(list(Transform)) if field.shape is Transform
                else int(rng.integers(1 << field.width)) - (Shape.cast(field.shape).signed << field.width - 1)
                for name, field in shape}

    for _ in range(20):
        values = some(layout)
        assert packer(layout)(values) == layout.const(values).as_value().value


def test_packer_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="m=32768000 does not fit in 16 bits"):
        packer(param_layout(TINY))({"m": 32768000, "r": 0, "b": 0})


@cache
def emitted(name: str) -> Path:
    return emit(CONFIGS[name], "engine", out=BUILD / "test_engine" / name)


def open_engine(name: str, stall: float = 0.0) -> FastEngine:
    sim = FastSim.build(emitted(name), "sqdm_engine", BUILD)
    sim.reset()
    return FastEngine(CONFIGS[name], sim, stall)


def run_case(engine: FastEngine, case: LayerCase, where: str, *, fill: bool = True) -> EngineRun:
    """Write the labels that the layer meets, and unless it follows another one the memory; then `check_run`."""
    if fill:
        engine.fill(case.before)
        for item in case.inputs:
            engine.set_labels(item.place, item.labels)
    engine.set_labels(case.output.place, case.labels_before)
    return check_run(engine, case, where)


def check_run(engine: FastEngine, case: LayerCase, where: str) -> EngineRun:
    """Run a layer, with memory and labels as they are, and compare both and the step counters with the golden model."""
    counters = engine.run(case.image, limit=200_000)
    assert not (wrong := difference(case, engine.read())), f"{where}: {wrong}"
    labels = engine.labels(case.output.place, case.layer.out_shape[0])
    for name, expected in vars(case.output.labels).items():
        np.testing.assert_array_equal(getattr(labels, name), expected, f"{where}: labels, {name}")
    assert [counts["steps"] for counts in counters.array] == array_steps(engine.config, case), where
    assert all(sum(counts.values()) - counts["steps"] <= counters.cycles for counts in counters.array), where
    return counters


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_random_layers_are_exact(name: str, stall: float) -> None:
    engine, config = open_engine(name, stall), CONFIGS[name]
    for seed in range(LAYERS // 2):
        rng = np.random.default_rng([seed, int(10 * stall)])
        case = layer_case(rng, config, random_layer(rng, config))
        run_case(engine, case, f"{name}, stall {stall}, seed {seed}")


@pytest.mark.parametrize("transform", ["none", "upsample", "space_to_depth"])
@pytest.mark.parametrize("name", ["2+0", "1+1"])
def test_engine_agrees_with_a_plain_convolution(name: str, transform: str) -> None:
    """Independent of golden.conv, golden.ppu and golden.layout."""
    engine, config = open_engine(name), CONFIGS[name]
    for seed in range(4):
        rng = np.random.default_rng([seed, len(transform)])
        layer = random_layer(rng, config, shape=(5, 2, 4, 6), outputs=7, transform=transform)
        case = layer_case(rng, config, layer)
        run_case(engine, case, f"seed {seed}")
        np.testing.assert_array_equal(engine.read(), plain_memory(layer, case.placement.out, case.before))


WIDE = {"W8A8": (S8, [U8, S8]), "W8A4": (S8, [U4, S4]), "W4A8": (S4, [U8, S8]), "W8, mixed": (S8, [U4, S8])}


@pytest.mark.parametrize("name", WITH_SPARSE)
@pytest.mark.parametrize("formats", WIDE)
def test_8_bit_layers_agree_with_a_plain_convolution(name: str, formats: str) -> None:
    """They run on the sparse arrays, whatever the labels say."""
    engine, config = open_engine(name), CONFIGS[name]
    w_fmt, in_fmts = WIDE[formats]
    for seed in range(4):
        rng = np.random.default_rng([seed, len(formats)])
        layer = random_layer(rng, config, shape=(5, 2, 4, 5), outputs=6, w_fmt=w_fmt, in_fmts=in_fmts,
                             inputs=tuple(random_tensor(rng, (2, 2, 4, 5), fmt) for fmt in in_fmts))
        case = layer_case(rng, config, layer)
        counters = run_case(engine, case, f"seed {seed}")
        assert not any(counts["busy"] for counts in counters.array[:config.dense])
        np.testing.assert_array_equal(engine.read(), plain_memory(layer, case.placement.out, case.before))


@pytest.mark.parametrize(("formats", "told"), [
    ("W8A8", "s8 weights on u8/s8"), ("W8A4", "s8 weights on u4/s4"), ("W4A8", "s4 weights on u8/s8")])
def test_8_bit_layers_are_refused_without_a_sparse_array(formats: str, told: str) -> None:
    rng = np.random.default_rng(0)
    w_fmt, in_fmts = WIDE[formats]
    layer = random_layer(rng, CONFIGS["1+1"], w_fmt=w_fmt,
                         inputs=tuple(random_tensor(rng, (2, 1, 3, 3), fmt) for fmt in in_fmts))
    with pytest.raises(LayerError, match=f"layer 'random': {told} activations need a sparse array, and this "
                                         "configuration has none; dense arrays run s4 weights on 4-bit activations"):
        compile_layer(layer, CONFIGS["2+0"], place(layer, CONFIGS["2+0"]))


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


@pytest.mark.parametrize("name", ["2+0", "1+2"])
@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_are_exact(edge: str, name: str) -> None:
    engine, config = open_engine(name), CONFIGS[name]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        run_case(engine, layer_case(rng, config, random_layer(rng, config, **EDGES[edge])), f"seed {seed}")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("bits", [4, 8])
def test_largest_values_are_exact(bits: int, sign: int, fmt: Format) -> None:
    """Every product at its largest, scale codes and parameters too."""
    config = CONFIGS["1+1"]
    rng = np.random.default_rng(0)
    u, s = (U4, S4) if bits == 4 else (U8, S8)
    inputs = (Tensor(np.full((4, 1, 4, 4), u.max), u), Tensor(np.full((2, 1, 4, 4), s.min), s))
    weights = np.full((5, 6, 3, 3), s.max if sign > 0 else s.min)
    weights[:, 4:] = s.min if sign > 0 else s.max
    layer = random_layer(rng, config, inputs=inputs, outputs=5, kernel=3, group=6, out_fmt=fmt, transform="none",
                         residual=fmt, weights=weights, w_fmt=s, codes=np.full((5, 1), 31, np.uint8))
    largest = np.full((1, 5), sign * ((1 << 15) - 1))
    post = replace(layer.post, M=largest, R=largest, B=np.full((1, 5), sign * ((1 << config.bias_bits - 1) - 1)),
                   shift=config.shift_max - 4, dead_zone=0, sample_block=np.zeros(1, np.int64))
    run_case(open_engine("1+1"), layer_case(rng, config, replace(layer, post=post)), f"sign {sign}")


@pytest.mark.parametrize("name", SMALL)
def test_result_does_not_depend_on_labels_or_the_order_of_channels(name: str) -> None:
    engine, config = open_engine(name), CONFIGS[name]
    layer = random_layer(np.random.default_rng(1), config, shape=(8, 2, 3, 5), outputs=7, kernel=3, group=3,
                         in_fmts=[U4, S4], w_fmt=S4)
    placement, memories = place(layer, config, [1, 2, 3, 4]), []
    before = np.random.default_rng(2).integers(0, 16, config.act_nibbles).astype(np.uint8)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        case = layer_case(rng, config, layer, placement=placement, memory=before, order=rng.permutation(8).tolist())
        run_case(engine, case, f"seed {seed}")
        memories.append(case.after)
    assert all((memory == memories[0]).all() for memory in memories)


@pytest.mark.parametrize("name", ["1+1", "0+2"])
def test_chained_layers_need_no_refill(name: str) -> None:
    engine, config = open_engine(name, 0.2), CONFIGS[name]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        first = random_layer(rng, config, shape=(3, 2, 4, 5), outputs=3, out_fmt=U4, residual=None)
        case = layer_case(rng, config, first, first=(1, 2, 0), detect=True)
        run_case(engine, case, f"seed {seed}, layer 0")
        for number, fmt in enumerate((S4, U8)):
            case = chained_case(rng, config, case, fmt)
            run_case(engine, case, f"seed {seed}, layer {number + 1}", fill=False)


@pytest.mark.parametrize("step", [0, 9, 17])
@pytest.mark.parametrize("name", ["conv_in", "u3.conv0", "down", "e1.conv1", "up", "u3.skip", "conv_out"])
def test_layers_of_the_trained_network_are_exact(name: str, step: int) -> None:
    """Real activations: 8-bit weights; two segments; space-to-depth input; residual; upsampled input; 1x1."""
    config = CONFIGS["1+1, large"]
    engine, layer = open_engine("1+1, large"), real_layer(name, step, WORKLOAD).layer
    case = layer_case(np.random.default_rng(step), config, layer)
    run_case(engine, case, f"{name}, step {step}")
    np.testing.assert_array_equal(engine.read(), plain_memory(layer, case.placement.out, case.before))


def test_a_group_larger_than_the_hardwares_runs_where_its_weights_are_small() -> None:
    name = "1+2"
    config = CONFIGS[name]
    rng = np.random.default_rng(3)
    channels = 2 * config.group
    layer = random_layer(rng, config, inputs=(random_tensor(rng, (channels, 1, 3, 3), U4),), outputs=3, kernel=3,
                         group=channels, w_fmt=S4, weights=rng.integers(-1, 2, (3, channels, 3, 3)))
    run_case(open_engine(name), layer_case(rng, config, layer), "large group")


def test_the_host_may_load_activations_while_a_layer_runs() -> None:
    """The post-processor's writes go first, and no beat of the host's is lost."""
    name = "1+1"
    engine, config = open_engine(name), CONFIGS[name]
    rng = np.random.default_rng(4)
    layer = random_layer(rng, config, shape=(1, 2, 8, 8), outputs=4, kernel=1, transform="upsample", out_fmt=U8,
                         in_fmts=[U4], w_fmt=S4)
    case = layer_case(rng, config, layer)
    engine.fill(case.before)
    free = -(-case.placement.end // config.bus_nibbles)     # first beat behind the layer's tensors
    news = rng.integers(0, 16, config.act_nibbles).astype(np.uint8)
    case.after[free * config.bus_nibbles:] = news[free * config.bus_nibbles:]
    engine.sim.send("load", np.concatenate([
        *(label_beats(config, item.place, item.labels) for item in case.inputs), image_beats(config, case.image),
        *ktile_beats(config, case.image)]))
    engine.sim.run(10_000)
    engine.sim.send("load", memory_beats(config, news)[free:])
    engine.sim.send("layer", to_words([layer_word(config, case.image)], layer_layout(config).size))
    engine.sim.run(10_000, until="done")
    engine.sim.run(10_000)
    assert not difference(case, engine.read())


POLICIES = {"every": RefreshPolicy("every"), "every_n": RefreshPolicy("every_n", n=2),
            "mask": RefreshPolicy("mask", mask=0b0110), "frozen": RefreshPolicy("frozen")}


@cache
def steps_of_program() -> list[Step]:
    return program()


@pytest.mark.parametrize("mode", ["threshold", "balance"])
@pytest.mark.parametrize("refresh", POLICIES)
@pytest.mark.parametrize("name", SMALL)
def test_same_program_gives_the_same_memory_in_every_combination(name: str, refresh: str, mode: str) -> None:
    """Whatever the arrays, the refresh policy and the mode; the labels are golden's, and channels follow them."""
    engine, config, policy = open_engine(name), CONFIGS[name], replace(POLICIES[refresh])
    engine.set_policy(policy)
    labels = {output: random_labels(np.random.default_rng(number), Tensor(np.ones((channels, 1, 1, 1), np.int64), U4))
              for number, (output, channels) in enumerate(CHANNELS.items())}
    for output, initial in labels.items():
        engine.set_labels(LABELS[output], initial)
    for number, step in enumerate(steps_of_program()):
        labels["x"], before = step.labels, step.before
        engine.fill(before)
        engine.set_labels(LABELS["x"], step.labels)
        for work in step.runs:
            where = f"{name}, {refresh}, {mode}, step {number}, {work.output}"
            pixels = int(np.prod(work.layer.in_shape[1:])) // (4 if work.layer.transform == "space_to_depth" else 1)
            detection = threshold_detection(pixels) if mode == "threshold" else \
                balance_detection(pixels, config.dense, config.sparse, config.dense_taps)
            image = compile_layer(
                work.layer, config, work.placement, in_labels=[LABELS[tensor] for tensor in work.inputs],
                out_labels=LABELS[work.output], detection=detection, step=number)
            due = policy.at(number)
            made = classify(work.nonzeros, detection, None if due else labels[work.output])
            case = LayerCase(work.layer, work.placement, image, before, work.after,
                             tuple(Labelled(LABELS[tensor], labels[tensor]) for tensor in work.inputs),
                             Labelled(LABELS[work.output], made), labels[work.output])
            check_run(engine, case, where)
            labels[work.output], before = made, work.after
