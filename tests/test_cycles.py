"""The cycle model against the engine's counters, and the study that is built on it."""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from golden.cycles import CAUSES, Counters, predict
from golden.detector import Detection, Labels, label_cycles
from golden.formats import FORMATS, S4, U4, Tensor
from golden.layer import LabelPlace, Layer, LayerError, compile_layer, initial_memory, place
from golden.machine import Machine
from golden.scheduler import schedule
from golden.study import TraceLayer, bound, label, layer_work, sweep
from golden.work import HANDOVER_CYCLES, LayerWork, ListWork, image_work, inside_taps, skews, tap_counts
from hw.config import Config, preset
from hw.gen import emit
from hw.interfaces import layer_layout
from hw.sparse import skews as hw_skews
from sim.beats import image_beats, ktile_beats, layer_word
from sim.engine import EngineRun, FastEngine
from sim.fast import FastSim
from sim.stimulus import chained_case, layer_case, output_nonzeros, random_layer
from sim.words import to_words

BUILD = Path(__file__).parents[1] / "build"
TINY = preset("tiny")
CONFIGS = {
    "dense": replace(TINY, dense=1, sparse=0, rows=3, cols=5, lanes_per_scale=2, window_width=3),
    "sparse": replace(TINY, dense=0, sparse=1, rows=5, cols=6, lanes_per_scale=3, fifo_depth=1, window_width=2),
    "one-of-each": replace(TINY, dense=1, sparse=1, dense_taps=1, fifo_depth=3),
    "eight-rows": replace(TINY, dense=1, sparse=1, rows=8, fifo_depth=8, bus_bits=128, fetch_depth=9),
}
# Arrays that share read ports, or have one each and the residual another.
MIXES = [(1, 1), (2, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1)]
SMALL = replace(TINY, cols=2, lanes_per_scale=2)
SHAPES = (  # in turn for the mixes; small, for they are to be compiled
    {"dense_taps": 1}, {"rows": 3, "window_width": 3, "lanes_per_scale": 2},
    {"rows": 2, "fetch_depth": 9, "fifo_depth": 3}, {"window_width": 0, "fifo_depth": 1},
)
SHARED = {
    f"{dense}+{sparse}-on-{ports}-port": replace(SMALL, dense=dense, sparse=sparse, read_ports=ports,
                                              **SHAPES[(number + ports) % len(SHAPES)])
    for number, (dense, sparse) in enumerate(MIXES) for ports in range(1, min(3, dense + sparse + 1) + 1)
}
CONFIGS |= SHARED
# The others are `make soak`'s: each takes half a minute to compile.
CHOSEN = {"1+1-on-1-port", "0+2-on-1-port", "1+2-on-2-port", "2+1-on-2-port", "2+2-on-3-port"}
assert set(SHARED) >= CHOSEN
LAYERS = 25
FEWER = 12      # of the mixes, of which there are many


@cache
def open_sim(name: str) -> FastSim:
    verilog = emit(CONFIGS[name], "engine", out=BUILD / "test_cycles" / name)
    return FastSim.build(verilog, "sqdm_engine", BUILD)


def draw_layer(rng: np.random.Generator, config: Config) -> Layer:
    """A layer of 4- and, where it can run, of 8-bit activations, of any density, some of them read upsampled."""
    while True:
        shape = [int(rng.integers(1, most)) for most in (12, 4, 8, 10)]
        density = rng.random() * rng.random((shape[0], 1, 1, 1))
        formats = list(FORMATS.values()) if config.sparse and rng.random() < 0.3 else [FORMATS["u4"]]
        fmt = formats[rng.integers(len(formats))]
        values = rng.integers(fmt.min, fmt.max + 1, shape) * (rng.random(shape) < density)
        layer = random_layer(rng, config, inputs=(Tensor(values, fmt),),
                             upsampled=2 * shape[3] in config.upsampled_widths and rng.random() < 0.5)
        try:
            compile_layer(layer, config, place(layer, config))
        except LayerError:
            continue
        return layer


