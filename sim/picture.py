"""The demo's picture: where the multipliers' cycles went, and the maps that the hardware computed."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from golden.formats import Int64Array
from golden.layer import Transform
from golden.workload.layers import RealLayer

from .measure import STALLS, Measured

__all__ = ["draw"]

CHANNELS = 8
COLOURS = {
    "multiplying, activation not 0": "#1b6ca8",
    "multiplying, activation 0": "#8fc1e3",
    "busy, multiplier without work": "#d9d9d9",
    "stall: fetch": "#f2c14e",
    "stall: weights": "#f78154",
    "stall: drain": "#b4436c",
    "stall: post": "#5b3758",
    "stall: write": "#3d8361",
    "begin and end": "#404040",
}

Runs = Sequence[tuple[RealLayer, Measured]]


def draw(runs: Runs, title: str) -> bytes:
    """The picture of a demo's runs as PNG: bars per layer, summed over the steps, and one layer's maps per step."""
    by_layer: dict[str, list[Measured]] = {}
    for real, measured in runs:
        by_layer.setdefault(real.layer.name, []).append(measured)
    height = 2.2 + 0.27 * len(by_layer)
    figure = Figure(figsize=(11, height + 6.2), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", y=0.995)
    (top,), (bottom,) = figure.subfigures(2, 1, height_ratios=[height, 6.2], squeeze=False)
    _bars(top, by_layer)
    _maps(bottom, runs)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _shares(measured: Sequence[Measured]) -> dict[str, float]:
    """Percent of the multipliers' cycles, by the names of `COLOURS`."""
    peak = measured[0].config.peak_macs
    cycles = sum(run.cycles for run in measured)
    causes = {cause: sum(run.causes[cause] for run in measured) for cause in ("busy", *STALLS, "ends")}
    macs = sum(run.macs for run in measured) / peak
    nonzero = sum(run.nonzero_macs for run in measured) / peak
    spent = [nonzero, macs - nonzero, causes["busy"] - macs, *(causes[cause] for cause in STALLS), causes["ends"]]
    return {name: 100 * value / cycles for name, value in zip(COLOURS, spent, strict=True)}


def _bars(figure: SubFigure, by_layer: Mapping[str, Sequence[Measured]]) -> None:
    figure.subplots_adjust(left=0.1, right=0.74, top=0.85, bottom=0.11)
    axes = figure.add_subplot()
    for place, measured in enumerate(by_layer.values()):
        left = 0.0
        for part, share in _shares(measured).items():
            axes.barh(place, share, left=left, color=COLOURS[part], height=0.75, label=part if place == 0 else None)
            left += share
        cycles, macs, ideal = (sum(getattr(run, item) for run in measured) for item in ("cycles", "macs", "ideal"))
        axes.text(101, place, f"{macs / cycles:5.0f} MAC/cycle, {100 * ideal / cycles:.1f} % of ideal",
                  va="center", fontsize=8, family="monospace")
    axes.set_yticks(range(len(by_layer)), list(by_layer), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the multipliers' cycles, start of the layer to its last write (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(ncols=5, fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.11, 1.0), frameon=False)


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
        found, expected = (_before_transform(tensor.values, real.layer.transform)
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


def _before_transform(values: Int64Array, transform: Transform) -> Int64Array:
    """An output map as it was before the write transform."""
    if transform == "upsample":
        return values[:, :, ::2, ::2]
    if transform == "space_to_depth":
        channels, samples, height, width = values.shape
        blocks = values.reshape(channels // 4, 2, 2, samples, height, width).transpose(0, 3, 4, 1, 5, 2)
        return blocks.reshape(channels // 4, samples, 2 * height, 2 * width)
    return values


def _mosaic(maps: NDArray[Any]) -> NDArray[np.float64]:
    """Maps [channels, H, W] side by side in two lines, a blank pixel apart."""
    count, height, width = maps.shape
    columns = -(-count // 2)
    board = np.full((2 * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, values in enumerate(maps):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        board[y:y + height, x:x + width] = values
    return board
