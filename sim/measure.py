"""One layer on the simulated engine: is memory what the golden model says, and what did the cycles go to?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.cycles import Counters, predict
from golden.detector import Detection, Labels, balance_detection, classify
from golden.formats import Tensor
from golden.layer import LabelPlace, Layer, LayerImage, compile_layer, initial_memory, place, run
from golden.layout import load
from golden.scheduler import schedule
from golden.study import OVERHEAD
from golden.work import LayerWork, image_work, tap_counts
from hw.config import Config
from hw.engine import CAUSES

from .beats import ktile_beats
from .engine import EngineRun, FastEngine

__all__ = ["STALLS", "Labelled", "Measured", "OutputLabels", "balance", "count_macs", "deal", "ideal_cycles",
           "label_input", "measure"]

CYCLE_CAUSES = tuple(cause for cause in CAUSES if cause != "steps")
STALLS = CYCLE_CAUSES[1:]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of an input.

    Parameters
    ----------
    place : LabelPlace
    labels : Labels
    by_detector : bool
        The hardware's detector has made them, in an earlier layer; else the host writes them.
    """

    place: LabelPlace
    labels: Labels
    by_detector: bool = False


@dataclass(frozen=True)
class OutputLabels:
    """How the detector labels what a layer writes: where, how, and in which time step."""

    place: LabelPlace
    detection: Detection
    step: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """What a layer's run came to.

    Parameters
    ----------
    config : Config
    layer : Layer
    counters : EngineRun
        The hardware's own counters.
    predicted : Counters
        The cycle model's.
    dense_cycles : int or None
        Predicted for two dense arrays that know nothing of zeros; None if they cannot run the layer.
    work : LayerWork
        What each array had to do.
    labels : Labels
        Of the joined inputs.
    by_detector : bool
        The hardware made all of them, in earlier layers.
    macs, nonzero_macs : int
        As of `count_macs`.
    wrong : int
        Nibbles of the whole activation memory that differ from the golden model's.
    first_wrong : int or None
        The address of the first of them.
    written, expected : Tensor
        What memory holds, and what it should hold, where the layer's output belongs; after the write transform.
    out_labels : Labels or None
        What the detector should have made of the output, where it was asked to.
    wrong_labels : int
        Channels that it labelled differently.
    """

    config: Config
    layer: Layer
    counters: EngineRun
    predicted: Counters
    dense_cycles: int | None
    work: LayerWork
    labels: Labels
    by_detector: bool
    macs: int
    nonzero_macs: int
    wrong: int
    first_wrong: int | None
    written: Tensor
    expected: Tensor
    out_labels: Labels | None
    wrong_labels: int

    @property
    def exact(self) -> bool:
        """Whether the whole memory and all labels are as expected."""
        return self.wrong == 0 and self.wrong_labels == 0

    @property
    def cycles(self) -> int:
        """From the layer's start to its last write."""
        return self.counters.cycles

    @property
    def ideal(self) -> int:
        """As of `ideal_cycles`, of the busiest array."""
        return max(ideal_cycles(self.config, self.work))

    @property
    def efficiency(self) -> float:
        """Ideal cycles over cycles."""
        return self.ideal / self.cycles

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates that the layer asks for, multiplications by zero too, per cycle."""
        return self.macs / self.cycles

    @property
    def zeros(self) -> float:
        """Share of zeros in the layer's input."""
        values = [tensor.values for tensor in self.layer.inputs]
        return float(sum((value == 0).sum() for value in values) / sum(value.size for value in values))

    @property
    def channels(self) -> dict[str, int]:
        """How many input channels went to dense arrays, to sparse ones, and nowhere."""
        dead = self.labels.dead
        if not self.config.sparse or not self.config.dense or not self.layer.four_bit:
            sparse = np.full(len(dead), self.config.sparse > 0)
        else:
            sparse = self.labels.sparse
        return {"dense": int((~sparse & ~dead).sum()), "sparse": int((sparse & ~dead).sum()), "dead": int(dead.sum())}

    @property
    def causes(self) -> dict[str, float]:
        """Cycles by what they went to, mean of the arrays: busy, each stall, and the rest, "ends"; in all `cycles`."""
        arrays = self.counters.array
        causes = {cause: sum(array[cause] for array in arrays) / len(arrays) for cause in CYCLE_CAUSES}
        return causes | {"ends": self.cycles - sum(causes.values())}

    def nonzero_share(self, array: int) -> float:
        """Share of the taps of an array's channels, border taps included, that meet a nonzero nibble."""
        work, share = self.work, self.work.lists[array]
        taps = work.taps[share.position]
        counts = tap_counts(work.nonzero[share.position], taps)
        return float(counts.sum(dtype=np.int64)) / max(1, int(np.bitwise_count(taps).sum()) * work.pixels)

    def kind_utilisation(self, kind: str) -> float | None:
        """`utilisation`, mean of the arrays of a kind, "dense" or "sparse"; None if there are none."""
        dense = self.config.dense
        shares = self.utilisation[:dense] if kind == "dense" else self.utilisation[dense:]
        return sum(shares) / len(shares) if shares else None

    @property
    def utilisation(self) -> list[float]:
        """Of each array, the share of its rows' cycles in which they multiplied."""
        return [array["steps"] / (self.config.rows * self.cycles) for array in self.counters.array]

    def to_json(self) -> dict[str, Any]:
        """The numbers, by name."""
        channels, samples, height, width = self.layer.in_shape
        return {
            "layer": self.layer.name, "in_channels": channels, "out_channels": len(self.layer.weights),
            "kernel": self.layer.weights.shape[-1], "samples": samples, "height": height, "width": width,
            "zeros": round(self.zeros, 4), **{f"{kind}_channels": count for kind, count in self.channels.items()},
            "cycles": self.cycles, "predicted_cycles": self.predicted.cycles, "dense_cycles": self.dense_cycles,
            "ideal_cycles": self.ideal, "efficiency": round(self.efficiency, 4),
            "macs": self.macs, "nonzero_macs": self.nonzero_macs,
            "macs_per_cycle": round(self.macs_per_cycle, 2),
            **{f"utilisation_{array}": round(share, 4) for array, share in enumerate(self.utilisation)},
        } | self.causes | {"exact": self.exact, "wrong_nibbles": self.wrong, "first_wrong": self.first_wrong,
                           "labels": "detector" if self.by_detector else "host", "wrong_labels": self.wrong_labels}