def run_both(name: str, seed: int) -> tuple[EngineRun, Counters]:
    """Counters of a random layer with random labels, measured and predicted."""
    config, sim = CONFIGS[name], open_sim(name)
    rng = np.random.default_rng(seed)
    layer = draw_layer(rng, config)
    channels = layer.in_shape[0]
    values = layer.inputs[0].values.reshape(channels, -1)
    labels = Labels(rng.random(channels) < 0.5, ~values.any(axis=1) & (rng.random(channels) < 0.7),
                    rng.integers(0, 32, channels))
    placement = place(layer, config)
    image = compile_layer(layer, config, placement, rng.permutation(channels).tolist())
    memory = initial_memory(layer, placement, np.zeros(config.act_nibbles, np.uint8))

    engine = FastEngine(config, sim)
    engine.fill(memory)
    engine.set_labels(LabelPlace(0, 0), labels)
    measured = engine.run(image, limit=200_000)

    flags = [(bool(labels.sparse[item.label]), bool(labels.dead[item.label]), int(labels.bin[item.label]))
             for item in image.table]
    lists = schedule(image.table, flags, config, even=image.fields["even"])
    work = image_work(layer, image, memory, lists, len(ktile_beats(config, image)[0]))
    return measured, predict(config, work)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.soak) if name in SHARED and name not in CHOSEN else name for name in CONFIGS])
def test_predicted_counters_are_the_measured_ones(name: str) -> None:
    """Whatever ran before, and whoever shares a read port."""
    open_sim(name).reset()
    for seed in range(FEWER if "port" in name else LAYERS):
        measured, predicted = run_both(name, seed)
        where = f"{name}, seed {seed}"
        assert predicted.cycles == measured.cycles, where
        for array, (model, counters) in enumerate(zip(predicted.array, measured.array, strict=True)):
            assert {cause: model[cause] for cause in counters} == counters, f"{where}, array {array}"


@pytest.mark.parametrize("name", ["one-of-each", "eight-rows"])
@pytest.mark.parametrize("transform", ["none", "space_to_depth"])
def test_a_layer_waits_for_the_labels_of_the_one_before(name: str, transform: str) -> None:
    """Of two layers back to back, the second one's counters are predicted too, wherever it has to wait."""
    config, sim, waits = CONFIGS[name], open_sim(name), []
    sim.reset()
    engine = FastEngine(config, sim)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        first = random_layer(rng, config, shape=(2, 1, 4, 4), outputs=4, kernel=1, transform=transform, residual=None)
        case = layer_case(rng, config, first, first=(0, 0, 0), detect=True)
        following = chained_case(rng, config, case, U4, w_fmt=S4)
        engine.fill(case.before)
        for item in case.inputs:
            engine.set_labels(item.place, item.labels)
        beats = [part for each in (case, following) for part in
                 (image_beats(config, each.image), *ktile_beats(config, each.image))]
        sim.send("load", np.concatenate(beats))
        sim.run(10_000)
        sim.send("layer", to_words([layer_word(config, each.image) for each in (case, following)],
                                   layer_layout(config).size))
        sim.run(10_000, until="done")
        sim.run(10_000, until="done")
        sim.step()
        measured = engine.counters()

        detection = Detection(**{key.name: case.image.fields[key.name] for key in fields(Detection)})
        nonzeros = output_nonzeros(case.layer, case.placement, case.after)
        work = image_work(following.layer, following.image, following.before, following.lists(config))
        waiting = replace(work, labelled=label_cycles(nonzeros, detection) - HANDOVER_CYCLES)
        predicted = predict(config, waiting)
        waits.append(predicted.cycles - predict(config, work).cycles)
        assert predicted.cycles == measured.cycles, f"seed {seed}"
        for model, counters in zip(predicted.array, measured.array, strict=True):
            assert {cause: model[cause] for cause in counters} == counters, f"seed {seed}"
    assert max(waits) > 0


