"""The demo: the simulated accelerator draws digits with a trained, quantised diffusion model.

It emits the accelerator's Verilog, compiles it to a simulation, and samples a batch of digits: the host integrates,
the simulated RTL evaluates the network, one program per time step. The golden model does the same in another process,
and the float network for comparison. After every evaluation the output and all labels of the RTL are compared with the
golden model's, and at the end the images, bit for bit. The exit code is 0 if all is equal, 1 if anything differs or
could not run, 2 if an argument is wrong.

Written to build/demo: the Verilog and its manifest, samples.png (digits of RTL, golden model and float network),
zeros.png (heat map of zeros by layer and step), samples.npz (images), demo.json (counters, zeros and labels of every
evaluation, speed-up, quality).

examples:
  python -m sim.demo                                      ten digits, 18 steps, default preset
  python -m sim.demo --classes 4 2 --seed 7
  python -m sim.demo --steps 10 --sigma-max 80
  python -m sim.demo --solver heun                        35 evaluations of the network instead of 18
  python -m sim.demo --preset ecp5 --model digits16 --out build/demo-ecp5
"""

import argparse
import importlib.util
import io
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.report import Table, announced, write_whole
from golden.workload.layers import Workload
from golden.workload.sample import StepProgram, step_program
from golden.workload.sampler import STEPS, sample, sigma_schedule
from golden.workload.unet import CLASSES, DEFAULT_MODEL, MODELS, Float32Array, load
from hw.config import PRESETS, Config, ConfigError, preset
from hw.gen import Emitted, convert
from sqdm.device import DeviceError

from .accelerator import SimBackend
from .baseline import dense_cycles
from .drawing import GoldenRun, Job, RtlEvaluation, draw_golden, draw_rtl, psnr
from .fast import FastSim
from .toolchain import ToolError

__all__ = ["demo", "main"]

MOST_STEPS = 64         # register TIME_STEP has six bits
SIGMA_MAX = 10.0        # suits digits better than EDM's 80
CALIBRATION_SEED = 0
COLUMNS = {"step": 4, "sigma": 8, "cycles": 7, "zeros": 6, "dense": 6, "sparse": 6, "idle": 6, "read KiB": 8,
           "seconds": 7, "cycles/s": 8, "exact": 5}
LEGEND = """zeros = in the inputs of the convolutions; dense, sparse = share of the rows' cycles in which arrays of that
kind multiply; idle = share of the cycles in which no array does; exact = input, output and all labels are the golden
model's"""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", metavar="NAME",
                        help=f"configuration, one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(CLASSES)), metavar="C",
                        help="what to draw, a digit each (default: 0 to 9)")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N",
                        help=f"noise levels, 2 to {MOST_STEPS} (default: {STEPS})")
    parser.add_argument("--sigma-max", type=float, default=SIGMA_MAX, metavar="S",
                        help=f"the first noise level (default: {SIGMA_MAX:g}; EDM's is 80)")
    parser.add_argument("--solver", choices=["euler", "heun"], default="euler", help="(default: euler)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help=f"of the initial noise; calibration uses {CALIBRATION_SEED} (default: 1)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                        help=f"one of {', '.join(MODELS)}, with ReLU (default: {DEFAULT_MODEL})")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR",
                        help="for Verilog, pictures and numbers (default: build/demo)")
    parser.add_argument("--build", type=Path, default=Path("build"), metavar="DIR",
                        help="where compiled simulations are kept (default: build)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    options = _arguments(arguments)
    try:
        if wrong := [label for label in options.classes if not 0 <= label < CLASSES]:
            raise ValueError(f"there are the classes 0 to {CLASSES - 1}, not {wrong[0]}")
        if options.steps > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS}, not {options.steps}")
        if options.seed < 0:
            raise ValueError(f"seed must not be negative, as {options.seed} is")
        workload = Workload(model=options.model, samples=max(CLASSES, len(options.classes)),
                            seed=CALIBRATION_SEED, sigma_max=options.sigma_max, steps=options.steps)
        job = Job(preset(options.preset), workload, tuple(options.classes), options.seed, options.solver)
    except (ConfigError, ValueError) as error:
        print(f"sim.demo: {error}", file=sys.stderr)
        return 2
    return demo(job, options.out, options.build)


