"""Speed-up by sparsity on recorded activations: the cycle model's tables, and runs of the engine that anchor them.

    python -m sim.study                         all layers and steps of both traces, 16x16, 8x32 and 4x64
    python -m sim.study --anchor --steps 0 9 17 the same layers in the emitted Verilog, counter by counter
"""

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from golden.cycles import predict
from golden.detector import Labels
from golden.formats import S4, U4, Tensor
from golden.layer import LabelPlace, Layer, compile_layer, initial_memory, place
from golden.ppu import PostParams
from golden.study import GROUP, Mode, TraceLayer, bound, label, layer_work, read_trace, sweep
from hw.config import Config, preset
from hw.gen import emit

from .beats import ktile_beats
from .engine import EngineRun, FastEngine
from .fast import FastSim

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
SHAPES = ((16, 16), (8, 32), (4, 64))


def machines(config: Config) -> dict[str, tuple[Config, Mode]]:
    """Mixes of as many arrays, and how they are labelled; the first is what the others are compared with."""
    mixed, sparse = replace(config, dense=1, sparse=1), replace(config, dense=0, sparse=2)
    return {
        "2 dense": (replace(config, dense=2, sparse=0), "balance"),
        "1 + 1 threshold": (mixed, "threshold"),
        "1 + 1 balance": (mixed, "balance"),
        "2 sparse": (sparse, "balance"),
    }


def tables(layers: list[TraceLayer], config: Config) -> Iterable[str]:
    """Yield a table's lines: speed-up over two dense arrays, and the share of what the split allows."""
    for rows, cols in SHAPES:
        choices = machines(replace(config, rows=rows, cols=cols, dense_taps=1))
        for wrap in (False, True):
            began, done = time.monotonic(), 0

            def progress(_layer: TraceLayer) -> None:
                nonlocal done
                done += 1
                if sys.stderr.isatty():
                    print(f"\r{done} of {len(layers)} layers, {time.monotonic() - began:.0f} s ", end="",  # noqa: B023
                          file=sys.stderr)

            totals = sweep(layers, choices, wrap=wrap, progress=progress)
            base = next(iter(totals.values())).cycles
            cells = [f"{base / total.cycles:.2f} ({total.bound / total.cycles:.0%} of its bound)"
                     for total in list(totals.values())[1:]]
            yield f"| {rows}x{cols}, {'no borders' if wrap else 'with borders'} | {' | '.join(cells)} |"


def real_layer(layer: TraceLayer, rng: np.random.Generator) -> Layer:
    """Give a recorded mask random values and weights."""
    channels, samples = layer.nonzero.shape[:2]
    values = layer.nonzero * rng.integers(1, U4.max + 1, layer.nonzero.shape)
    used = (layer.taps[:, None] >> np.arange(9) & 1).reshape(channels, 3, 3)
    weights = rng.integers(1, S4.max + 1, (layer.outputs, channels, 3, 3)) * used
    ones = np.ones((1, layer.outputs), np.int64)
    post = PostParams(M=ones, R=0 * ones, B=0 * ones, shift=12, dead_zone=0,
                      sample_block=np.zeros(samples, np.int64))
    codes = np.zeros((layer.outputs, -(-channels // GROUP)), np.uint8)
    return Layer(layer.name, (Tensor(values, U4),), weights, S4, codes, GROUP, post, U4)


def measure(engine: FastEngine, layer: TraceLayer, labels: Labels) -> tuple[EngineRun, int]:
    """Run a recorded layer in the engine; also return the beats of a k-tile, which load while others are used."""
    config = engine.config
    real = real_layer(layer, np.random.default_rng(layer.step))
    placement = place(real, config)
    engine.sim.reset()
    engine.fill(initial_memory(real, placement, np.zeros(config.act_nibbles, np.uint8)))
    engine.set_labels(LabelPlace(0, 0), labels)
    image = compile_layer(real, config, placement)
    return engine.run(image), len(ktile_beats(config, image)[0])


def anchor(layers: Iterable[TraceLayer], config: Config, build: Path) -> Iterable[str]:
    """Yield a line for each layer and machine: cycles measured, cycles predicted."""
    engines = {}
    choices = machines(replace(config, dense_taps=1))
    for machine, _ in choices.values():
        if machine not in engines:
            sim = FastSim.build(emit(machine, out=build / f"{machine.dense}-{machine.sparse}"), "sqdm", build)
            engines[machine] = FastEngine(machine, sim)
    for layer in layers:
        for name, (machine, mode) in choices.items():
            labels = label(machine, layer, mode)
            measured, beats = measure(engines[machine], layer, labels)
            work = replace(layer_work(machine, layer, labels), ktile_beats=beats)
            predicted = predict(machine, work)
            exact = all({cause: model[cause] for cause in counters} == counters
                        for model, counters in zip(predicted.array, measured.array, strict=True))
            yield (f"| {layer.name}, step {layer.step} | {name} | {measured.cycles} | {predicted.cycles} | "
                   f"{'all' if exact else 'not all'} | {bound(machine, work):.0f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="directory of trace_pre.npz and trace_post.npz")
    parser.add_argument("--steps", type=int, nargs="*", help="time steps, all by default")
    parser.add_argument("--layers", nargs="*", help="layers, all by default")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--fifo-depth", type=int, help="instead of the preset's")
    parser.add_argument("--anchor", action="store_true", help="run the layers in the emitted Verilog")
    parser.add_argument("--build", type=Path, default=Path("build/study"))
    options = parser.parse_args()
    config = preset(options.preset)
    if options.fifo_depth:
        config = replace(config, fifo_depth=options.fifo_depth)
    for trace in ("pre", "post"):
        layers = [layer for layer in read_trace(options.data / f"trace_{trace}.npz", options.steps)
                  if not options.layers or layer.name in options.layers]
        if options.anchor:
            lines = anchor(layers, config, options.build)
            print(f"\n| {trace} | arrays | measured | predicted | counters equal | bound |\n|---|---|---|---|---|---|")
        else:
            lines = tables(layers, config)
            print(f"\n| {trace} | 1 + 1 threshold | 1 + 1 balance | 2 sparse |\n|---|---|---|---|")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
