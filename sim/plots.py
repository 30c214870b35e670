"""Pictures of what sparsity brings: cycles against zeros, zeros and labels of a real layer, and the study's speed-ups.

    python -m sim.study         writes build/study/study.json
    python -m sim.plots         draws from it, from the cycle model and from the trained network, into docs/
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from golden.cycles import predict
from golden.report import write_whole
from golden.study import ALL_TAPS, TraceLayer, bound, label, layer_work
from golden.workload.layers import Workload, real_layer
from golden.workload.sampler import STEPS
from hw.config import Config, preset

from .measure import label_input
from .network import LabelPlace

__all__ = ["draw_crossover", "draw_speedup", "draw_zeros", "main"]

DENSE, SPARSE, DEAD = "#1b6ca8", "#2e8b57", "#202020"
ORANGE = "#e07b39"
SHOWN_LAYER = "u1.conv0"
MACHINES = {"1 + 1 threshold": "#8fc1e3", "1 + 1 balance": DENSE, "2 sparse": SPARSE}


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def random_cycles(config: Config, zeros: float, channels: int = 64, size: int = 16) -> tuple[int, float]:
    """Cycles, and the bound, of a 3x3 layer with random zeros on one array."""
    rng = np.random.default_rng(round(1000 * zeros))
    layer = TraceLayer("random", 0, rng.random((channels, 1, size, size)) >= zeros, np.full(channels, ALL_TAPS), 64)
    work = layer_work(config, layer, label(config, layer, "none"))
    return predict(config, work).cycles, bound(config, work)


def draw_crossover(config: Config) -> bytes:
    """Cycles of one layer against its zeros, on a dense and on a sparse array."""
    zeros = np.linspace(0, 0.98, 50)
    dense3, dense1, sparse = (replace(config, dense=dense, sparse=1 - dense, dense_taps=taps)
                              for dense, taps in ((1, 3), (1, 1), (0, 1)))
    found = np.array([random_cycles(sparse, share) for share in zeros])
    figure = Figure(figsize=(8, 4.6), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.plot(100 * zeros, found[:, 0], color=SPARSE, lw=2, label=f"sparse array, {sparse.peak_macs} multipliers")
    axes.plot(100 * zeros, found[:, 1], color=SPARSE, lw=1, ls=":", label="its ideal: every row always busy")
    for machine, colour in ((dense1, ORANGE), (dense3, DENSE)):
        cycles, _ = random_cycles(machine, 0.0)
        axes.axhline(cycles, color=colour, lw=2, label=f"dense array, {machine.peak_macs} multipliers")
        crossing = float(np.interp(-cycles, -found[:, 0], 100 * zeros))
        if 0 < crossing < 98:
            axes.plot(crossing, cycles, "o", color="black", ms=5, zorder=3)
            axes.annotate(f"{crossing:.0f} % zeros", (crossing, cycles), (6, 6), textcoords="offset points", fontsize=9)
    axes.set(xlim=(0, 98), ylim=(0, None), xlabel="zeros among the activations (%)", ylabel="cycles")
    axes.set_title(f"3x3, 64 -> 64 channels, 16x16 pixels, random zeros, {config.rows} x {config.cols}", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return _png(figure)


def draw_zeros(config: Config, workload: Workload, name: str = SHOWN_LAYER) -> bytes:
    """Zeros per channel and time step of a real layer's input, beside the labels of mode `balance`."""
    shares, labels = [], []
    for step in range(STEPS):
        for number, tensor in enumerate(real_layer(name, step, workload).layer.inputs):
            if number == 0:
                shares.append(np.zeros(0))
                labels.append(np.zeros(0, int))
            made = label_input(config, tensor, LabelPlace(0, 0)).labels
            shares[-1] = np.append(shares[-1], (tensor.values == 0).mean(axis=(1, 2, 3)))
            labels[-1] = np.append(labels[-1], np.where(made.dead, 2, made.sparse))
    figure = Figure(figsize=(10, 5.4), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    order = np.argsort(np.mean(shares, axis=0))
    heat = left.imshow(100 * np.array(shares).T[order], aspect="auto", cmap="viridis", vmin=0, vmax=100,
                       interpolation="nearest")
    left.set(xlabel="time step (0 noise, 17 image)", ylabel="input channel, ordered by its zeros",
             title=f"{name}: zeros of each channel (%)")
    figure.colorbar(heat, ax=left)
    chosen = right.imshow(np.array(labels).T[order], aspect="auto", vmin=-0.5, vmax=2.5, interpolation="nearest",
                          cmap=ListedColormap([DENSE, SPARSE, DEAD]))
    right.set(xlabel="time step", title="label, made anew in every step")
    bar = figure.colorbar(chosen, ax=right, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(["dense", "sparse", "dead"])
    for axes in (left, right):
        axes.set_xticks(range(0, STEPS, 3))
    return _png(figure)


def draw_speedup(report: dict[str, Any]) -> bytes:
    """Speed-up over two dense arrays of every mix of arrays, beside what its split allows."""
    figure = Figure(figsize=(11, 4.4), dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(report["traces"]), sharey=True)
    shapes = list(dict.fromkeys((row["rows"], row["cols"]) for row in report["model"]))
    for axes, (trace, described) in zip(panels, report["traces"].items(), strict=True):
        for place, (variant, (rows, cols)) in enumerate(
                (variant, shape) for variant in ("borders", "wrapped") for shape in shapes):
            for number, (machine, colour) in enumerate(MACHINES.items()):
                (row,) = (row for row in report["model"] if (row["trace"], row["variant"], row["machine"], row["rows"],
                                                             row["cols"]) == (trace, variant, machine, rows, cols))
                x = place + 0.27 * (number - 1)
                axes.bar(x, row["speedup"], 0.25, color=colour, label=machine if place == 0 else None)
                axes.hlines(row["speedup_bound"], x - 0.125, x + 0.125, color="black", lw=1.5,
                            label="what the split allows" if place == number == 0 else None)
                axes.text(x, row["speedup"] - 0.05, f"{row['speedup']:.1f}", ha="center", va="top", fontsize=7.5,
                          color="white" if number else "black")
        axes.axhline(1, color="black", lw=0.8)
        axes.set_title(described, fontsize=10)
        axes.set_xticks(range(2 * len(shapes)),
                        [f"{rows}x{cols}\n{note}" for note in ("", "no borders") for rows, cols in shapes], fontsize=8)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("times as fast as two dense arrays")
    panels[0].legend(fontsize=8, loc="upper right")
    figure.suptitle("Same number of multipliers, all layers, six time steps, batch of 10", fontsize=11)
    return _png(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all pictures and return the exit code."""
    parser = argparse.ArgumentParser("python -m sim.plots", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("build/study/study.json"), metavar="FILE",
                        help="what sim.study wrote (default: build/study/study.json)")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="(default: docs)")
    options = parser.parse_args(arguments)
    try:
        report = json.loads(options.study.read_text())
    except (OSError, json.JSONDecodeError) as error:
        print(f"sim.plots: {options.study}: {error}; run `make study` first", file=sys.stderr)
        return 1
    config = preset("default")
    pictures = {"speedup.png": draw_speedup(report), "crossover.png": draw_crossover(config),
                "zeros.png": draw_zeros(config, Workload())}
    for name, content in pictures.items():
        write_whole(options.out / name, content)
        print(options.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