def demo(job: Job, out: Path, build: Path) -> int:
    """Draw, compare, print and write; return 0 if RTL and golden model are equal, else 1."""
    try:
        first = step_program(0, job.labels, job.config, job.workload)   # what cannot run is found out at once
        with ProcessPoolExecutor(1) as pool:
            return _demo(job, first, pool.submit(draw_golden, job), out, build)
    except (LayerError, AccumulatorOverflow) as error:
        print(f"sim.demo: preset {job.config.name} cannot run the model {job.workload.model} for "
              f"{len(job.labels)} digits: {error}", file=sys.stderr)
    except (ToolError, DeviceError) as error:
        print(f"sim.demo: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.demo: cannot write to {out}: {error.strerror}", file=sys.stderr)
    return 1


def _demo(job: Job, first: StepProgram, drawing: "Future[GoldenRun]", out: Path, build: Path) -> int:
    started, config = time.perf_counter(), job.config
    print(f"Drawing {len(job.labels)} digits in {job.workload.steps} steps; in another process the golden model "
          "does, too.")
    with announced(f"1/4 emitting Verilog: preset {config.name}, {config.rows} x {config.cols}, dense arrays: "
                   f"{config.dense}, sparse: {config.sparse}, {config.peak_macs} multipliers"):
        emitted = convert("accelerator", config)
        verilog = emitted.write(out)[0]
    print(f"    {verilog}: {emitted.verilog.count(chr(10)):,} lines")
    with announced("2/4 compiling it to a simulation (a minute or two the first time, then kept)"):
        sim = FastSim.build(verilog, emitted.top, build)
    with announced("3/4 waiting for the golden model"):
        golden = drawing.result()
    print("4/4 drawing with the simulated RTL\n")
    with sim:
        evaluations, images = _run(job, golden, SimBackend(sim))
    real = sample(load(job.workload.model), job.labels, steps=job.workload.steps,
                  sigma_max=job.workload.sigma_max, seed=job.seed, solver=job.solver, info=job.workload.info).images
    equal = images.tobytes() == golden.images.tobytes()
    exact = equal and all(evaluation.exact for evaluation in evaluations)
    report = _report(job, first, emitted, golden, evaluations, real) | {
        "images_equal": equal, "exact": exact, "seconds": round(time.perf_counter() - started, 1)}
    print(_summary(job, report))
    _write(out, job, report, golden, images, real)
    print(f"{'exact' if exact else 'DIFFERENT'}, {time.perf_counter() - started:.0f} s")
    return 0 if exact else 1


def _run(job: Job, golden: GoldenRun, backend: SimBackend) -> tuple[list[RtlEvaluation], Float32Array]:
    """Draw with the RTL, printing a line for each evaluation."""
    sigmas = sigma_schedule(job.workload.steps, job.workload.sigma_max)
    table, zeros = Table(COLUMNS), iter(golden.zeros)
    print(table.head())

    def progress(done: RtlEvaluation) -> None:
        cycles, share = done.counters["run"], _mean(list(next(zeros).values()))
        print(table.line([
            done.step, f"{sigmas[done.step]:.3f}", cycles, _percent(share),
            *(_percent(_multiplying(job.config, [done], kind)) for kind in ("dense", "sparse")),
            _percent(done.counters["idle"] / cycles), done.counters["read"] * job.config.bus_bits // 8 // 1024,
            f"{done.seconds:.1f}", f"{cycles / done.seconds:,.0f}", "yes" if done.exact else "NO"]), flush=True)
        if not done.exact:
            print(f"DIFFERENT: step {done.step}: {done.wrong_outputs} of the output's values, {done.wrong_labels} "
                  "labels" + (f"; {done.wrong_inputs} of the input's, from steps before" if done.wrong_inputs else ""))

    found = draw_rtl(job, golden, backend, progress)
    print(LEGEND)
    return found


