"""Picture of single layers: what each array did in their cycles, and the maps that the hardware computed."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from golden.formats import Int64Array, Tensor
from golden.layer import Transform
from golden.layout import depth_to_space
from golden.workload.layers import RealLayer

from .measure import Measured

__all__ = ["draw"]

CHANNELS = 8
COLOURS = {
    "dense array multiplies, activation not 0": "#1b6ca8",
    "dense array multiplies by 0": "#8fc1e3",
    "sparse array multiplies": "#2e8b57",
    "the array's rows wait or are done": "#e4e4e4",
}

Runs = Sequence[tuple[RealLayer, Measured]]


def draw(runs: Runs, title: str) -> bytes:
    """The picture of the runs as PNG: bars per layer, summed over the steps, and one layer's maps per step."""
    by_layer: dict[str, list[Measured]] = {}
    for real, measured in runs:
        by_layer.setdefault(real.layer.name, []).append(measured)
    height = 2.2 + 0.3 * len(by_layer)
    figure = Figure(figsize=(11, height + 6.2), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", y=0.995)
    (top,), (bottom,) = figure.subfigures(2, 1, height_ratios=[height, 6.2], squeeze=False)
    _bars(top, by_layer)
    _maps(bottom, runs)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _shares(measured: Sequence[Measured], dense: bool) -> list[float]:
    """Percent of the row cycles of the arrays of one kind, in the order of `COLOURS`."""
    config = measured[0].config
    arrays = range(config.dense) if dense else range(config.dense, config.arrays)
    total = config.rows * len(arrays) * sum(run.cycles for run in measured)
    steps = sum(run.counters.array[array]["steps"] for run in measured for array in arrays)
    if not dense:
        return [0, 0, 100 * steps / total, 100 - 100 * steps / total]
    # With several taps per step a step multiplies as long as one of them is not 0; count the share of its taps.
    nonzero = sum(run.nonzero_share(array) * run.counters.array[array]["steps"] for run in measured for array in arrays)
    return [100 * nonzero / total, 100 * (steps - nonzero) / total, 0, 100 - 100 * steps / total]


def _bars(figure: SubFigure, by_layer: Mapping[str, Sequence[Measured]]) -> None:
    figure.subplots_adjust(left=0.1, right=0.74, top=0.87, bottom=0.11)
    axes = figure.add_subplot()
    config = next(iter(by_layer.values()))[0].config
    for place, measured in enumerate(by_layer.values()):
        for dense, offset in ((True, -0.2), (False, 0.2)):
            if not (config.dense if dense else config.sparse):
                continue
            left = 0.0
            for colour, share in zip(COLOURS.values(), _shares(measured, dense), strict=True):
                axes.barh(place + offset, share, left=left, color=colour, height=0.38)
                left += share
        cycles = sum(run.cycles for run in measured)
        baseline = [run.dense_cycles for run in measured if run.dense_cycles is not None]
        gain = f"{sum(baseline) / cycles:4.2f}x two dense arrays" if baseline else "8 bits: sparse array only"
        axes.text(101, place, f"{cycles:6,} cycles, {gain}", va="center", fontsize=8, family="monospace")
    axes.set_yticks(range(len(by_layer)), list(by_layer), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of an array's cycles, all rows, start of the layer to its last write (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.legend([Patch(color=colour) for colour in COLOURS.values()], list(COLOURS), ncols=4, fontsize=7.5,
                loc="lower left", bbox_to_anchor=(-0.11, 1.0), frameon=False)


def _maps(figure: SubFigure, runs: Runs) -> None:
    name = next((real.layer.name for real, _ in reversed(runs) if real.layer.transform == "none"),
                runs[-1][0].layer.name)
    shown = [(real, measured) for real, measured in runs if real.layer.name == name]
    last, _ = shown[-1]
    fmt = last.layer.out_fmt
    sample = min(3, last.reference.shape[1] - 1)
    channels = np.sort(np.argsort(-last.reference[:, sample].std(axis=(1, 2)))[:CHANNELS])
    figure.subplots_adjust(left=0.1, right=0.92, top=0.89, bottom=0.02, hspace=0.06, wspace=0.06)
    figure.suptitle(f"{name}: output of sample {sample}, {len(channels)} of {len(last.reference)} channels, "
                    f"{fmt.name} ({fmt.min} to {fmt.max})", fontsize=10)
    axes = figure.subplots(3, len(shown), squeeze=False)
    for column, (real, measured) in enumerate(shown):
        found, expected = (_before_transform(tensor, real.layer.transform)
                           for tensor in (measured.written, measured.expected))
        differing = int((measured.written.values != measured.expected.values).sum())
        rows: dict[str, NDArray[Any]] = {"simulated RTL": found, "golden model": expected,
                                         "float network": real.reference}
        for row, (label, maps) in enumerate(rows.items()):
            panel = axes[row, column]
            image = panel.imshow(_mosaic(maps[channels, sample]), vmin=fmt.min, vmax=fmt.max, cmap="viridis",
                                 interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(label, fontsize=9)
        axes[0, column].set_title(f"step {real.step}: {differing} of {found.size:,} values differ", fontsize=9)
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, 0.02, 0.015, 0.87)))
    bar.ax.tick_params(labelsize=8)


def _before_transform(tensor: Tensor, transform: Transform) -> Int64Array:
    """An output map as it was before the write transform."""
    if transform == "space_to_depth":
        return depth_to_space(tensor).values
    return tensor.values[:, :, ::2, ::2] if transform == "upsample" else tensor.values


def _mosaic(maps: NDArray[Any]) -> NDArray[np.float64]:
    """Maps [channels, H, W] side by side in two lines, a blank pixel apart."""
    count, height, width = maps.shape
    columns = -(-count // 2)
    board = np.full((2 * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, values in enumerate(maps):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        board[y:y + height, x:x + width] = values
    return board
