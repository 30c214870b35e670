"""Layer by layer: real layers of a trained diffusion model on the emitted Verilog, compared with the golden model.

It emits the engine's Verilog, compiles it to a simulation and runs the network's layers on it, at several time steps
of real sampling: each layer reads what the layers before it wrote, and deals its channels out to the dense and the
sparse array by the labels that the hardware's detector gave them. After each layer the whole activation memory is
compared with the golden model's, nibble by nibble, and so are the new labels. A table goes to the screen, and with all
counters to layers.json and layers.csv beside the picture layers.png. The exit code is 0 if every layer is exact, 1 if
any differs or none could run, 2 if an argument is wrong.

examples:
  python -m sim.layers                                        all layers, steps 0, 9 and 17, default preset
  python -m sim.layers --layers e1.conv0 u1.conv1 --steps 9
  python -m sim.layers --preset ecp5 --out build/layers-ecp5
  python -m sim.layers --preset tiny --model digits16 --samples 2 --layers e1.conv0
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.report import Table, announced, to_csv, write_whole
from golden.workload.layers import LAYERS, RealLayer, Workload, real_layer
from golden.workload.unet import DEFAULT_MODEL, MODELS
from hw.config import PRESETS, Config, ConfigError, preset
from hw.gen import convert

from .engine import FastEngine
from .fast import FastSim, Hang
from .folders import add_folders
from .measure import STALLS, Measured
from .network import NetworkRun
from .toolchain import ToolError

__all__ = ["main"]

COLUMNS = {"step": 4, "layer": -9, "  C x N x H x W -> K, kernel": -28, "zeros": 5, "dense": 5, "sparse": 6, "dead": 4,
           "labels": -8, "cycles": 6, "2 dense": 7, "gain": 5, "mul.d": 5, "mul.s": 5,
           **{cause: max(5, len(cause)) for cause in (*STALLS, "ends")}, "exact": 5}
LEGEND = """dense, sparse, dead = input channels on dense and sparse arrays, and left out; labels = made by the detector
when it wrote the inputs, or written by the host; 2 dense = cycles of two dense arrays that know no zeros (cycle model;
"-": they cannot run 8-bit layers); gain = 2 dense / cycles; mul.d, mul.s = share of a row's cycles in which it
multiplied, of dense and of sparse arrays; then cycles in which an array waited, mean of the arrays: fetch = for
activations, weights = for a k-tile, drain = for scale units, post = for the post-processor or the other array,
write = for its writes; ends = the layer's beginning and end"""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.layers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", metavar="NAME",
                        help=f"configuration, one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), metavar="NAME",
                        help=f"of {', '.join(LAYERS)} (default: all)")
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 9, 17], metavar="T",
                        help="time steps, 0 (noise) to 17 (image) (default: 0 9 17)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                        help=f"one of {', '.join(MODELS)}, with ReLU (default: {DEFAULT_MODEL})")
    parser.add_argument("--samples", type=int, default=10, metavar="N", help="digits in the batch (default: 10)")
    add_folders(parser, "layers", "Verilog, tables and picture")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the layers and return its exit code."""
    options = _arguments(arguments)
    try:
        config = preset(options.preset)
        workload = Workload(model=options.model, samples=options.samples)
        names = [name for name in LAYERS if name in options.layers]
        names += [name for name in options.layers if name not in LAYERS]     # for real_layer to refuse
        jobs = [real_layer(name, step, workload) for step in options.steps for name in names]
    except (ConfigError, ValueError) as error:
        print(f"sim.layers: {error}", file=sys.stderr)
        return 2
    try:
        return _layers(config, jobs, options.out, options.build)
    except (ToolError, Hang) as error:
        print(f"sim.layers: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.layers: cannot write to {options.out}: {error.strerror}", file=sys.stderr)
    return 1


def _layers(config: Config, jobs: Sequence[RealLayer], out: Path, build: Path) -> int:
    started = time.perf_counter()
    with announced(f"1/4 emitting Verilog: preset {config.name}, {config.rows} x {config.cols}, dense arrays: "
                   f"{config.dense}, sparse: {config.sparse}, {config.peak_macs} multipliers"):
        emitted = convert("engine", config)
        verilog = emitted.write(out)[0]
    lines = emitted.verilog.count("\n")
    print(f"    {verilog}: {lines:,} lines")
    with announced("2/4 compiling it to a simulation (a minute the first time, then kept)"):
        sim = FastSim.build(verilog, emitted.top, build)
    print("3/4 running layers of the trained network; after each, the whole activation memory "
          f"({config.act_nibbles:,} nibbles) is compared, and the labels\n")
    with sim:
        sim.reset()
        runs, refused = _run(FastEngine(config, sim), jobs)
        simulated = sim.cycle
    for name, reason in refused.items():
        print(f"not run: {name}: {reason}")
    if not runs:
        print("no layer could run: try --preset default, fewer --samples or other --layers")
        return 1
    wrong = [(real, measured) for real, measured in runs if not measured.exact]
    for real, measured in wrong:
        first = f", the first at address {measured.first_wrong}" if measured.wrong else ""
        print(f"DIFFERENT: {real.layer.name} at step {real.step}: {measured.wrong} of {config.act_nibbles} nibbles"
              f"{first}; {measured.wrong_labels} of {measured.layer.out_shape[0]} labels")
    print(_summary(config, [measured for _, measured in runs]))
    print(f"{simulated:,} cycles simulated with loading and reading memory")

    rows = [{"step": real.step} | measured.to_json() for real, measured in runs]
    report = {"configuration": config.to_json(), "verilog_sha256": emitted.manifest["sha256"], "layers": rows,
              "refused": refused}
    print("4/4 writing what was found")
    write_whole(out / "layers.json", json.dumps(report, indent=2) + "\n")
    write_whole(out / "layers.csv", to_csv(rows))
    written = ["layers.json", "layers.csv"]
    if importlib.util.find_spec("matplotlib") is None:
        print("    no picture: matplotlib is not installed; run `make venv`, or `pip install -e .[plot]`")
    else:
        from .picture import draw
        write_whole(out / "layers.png", draw(runs, _title(config, wrong)))
        written.append("layers.png")
    for name in written:
        print(f"    {out / name}")
    print(f"{'DIFFERENT' if wrong else 'exact'}, {time.perf_counter() - started:.0f} s")
    return 1 if wrong else 0


def _run(engine: FastEngine, jobs: Sequence[RealLayer]) -> tuple[list[tuple[RealLayer, Measured]], dict[str, str]]:
    """Run the layers, printing a line for each; return what was measured, and which layers were refused and why."""
    runs, refused = [], {}
    network = NetworkRun(engine)
    table = Table(COLUMNS)
    print(table.head())
    for real in jobs:
        try:
            measured = network.run(real)
        except (LayerError, AccumulatorOverflow) as error:
            name = real.layer.name
            refused[name] = str(error).removeprefix(f"layer {name!r}").lstrip(": ")
            continue
        runs.append((real, measured))
        print(table.line(_cells(real, measured)), flush=True)
    print(LEGEND)
    return runs, refused


def _cells(real: RealLayer, measured: Measured) -> list[object]:
    layer, size = measured.layer, measured.layer.weights.shape[-1]
    channels, samples, height, width = layer.in_shape
    shape = f"{channels:5} x {samples} x {height} x {width} -> {len(layer.weights)}, {size}x{size}"
    baseline = measured.dense_cycles
    multiplying = [measured.kind_utilisation(kind) for kind in ("dense", "sparse")]
    return [real.step, layer.name, shape, f"{100 * measured.zeros:.0f} %", *measured.channels.values(),
            "detector" if measured.by_detector else "host", measured.cycles,
            "-" if baseline is None else baseline, "-" if baseline is None else f"{baseline / measured.cycles:.2f}",
            *("-" if share is None else f"{100 * share:.0f} %" for share in multiplying),
            *(f"{measured.causes[cause]:.0f}" for cause in (*STALLS, "ends")), "yes" if measured.exact else "NO"]


def _summary(config: Config, runs: Sequence[Measured]) -> str:
    """What all layers together came to."""
    exact = sum(measured.exact for measured in runs)
    cycles = sum(measured.cycles for measured in runs)
    lines = [f"\n{exact} of {len(runs)} layers exact, memory and labels; {cycles:,} cycles"]
    four_bit = [measured for measured in runs if measured.dense_cycles is not None]
    if four_bit:
        ours = sum(measured.cycles for measured in four_bit)
        dense = sum(measured.dense_cycles or 0 for measured in four_bit)
        kinds = f"{config.dense} dense + {config.sparse} sparse"
        lines.append(f"4-bit layers: {ours:,} cycles on {kinds} ({config.peak_macs} multipliers), {dense:,} on 2 dense "
                     f"({replace(config, dense=2, sparse=0).peak_macs} multipliers): {dense / ours:.2f} times as fast")
    predicted = sum(measured.predicted.cycles == measured.cycles for measured in runs)
    worst = max(abs(measured.predicted.cycles / measured.cycles - 1) for measured in runs)
    lines.append(f"The cycle model predicts {predicted} of the {len(runs)} layers to the cycle, the others within "
                 f"{100 * worst:.2f} %")
    return "\n".join(lines)


def _title(config: Config, wrong: Sequence[object]) -> str:
    verdict = "NOT bit-exact" if wrong else "bit-exact"
    return (f"Trained diffusion model on the emitted Verilog: {config.name} preset, {config.dense} dense + "
            f"{config.sparse} sparse array, {verdict}")


if __name__ == "__main__":
    sys.exit(main())
