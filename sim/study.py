"""Speed-up by sparsity on recorded activations: the cycle model's tables, and runs of the engine that anchor them.

Masks of real sampling (golden/data/README.md) of two models, all layers and six time steps, are run on one dense and
one sparse array, with labels of both modes of the detector, and on two sparse arrays, all with one multiplier per lane;
speed-up is against two dense arrays, the same number of multipliers, that know nothing of zeros. Three variants:

    borders     taps outside the image are zeros that a sparse array skips
    wrapped     maps continue with their opposite edge, so that no tap is outside: what is left without that advantage
    batch 1     one sample at a time, and a layer takes at least as long as all its weights take through the load port,
                while it or the one before runs; in the other variants weights count as loaded

With --anchor some layers also run in the emitted Verilog; results and counters are compared. All goes to study.json.
The exit code is 0 if no run differs, else 1.

examples:
  python -m sim.study
  python -m sim.study --anchor
  python -m sim.study --anchor --layers e1.conv0 mid.conv0 --steps 0 10 17
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from golden.cycles import predict
from golden.formats import S4, U4, Tensor
from golden.layer import LabelPlace, Layer, compile_layer, initial_memory, place, run
from golden.ppu import PostParams
from golden.report import Table, announced, write_whole
from golden.study import GROUP, Mode, TraceLayer, bound, label, layer_work, read_trace, sweep
from hw.config import Config, preset
from hw.gen import convert

from .beats import ktile_beats
from .engine import FastEngine
from .fast import FastSim, Hang
from .folders import add_folders
from .toolchain import ToolError

__all__ = ["BASELINE", "main", "model_rows", "trace_layer"]

DATA = Path(__file__).parents[1] / "golden" / "data"
TRACES = {"pre": "pre-activation, GroupNorm", "post": "post-activation, no normalisation"}
SHAPES = ((16, 16), (8, 32), (4, 64))
VARIANTS = ("borders", "wrapped", "batch 1")
BASELINE = "2 dense"
ANCHOR_LAYERS = ("e1.conv0", "down", "mid.conv0", "u1.conv0")
ANCHOR_STEPS = (0, 10, 17)
SAMPLE = 3          # of batch 1


def machines(config: Config) -> dict[str, tuple[Config, Mode]]:
    """Mixes of as many arrays, and how they are labelled; the first is what the others are compared with."""
    mixed, sparse = replace(config, dense=1, sparse=1), replace(config, dense=0, sparse=2)
    return {
        BASELINE: (replace(config, dense=2, sparse=0), "none"),
        "1 + 1 threshold": (mixed, "threshold"),
        "1 + 1 balance": (mixed, "balance"),
        "2 sparse": (sparse, "balance"),
    }


def weight_beats(config: Config, layer: TraceLayer) -> int:
    """Beats of a k-tile: a word for each tap that is used, and the scale codes."""
    groups = -(-len(layer.taps) // GROUP)
    return int(np.bitwise_count(layer.taps).sum()) * config.tap_beats + (
        groups * config.lanes_per_scale * config.scale_beats)


def model_rows(trace: str, layers: Sequence[TraceLayer], config: Config, variant: str) -> Iterator[dict[str, Any]]:
    """Time layers on every mix of arrays in the cycle model; yield a mix's cycles, bound and speed-up."""
    load = dict.fromkeys(((layer.name, layer.step) for layer in layers), 0)
    if variant == "batch 1":
        layers = [replace(layer, nonzero=layer.nonzero[:, SAMPLE:SAMPLE + 1]) for layer in layers]
        load = {(layer.name, layer.step): -(-layer.outputs // config.cols) * weight_beats(config, layer)
                for layer in layers}
    base = 0
    for machine, total in sweep(layers, machines(config), wrap=variant == "wrapped").items():
        cycles = sum(max(counters.cycles, load[key]) for key, (counters, _) in total.layers.items())
        least = sum(max(ideal, load[key]) for key, (_, ideal) in total.layers.items())
        base = base or cycles
        yield {"trace": trace, "rows": config.rows, "cols": config.cols, "variant": variant, "machine": machine,
               "cycles": cycles, "bound": round(least), "speedup": round(base / cycles, 4),
               "speedup_bound": round(base / least, 4), "of_bound": round(least / cycles, 4)}


def trace_layer(layer: TraceLayer) -> Layer:
    """Give a recorded mask random values, weights and codes."""
    rng = np.random.default_rng(layer.step)
    channels, samples = layer.nonzero.shape[:2]
    values = layer.nonzero * rng.integers(1, U4.max + 1, layer.nonzero.shape)
    used = (layer.taps[:, None] >> np.arange(9) & 1).reshape(channels, 3, 3)
    weights = rng.integers(1, S4.max + 1, (layer.outputs, channels, 3, 3)) * used
    post = PostParams(M=rng.integers(1, 100, (1, layer.outputs)), R=np.zeros((1, layer.outputs), np.int64),
                      B=rng.integers(-50_000, 50_000, (1, layer.outputs)), shift=16, dead_zone=0,
                      sample_block=np.zeros(samples, np.int64))
    codes = rng.integers(0, 9, (layer.outputs, -(-channels // GROUP))).astype(np.uint8)
    return Layer(layer.name, (Tensor(values, U4),), weights, S4, codes, GROUP, post, U4)


def anchor_row(engine: FastEngine, trace: str, layer: TraceLayer, machine: str, mode: Mode) -> dict[str, Any]:
    """Run a recorded layer in the engine; compare memory with the golden model, counters with the cycle model.

    Two k-tiles of weights are loaded before it begins, the others while it runs.
    """
    config, real = engine.config, trace_layer(layer)
    labels = label(config, layer, mode)
    placement = place(real, config)
    image = compile_layer(real, config, placement)
    memory = initial_memory(real, placement, np.zeros(config.act_nibbles, np.uint8))
    engine.sim.reset()
    engine.fill(memory)
    engine.set_labels(LabelPlace(0, 0), labels)
    measured = engine.run(image)
    exact = bool((engine.read() == run(real, config, placement, memory)).all())
    work = replace(layer_work(config, layer, labels), ktile_beats=len(ktile_beats(config, image)[0]))
    predicted = predict(config, work)
    return {"trace": trace, "layer": layer.name, "step": layer.step, "machine": machine, "cycles": measured.cycles,
            "predicted": predicted.cycles, "bound": round(bound(config, work)),
            "counters_equal": all({cause: model[cause] for cause in counters} == counters
                                  for model, counters in zip(predicted.array, measured.array, strict=True)),
            "exact": exact, "array": measured.array}


def anchor(traces: dict[str, list[TraceLayer]], config: Config, out: Path, build: Path) -> list[dict[str, Any]]:
    """Run layers in the emitted Verilog of every mix of arrays, printing a line for each; one compiles once."""
    engines: dict[Config, FastEngine] = {}
    for machine, _ in machines(config).values():
        if machine not in engines:
            verilog = convert("engine", machine).write(out / f"{machine.dense}-{machine.sparse}")[0]
            with announced(f"compiling {machine.dense} dense + {machine.sparse} sparse"):
                engines[machine] = FastEngine(machine, FastSim.build(verilog, verilog.stem, build))
    table = Table({"trace": -5, "layer": -9, "step": 4, "arrays": -15, "RTL cycles": 10, "predicted": 9, "speed-up": 8,
                   "of bound": 8, "counters": -8, "result": -6})
    print("\n" + table.head())
    rows = []
    for trace, layers in traces.items():
        for layer in layers:
            base = 0
            for name, (machine, mode) in machines(config).items():
                row = anchor_row(engines[machine], trace, layer, name, mode)
                base = base or row["cycles"]
                rows.append(row)
                print(table.line([trace, layer.name, layer.step, name, row["cycles"], row["predicted"],
                                  f"{base / row['cycles']:.2f}", f"{100 * row['bound'] / row['cycles']:.0f} %",
                                  "equal" if row["counters_equal"] else "DIFFER",
                                  "exact" if row["exact"] else "WRONG"]), flush=True)
    for trace, name in product(traces, machines(config)):
        of = {machine: sum(row["cycles"] for row in rows if (row["trace"], row["machine"]) == (trace, machine))
              for machine in (BASELINE, name)}
        if name != BASELINE:
            print(f"{trace}, these layers, RTL: {name} {of[BASELINE] / of[name]:.2f}")
    return rows


def model(traces: dict[str, list[TraceLayer]], config: Config) -> list[dict[str, Any]]:
    """Sweep all shapes and variants in the cycle model, printing a table."""
    rows: list[dict[str, Any]] = []
    for (height, width), variant, trace in product(SHAPES, VARIANTS, traces):
        with announced(f"{trace}, {height}x{width}, {variant}: {len(traces[trace])} layers"):
            rows += model_rows(trace, traces[trace], replace(config, rows=height, cols=width), variant)
    mixes = [name for name in machines(config) if name != BASELINE]
    table = Table({"trace": -5, "array": -6, "variant": -8} | {name: -22 for name in mixes})
    print("\nSpeed-up over two dense arrays, in brackets what the split allows, and the share of that:\n")
    print(table.head())
    for key in dict.fromkeys((row["trace"], row["rows"], row["cols"], row["variant"]) for row in rows):
        cells = [f"{row['speedup']:.2f} ({row['speedup_bound']:.2f})  {100 * row['of_bound']:3.0f} %" for row in rows
                 if (row["trace"], row["rows"], row["cols"], row["variant"]) == key and row["machine"] != BASELINE]
        print(table.line([key[0], f"{key[1]}x{key[2]}", key[3], *cells]))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and return the exit code."""
    parser = argparse.ArgumentParser("python -m sim.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR",
                        help="directory of trace_pre.npz and trace_post.npz (default: golden/data)")
    parser.add_argument("--preset", default="default", metavar="NAME", help="(default: default), with dense_taps = 1")
    parser.add_argument("--fifo-depth", type=int, metavar="N", help="instead of the preset's")
    parser.add_argument("--anchor", action="store_true", help="run layers in the emitted Verilog too")
    parser.add_argument("--layers", nargs="+", default=ANCHOR_LAYERS, metavar="NAME",
                        help=f"of the anchor (default: {' '.join(ANCHOR_LAYERS)})")
    parser.add_argument("--steps", nargs="+", type=int, default=ANCHOR_STEPS, metavar="T",
                        help=f"of the anchor (default: {' '.join(map(str, ANCHOR_STEPS))})")
    add_folders(parser, "study", "Verilog and study.json")
    options = parser.parse_args(arguments)
    config = replace(preset(options.preset), dense_taps=1)
    if options.fifo_depth:
        config = replace(config, fifo_depth=options.fifo_depth)
    traces = {trace: list(read_trace(options.data / f"trace_{trace}.npz")) for trace in TRACES}
    report: dict[str, Any] = {"configuration": config.to_json(), "traces": TRACES, "anchor": []}
    try:
        if options.anchor:
            chosen = {trace: [layer for layer in layers if layer.name in options.layers and layer.step in options.steps]
                      for trace, layers in traces.items()}
            report["anchor"] = anchor(chosen, config, options.out, options.build)
        report["model"] = model(traces, config)
        write_whole(options.out / "study.json", json.dumps(report, indent=1) + "\n")
    except (ToolError, Hang) as error:
        print(f"sim.study: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten: {options.out / 'study.json'}")
    return 0 if all(row["exact"] and row["cycles"] == row["predicted"] for row in report["anchor"]) else 1


if __name__ == "__main__":
    sys.exit(main())