def _multiplying(config: Config, evaluations: Sequence[RtlEvaluation], kind: str) -> float | None:
    """Share of the row cycles of the arrays of a kind in which they multiply; None if there are none."""
    arrays = config.dense if kind == "dense" else config.sparse
    steps = sum(done.counters[f"{kind}{array}_steps"] for done in evaluations for array in range(arrays))
    cycles = sum(done.counters["run"] for done in evaluations)
    return steps / (config.rows * arrays * cycles) if arrays else None


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _report(job: Job, first: StepProgram, emitted: Emitted, golden: GoldenRun, evaluations: Sequence[RtlEvaluation],
            real: Float32Array) -> dict[str, Any]:
    """All numbers; those of the baseline are None where it cannot run the model."""
    cycles = sum(done.counters["run"] for done in evaluations)
    try:
        baseline: int | None = len(evaluations) * dense_cycles(job.config, first.network)
    except (LayerError, AccumulatorOverflow):
        baseline = None
    steps = [{"step": done.step, "counters": done.counters, "seconds": round(done.seconds, 3), "exact": done.exact,
              "wrong_outputs": done.wrong_outputs, "wrong_labels": done.wrong_labels,
              "zeros": {name: None if share is None else round(share, 4) for name, share in zeros.items()},
              "labels": {name: {"dense": int((~labels.sparse & ~labels.dead).sum()),
                                "sparse": int((labels.sparse & ~labels.dead).sum()), "dead": int(labels.dead.sum())}
                         for name, labels in expected.labels.items()}}
             for done, zeros, expected in zip(evaluations, golden.zeros, golden.evaluations, strict=True)]
    return {"configuration": job.config.to_json(), "verilog_sha256": emitted.manifest["sha256"],
            "model": job.workload.model, "classes": list(job.labels), "seed": job.seed, "solver": job.solver,
            "noise_levels": job.workload.steps, "sigma_max": job.workload.sigma_max, "evaluations": steps,
            "cycles": cycles, "dense_cycles": baseline,
            "speedup": None if baseline is None else round(baseline / cycles, 3),
            "simulated_cycles_per_second": round(cycles / sum(done.seconds for done in evaluations)),
            "utilisation": {kind: _multiplying(job.config, evaluations, kind) for kind in ("dense", "sparse")},
            "psnr_db": [round(value, 2) for value in psnr(golden.images, real)]}


def _summary(job: Job, report: dict[str, Any]) -> str:
    """What all of it came to."""
    config, cycles, evaluations = job.config, report["cycles"], report["evaluations"]
    exact = sum(done["exact"] for done in evaluations)
    lines = [f"\n{exact} of {len(evaluations)} evaluations exact, outputs and labels; images of RTL and golden model "
             f"{'equal bit for bit' if report['images_equal'] else 'DIFFER'}",
             f"{cycles:,} cycles, {cycles // len(job.labels):,} a digit; {report['simulated_cycles_per_second']:,} "
             "simulated per second"]
    if report["dense_cycles"] is not None:
        two = replace(config, dense=2, sparse=0).peak_macs
        lines.append(f"two dense arrays ({two} multipliers) would take {report['dense_cycles']:,} cycles (cycle "
                     f"model): this one\n({config.peak_macs} multipliers, counters of the RTL) is "
                     f"{report['speedup']:.2f} times as fast, per multiplier "
                     f"{report['speedup'] * two / config.peak_macs:.2f} times")
    values = report["psnr_db"]
    lines.append("quantised against float network, same noise, PSNR in dB by digit: "
                 + ", ".join(f"{label}: {value:.1f}" for label, value in zip(job.labels, values, strict=True))
                 + f"; mean {sum(values) / len(values):.1f}")
    return "\n".join(lines)


def _write(out: Path, job: Job, report: dict[str, Any], golden: GoldenRun, images: Float32Array,
           real: Float32Array) -> None:
    content = io.BytesIO()
    np.savez(content, rtl=images, golden=golden.images, float=real, classes=np.array(job.labels))
    files: dict[str, str | bytes] = {"demo.json": json.dumps(report, indent=1) + "\n",
                                     "samples.npz": content.getvalue()}
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed; run `make venv`, or `pip install -e .[plot]`")
    else:
        from .gallery import draw_samples, draw_zeros
        rows = {"simulated RTL": images, "golden model": golden.images, "float network": real}
        verdict = "bit for bit the golden model's" if report["images_equal"] else "NOT the golden model's"
        files["samples.png"] = draw_samples(rows, job.labels, f"Drawn by the RTL with 4-bit weights and activations: "
                                                              f"{verdict}")
        # With Heun's correction most noise levels come twice: the first is shown.
        shown = {done["step"]: done["zeros"] for done in reversed(report["evaluations"])}
        layers = {name: [shown[step][name] for step in sorted(shown)] for name in shown[0]}
        files["zeros.png"] = draw_zeros(layers, "Zeros in what each layer reads, batch of "
                                                f"{len(job.labels)} (%)")
    for name, data in files.items():
        write_whole(out / name, data)
        print(f"    {out / name}")


if __name__ == "__main__":
    sys.exit(main())