def plain_work(machine: Config, nonzero: np.ndarray, outputs: int = 4) -> LayerWork:
    """All channels on array 0, in vectors of one channel."""
    channels = len(nonzero)
    lists = [ListWork(np.arange(channels), np.ones(channels, bool))]
    lists += [ListWork(np.zeros(0, np.int64), np.zeros(0, bool))] * (machine.arrays - 1)
    return LayerWork(nonzero=nonzero, taps=np.full(channels, 0b111_111_111), lists=lists, outputs=outputs)


def test_tap_counts_are_those_of_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(1)
    nonzero, taps = rng.random((5, 2, 3, 4)) < 0.5, rng.integers(1, 512, 5)
    for wrap in (False, True):
        counts = tap_counts(nonzero, taps, wrap).reshape(nonzero.shape)
        for c, n, h, w in np.ndindex(nonzero.shape):
            expected = 0
            for tap in range(9):
                y, x = h + tap // 3 - 1, w + tap % 3 - 1
                if taps[c] >> tap & 1 and (wrap or (0 <= y < 3 and 0 <= x < 4)):
                    expected += nonzero[c, n, y % 3, x % 4]
            assert counts[c, n, h, w] == expected


def test_nonzeros_and_skipped_zeros_make_up_the_taps_inside_the_image() -> None:
    machine = replace(TINY, dense=0, sparse=1)
    nonzero = np.random.default_rng(2).random((6, 2, 3, 5)) < 0.4
    counters = predict(machine, plain_work(machine, nonzero)).array[0]
    inside = 6 * 2 * (3 * 3 - 2) * (3 * 5 - 2)
    assert inside_taps(plain_work(machine, nonzero), 0) == inside
    assert counters["nonzeros"] + counters["skipped"] == inside
    assert counters["nonzeros"] <= counters["steps"]


def test_a_dense_layer_of_sparse_rows_takes_a_cycle_per_tap_and_little_more() -> None:
    machine = replace(TINY, dense=0, sparse=1)
    counters = predict(machine, replace(plain_work(machine, np.ones((40, 1, 8, 8), bool)), wrap=True))
    assert counters.array[0]["busy"] == 40 * 9 * 16
    assert counters.cycles < 1.02 * 40 * 9 * 16


def test_rows_are_skewed_as_in_the_hardware() -> None:
    for rows in range(2, 129):
        assert skews(rows) == hw_skews(rows)


def test_an_array_without_channels_has_no_taps() -> None:
    counts = tap_counts(np.zeros((0, 2, 3, 4), bool), np.zeros(0, np.int64))
    assert counts.shape == (0, 24)


def trace_layers() -> list[TraceLayer]:
    rng = np.random.default_rng(3)
    density = 0.6 * rng.random((32, 1, 1, 1))   # all below the threshold
    return [TraceLayer("random", step, rng.random((32, 4, 8, 8)) < density, np.full(32, 0b111_111_111), 16)
            for step in range(2)]


def test_no_layer_of_a_sweep_beats_its_bound_and_balance_beats_threshold() -> None:
    machine: Machine = replace(preset("default"), dense=1, sparse=1, dense_taps=1)
    totals = sweep(trace_layers(), {"balance": (machine, "balance"), "threshold": (machine, "threshold")})
    for total in totals.values():
        assert all(counters.cycles >= least for counters, least in total.layers.values())
        assert total.bound <= total.cycles
    assert totals["balance"].cycles < totals["threshold"].cycles


def test_labels_move_channels_between_arrays() -> None:
    machine = replace(preset("default"), dense=1, sparse=1, dense_taps=1)
    layer = trace_layers()[0]
    labels = label(machine, layer, "threshold")
    work = layer_work(machine, layer, labels)
    assert labels.sparse.all()
    assert work.lists[1].position.tolist() == np.flatnonzero(~labels.dead).tolist()
    some = replace(labels, sparse=np.arange(32) % 3 == 0)
    assert layer_work(machine, layer, some).lists[0].position.tolist() == np.flatnonzero(~some.sparse).tolist()
    assert bound(machine, work) > 0
    assert set(CAUSES) <= predict(machine, work).array[0].keys()