def balance(config: Config, shape: Sequence[int], kept: int = 1) -> Detection:
    """Mode `balance` for a tensor [C, N, H, W] that 3x3 kernels read; the detector counts one of `kept` values."""
    _, samples, height, width = shape
    inside = (3 * height - 2) * (3 * width - 2) / (9 * height * width)
    return balance_detection(samples * height * width // kept, config.dense, config.sparse, config.dense_taps,
                             inside * OVERHEAD)


def label_input(config: Config, tensor: Tensor, place: LabelPlace) -> Labelled:
    """Label an input as the detector would in its mode `balance`, for the host to write."""
    nonzeros = (tensor.values != 0).sum(axis=(1, 2, 3))
    return Labelled(place, classify(nonzeros, balance(config, tensor.shape)))


def deal(config: Config, layer: Layer, image: LayerImage, memory: NDArray[np.uint8],
         inputs: Sequence[Labelled]) -> LayerWork:
    """Work of each array when the channels of the inputs have these labels, weights loaded as `FastEngine.run` does."""
    labels = {
        (item.place.slot, item.place.first + channel): (bool(sparse), bool(dead), int(count_bin))
        for item in inputs
        for channel, (sparse, dead, count_bin) in enumerate(
            zip(item.labels.sparse, item.labels.dead, item.labels.bin, strict=True))
    }
    lists = schedule(image.table, [labels[item.slot, item.label] for item in image.table], config,
                     even=image.fields["even"])
    return image_work(layer, image, memory, lists, len(ktile_beats(config, image)[0]))


