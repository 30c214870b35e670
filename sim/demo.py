"""The demo: real layers of a trained diffusion model on the emitted Verilog, compared with the golden model.

It emits the engine's Verilog, compiles it to a simulation, runs layers of the network on real activations of several
time steps, and compares the whole activation memory after each with the golden model's, nibble by nibble. A table goes
to the screen, and with all counters to layers.json and layers.csv beside the picture demo.png. The exit code is 0 if
every layer is exact, 1 if any differs or none could run, 2 if an argument is wrong.

examples:
  python -m sim.demo                                        all layers, steps 0, 9 and 17, default preset
  python -m sim.demo --layers e1.conv0 u1.conv1 --steps 9
  python -m sim.demo --preset ecp5 --out build/demo-ecp5
  python -m sim.demo --preset tiny --channels 16 --samples 2 --layers e1.conv0
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.workload.layers import LAYERS, RealLayer, Workload, real_layer
from hw.config import PRESETS, Config, ConfigError, preset
from hw.gen import TOP, convert

from .engine import FastEngine
from .fast import FastSim, Hang
from .measure import STALLS, Measured, measure
from .report import Table, announced, to_csv, write_whole
from .toolchain import ToolError

__all__ = ["main"]

COLUMNS = {"layer": -9, "step": 4, "  C x N x H x W -> K, kernel": -28, "zeros": 5, "cycles": 6, "ideal": 6,
           "eff.": 6, "MAC/cyc": 7, "peak": 6, **{cause: max(5, len(cause)) for cause in (*STALLS, "ends")}, "exact": 5}
LEGEND = """eff. = ideal / cycles: an ideal array takes a kernel line of a channel per cycle; peak = MAC/cyc / {peak};
waiting for: fetch = activations, weights = a k-tile, drain = scale units, post = post-processor, write = its writes;
ends = the layer's beginning and end"""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", metavar="NAME",
                        help=f"configuration, one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), metavar="NAME",
                        help=f"of {', '.join(LAYERS)} (default: all)")
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 9, 17], metavar="T",
                        help="time steps, 0 (noise) to 17 (image) (default: 0 9 17)")
    parser.add_argument("--channels", type=int, default=32, metavar="N", help="the model: 16 or 32 (default: 32)")
    parser.add_argument("--samples", type=int, default=10, metavar="N", help="digits in the batch (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR",
                        help="for Verilog, tables and picture (default: build/demo)")
    parser.add_argument("--build", type=Path, default=Path("build"), metavar="DIR",
                        help="where compiled simulations are kept (default: build)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    options = _arguments(arguments)
    try:
        config = preset(options.preset)
        workload = Workload(channels=options.channels, samples=options.samples)
        jobs = [real_layer(name, step, workload) for name in options.layers for step in options.steps]
    except (ConfigError, ValueError) as error:
        print(f"sim.demo: {error}", file=sys.stderr)
        return 2
    try:
        return _demo(config, jobs, options.out, options.build)
    except (ToolError, Hang) as error:
        print(f"sim.demo: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.demo: cannot write to {options.out}: {error.strerror}", file=sys.stderr)
    return 1


def _demo(config: Config, jobs: Sequence[RealLayer], out: Path, build: Path) -> int:
    started = time.perf_counter()
    with announced(f"1/4 emitting Verilog: preset {config.name}, {config.rows} x {config.cols}, {config.dense} dense "
                   f"array, {config.peak_macs} multipliers"):
        emitted = convert(TOP, config)
        verilog = emitted.write(out)[0]
    lines = emitted.verilog.count("\n")
    print(f"    {verilog}: {lines:,} lines")
    with announced("2/4 compiling it to a simulation (a minute the first time, then kept)"):
        sim = FastSim.build(verilog, emitted.top, build)
    print("3/4 running layers of the trained network; after each, the whole activation memory "
          f"({config.act_nibbles:,} nibbles) is compared\n")
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
        print(f"DIFFERENT: {real.layer.name} at step {real.step}: {measured.wrong} of {config.act_nibbles} nibbles, "
              f"the first at address {measured.first_wrong}")
    cycles, macs = (sum(getattr(measured, item) for _, measured in runs) for item in ("cycles", "macs"))
    print(f"\n{len(runs) - len(wrong)} of {len(runs)} layers exact; {cycles:,} cycles at {macs / cycles:.0f} MAC/cycle "
          f"({100 * macs / cycles / config.peak_macs:.1f} % of peak); {simulated:,} cycles simulated with loading and "
          "reading memory")

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
        write_whole(out / "demo.png", draw(runs, _title(config, wrong)))
        written.append("demo.png")
    for name in written:
        print(f"    {out / name}")
    print(f"{'DIFFERENT' if wrong else 'exact'}, {time.perf_counter() - started:.0f} s")
    return 1 if wrong else 0


def _run(engine: FastEngine, jobs: Sequence[RealLayer]) -> tuple[list[tuple[RealLayer, Measured]], dict[str, str]]:
    """Run the layers, printing a line for each; return what was measured, and which layers were refused and why."""
    runs, refused = [], {}
    table = Table(COLUMNS)
    print(table.head())
    for real in jobs:
        try:
            measured = measure(engine, real.layer)
        except (LayerError, AccumulatorOverflow) as error:
            name = real.layer.name
            refused[name] = str(error).removeprefix(f"layer {name!r}").lstrip(": ")
            continue
        runs.append((real, measured))
        print(table.line(_cells(real, measured)), flush=True)
    print(LEGEND.format(peak=engine.config.peak_macs))
    return runs, refused


def _cells(real: RealLayer, measured: Measured) -> list[object]:
    layer, size = real.layer, real.layer.weights.shape[-1]
    channels, samples, height, width = layer.in_shape
    shape = f"{channels:5} x {samples} x {height} x {width} -> {len(layer.weights)}, {size}x{size}"
    return [layer.name, real.step, shape, f"{100 * measured.zeros:.0f} %", measured.cycles, measured.ideal,
            f"{100 * measured.efficiency:.1f} %", f"{measured.macs_per_cycle:.0f}",
            f"{100 * measured.macs_per_cycle / measured.config.peak_macs:.1f} %",
            *(f"{measured.causes[cause]:.0f}" for cause in (*STALLS, "ends")), "yes" if measured.exact else "NO"]


def _title(config: Config, wrong: Sequence[object]) -> str:
    verdict = "NOT bit-exact" if wrong else "bit-exact"
    return (f"Trained diffusion model on the emitted Verilog: {config.name} preset, {config.peak_macs} multipliers, "
            f"{verdict}")


if __name__ == "__main__":
    sys.exit(main())
