"""The demo's pictures: digits, and the zeros that each layer read in each time step."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from golden.workload.unet import Float32Array

__all__ = ["draw_samples", "draw_zeros"]

INK = 16


def draw_samples(rows: Mapping[str, Float32Array], labels: Sequence[int], title: str) -> bytes:
    """Images [N, H, W] in pixel units, a row per name, as PNG."""
    figure = Figure(figsize=(0.95 * len(labels) + 1.3, 1.05 * len(rows) + 0.5), dpi=80, facecolor="white",
                    layout="constrained")
    axes = figure.subplots(len(rows), len(labels), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for panel, image, label in zip(line, images, labels, strict=True):
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=INK, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            if line is axes[0]:
                panel.set_title(str(label), fontsize=10)
        line[0].set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return _png(figure)


def draw_zeros(shares: Mapping[str, Sequence[float | None]], title: str) -> bytes:
    """Zeros by layer and time step, and their mean over the steps, as PNG; blank where nothing was counted."""
    values: NDArray[Any] = 100 * np.array([[np.nan if share is None else share for share in line]
                                           for line in shares.values()])
    steps = values.shape[1]
    figure = Figure(figsize=(2.6 + 0.36 * steps, 1.4 + 0.27 * len(values)), dpi=90, facecolor="white",
                    layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if value < 60 else "black")
    axes.set(xlabel="time step (0: noise)", title=title)
    axes.set_xticks(range(steps))
    axes.set_yticks(range(len(values)), list(shares), fontsize=8)
    axes.title.set_fontsize(10)
    figure.colorbar(heat, ax=axes, label="zeros in the layer's input (%)")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