def ideal_cycles(config: Config, work: LayerWork) -> list[int]:
    """Cycles of each array if it never waited.

    A dense array takes a kernel line of one channel per cycle (with dense_taps = 1 a tap), so a layer whose taps are
    all used takes ceil(pixels / rows) * ceil(K / cols) * C * taps / dense_taps; a 1x1 kernel is a line too. The rows of
    a sparse array take a nonzero nibble inside the image per cycle; were they all busy in every cycle, they would need
    ceil(nonzeros / rows) * ceil(K / cols).
    """
    k_tiles = -(-work.outputs // config.cols)
    ideal = []
    for array, share in enumerate(work.lists):
        taps = work.taps[share.position]
        if array < config.dense:
            bits = (taps[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3)
            steps = bits.sum() if config.dense_taps == 1 else bits.any(axis=2).sum()
            ideal.append(int(steps) * work.tiles(config.rows) * k_tiles)
        else:
            counts = tap_counts(work.nonzero[share.position], taps, work.wrap)
            ideal.append(-(-int(counts.sum(dtype=np.int64)) // config.rows) * k_tiles)
    return ideal


def count_macs(layer: Layer) -> tuple[int, int]:
    """Multiply-accumulates that the layer asks for, and those of them whose activation is neither zero nor border.

    Taps that no output channel uses are left out, border taps are counted as multiplications by zero.
    """
    outputs, _, kernel, _ = layer.weights.shape
    _, samples, height, width = layer.in_shape
    used = (layer.weights != 0).any(axis=0)
    border = kernel // 2
    nonzero = np.concatenate([tensor.values for tensor in layer.inputs]) != 0
    padded = np.pad(nonzero, ((0, 0), (0, 0), (border, border), (border, border)))
    found = sum(int(padded[used[:, r, s], :, r:r + height, s:s + width].sum())
                for r in range(kernel) for s in range(kernel))
    return outputs * samples * height * width * int(used.sum()), outputs * found


def measure(engine: FastEngine, layer: Layer, inputs: Sequence[Labelled] | None = None,
            output: OutputLabels | None = None, seed: int = 0) -> Measured:
    """Run a layer in the simulated engine and compare the whole activation memory with the golden model's.

    The memory around the layer's tensors is filled with random nibbles first, so that a write to a wrong place shows.

    Parameters
    ----------
    engine, layer
    inputs : per input, Labelled
        By default as of `label_input`, all in slot 0.
    output : OutputLabels, optional
        Let the detector label the output in its policy `every`, and compare the labels too.
    seed : int
        Of the random nibbles.

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run the layer.
    sim.fast.Hang
        If the engine never finishes.
    """
    config = engine.config
    if inputs is None:
        firsts = np.cumsum([0, *(tensor.shape[0] for tensor in layer.inputs)])
        inputs = [label_input(config, tensor, LabelPlace(int(first), 0))
                  for first, tensor in zip(firsts, layer.inputs, strict=False)]
    placement = place(layer, config)
    labelling: dict[str, Any] = {} if output is None else {
        "out_labels": output.place, "detection": output.detection, "step": output.step}
    image = compile_layer(layer, config, placement, in_labels=[item.place for item in inputs], **labelling)
    noise = np.random.default_rng(seed).integers(0, 16, config.act_nibbles).astype(np.uint8)
    memory = initial_memory(layer, placement, noise)
    expected = run(layer, config, placement, memory)
    engine.fill(memory)
    for item in inputs:
        if not item.by_detector:
            engine.set_labels(item.place, item.labels)
    counters = engine.run(image)
    found: NDArray[np.uint8] = engine.read()
    made = load(expected, placement.out, layer.out_fmt, layer.out_shape)
    out_labels, wrong_labels = None, 0
    if output is not None:
        out_labels = classify(count_nonzeros(layer, made), output.detection)
        wrong_labels = differing_labels(engine.labels(output.place, len(out_labels.dead)), out_labels)
    work, baseline = deal(config, layer, image, memory, inputs), None
    if layer.four_bit:
        machine = replace(config, dense=2, sparse=0)
        plain = [replace(item, labels=Labels.all_dense(len(item.labels.dead))) for item in inputs]
        baseline = predict(machine, deal(machine, layer, image, memory, plain)).cycles
    macs, nonzero_macs = count_macs(layer)
    differing = np.flatnonzero(found != expected)
    return Measured(
        config=config, layer=layer, counters=counters, predicted=predict(config, work), dense_cycles=baseline,
        work=work, labels=Labels(*(np.concatenate([getattr(item.labels, part) for item in inputs])
                        for part in ("sparse", "dead", "bin"))),
        by_detector=all(item.by_detector for item in inputs), macs=macs, nonzero_macs=nonzero_macs,
        wrong=len(differing), first_wrong=int(differing[0]) if len(differing) else None,
        written=load(found, placement.out, layer.out_fmt, layer.out_shape), expected=made,
        out_labels=out_labels, wrong_labels=wrong_labels)


def count_nonzeros(layer: Layer, written: Tensor) -> NDArray[np.int64]:
    """Nonzeros of each written channel as the detector counts them: before upsampling."""
    nonzeros = (written.values != 0).sum(axis=(1, 2, 3))
    return nonzeros // 4 if layer.transform == "upsample" else nonzeros


def differing_labels(found: Labels, expected: Labels) -> int:
    """Count the channels whose labels differ."""
    return int(((found.sparse != expected.sparse) | (found.dead != expected.dead) | (found.bin != expected.bin)).sum())

