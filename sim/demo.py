"""The demo: the simulated accelerator draws digits with a trained, quantised diffusion model.

It emits the accelerator's Verilog, compiles it to a simulation, and samples a batch of digits: the host integrates,
the simulated RTL evaluates the network, one program per time step. The golden model does the same in another process,
and the float network for comparison. After every evaluation the output and all labels of the RTL are compared with the
golden model's, and at the end the images, bit for bit. The exit code is 0 if all is equal, 1 if anything differs or
could not run, 2 if an argument is wrong.

Written to build/demo: the Verilog and its manifest, samples.png (digits of RTL, golden model and float network),
zeros.png (heat map of zeros by layer and step; zeros.md is its table), labels.png (dense, sparse and dead channels by
tensor and step; labels.csv is its table), samples.npz (images), demo.json (counters, zeros and labels of every
evaluation, speed-up, quality).

examples:
  python -m sim.demo                                      ten digits, 18 steps, default preset
  python -m sim.demo --classes 4 2 --seed 7
  python -m sim.demo --steps 10 --sigma-max 80
  python -m sim.demo --solver heun                        35 evaluations of the network instead of 18
  python -m sim.demo --preset ecp5 --model digits16 --out build/demo-ecp5
  python -m sim.demo --quantised rounded                  the model rounded after its training, not one trained to be
"""

import argparse
import importlib.util
import io
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.report import Table, announced, write_whole
from golden.workload.sample import step_program
from golden.workload.sampler import sample, sigma_schedule
from golden.workload.unet import Float32Array, load
from hw.gen import convert
from sqdm.device import DeviceError

from .accelerator import SimBackend
from .drawing import GoldenRun, Job, RtlEvaluation, draw_golden, draw_rtl
from .fast import FastSim
from .folders import add_folders
from .job import add_arguments, job_of
from .outcome import first_evaluations, labels_csv, mean, multiplying, percent, report_of, summary, zeros_markdown
from .toolchain import ToolError

__all__ = ["demo", "main"]

COLUMNS = {"step": 4, "sigma": 8, "cycles": 7, "zeros": 6, "dense": 6, "sparse": 6, "idle": 6, "read KiB": 8,
           "seconds": 7, "cycles/s": 8, "exact": 5}
LEGEND = """zeros = in the inputs of the convolutions; dense, sparse = share of the rows' cycles in which arrays of that
kind multiply; idle = share of the cycles in which no array does; exact = input, output and all labels are the golden
model's"""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_folders(parser, "demo", "Verilog, pictures and numbers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    options = _arguments(arguments)
    try:
        job = job_of(options)
    except ValueError as error:
        print(f"sim.demo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sim.demo: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return demo(job, options.out, options.build)


def demo(job: Job, out: Path, build: Path) -> int:
    """Draw, compare, print and write; return 0 if RTL and golden model are equal, else 1."""
    try:
        step_program(0, job.labels, job.config, job.workload)   # what cannot run is found out at once
        with ProcessPoolExecutor(1) as pool:
            return _demo(job, pool.submit(draw_golden, job), out, build)
    except (LayerError, AccumulatorOverflow) as error:
        print(f"sim.demo: preset {job.config.name} cannot run the model {job.workload.model} for "
              f"{len(job.labels)} digits: {error}", file=sys.stderr)
    except (ToolError, DeviceError) as error:
        print(f"sim.demo: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.demo: cannot write to {out}: {error.strerror}", file=sys.stderr)
    return 1


def _demo(job: Job, drawing: "Future[GoldenRun]", out: Path, build: Path) -> int:
    started, config = time.perf_counter(), job.config
    print(f"Drawing {len(job.labels)} digits in {job.workload.steps} steps with {job.quantised};\nin another process "
          "the golden model does, too.")
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
    report = report_of(job, emitted, golden, evaluations, real) | {
        "images_equal": equal, "exact": exact, "seconds": round(time.perf_counter() - started, 1)}
    print(summary(job, report))
    _write(out, job, report, golden, images, real)
    print(f"{'exact' if exact else 'DIFFERENT'}, {time.perf_counter() - started:.0f} s")
    return 0 if exact else 1


def _run(job: Job, golden: GoldenRun, backend: SimBackend) -> tuple[list[RtlEvaluation], Float32Array]:
    """Draw with the RTL, printing a line for each evaluation."""
    sigmas = sigma_schedule(job.workload.steps, job.workload.sigma_max)
    table, zeros = Table(COLUMNS), iter(golden.zeros)
    print(table.head())

    def progress(done: RtlEvaluation) -> None:
        cycles, share = done.counters["run"], mean(list(next(zeros).values()))
        print(table.line([
            done.step, f"{sigmas[done.step]:.3f}", cycles, percent(share),
            *(percent(multiplying(job.config, [done], kind)) for kind in ("dense", "sparse")),
            percent(done.counters["idle"] / cycles), done.counters["read"] * job.config.bus_bits // 8 // 1024,
            f"{done.seconds:.1f}", f"{cycles / done.seconds:,.0f}", "yes" if done.exact else "NO"]), flush=True)
        if not done.exact:
            print(f"DIFFERENT: step {done.step}: {done.wrong_outputs} of the output's values, {done.wrong_labels} "
                  "labels" + (f"; {done.wrong_inputs} of the input's, from steps before" if done.wrong_inputs else ""))

    found = draw_rtl(job, golden, backend, progress)
    print(LEGEND)
    return found


def _write(out: Path, job: Job, report: dict[str, Any], golden: GoldenRun, images: Float32Array,
           real: Float32Array) -> None:
    content = io.BytesIO()
    np.savez(content, rtl=images, golden=golden.images, float=real, classes=np.array(job.labels))
    files: dict[str, str | bytes] = {"demo.json": json.dumps(report, indent=1) + "\n",
                                     "samples.npz": content.getvalue(), "labels.csv": labels_csv(report),
                                     "zeros.md": zeros_markdown(report)}
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed; run `make venv`, or `pip install -e .[plot]`")
    else:
        from .gallery import draw_labels, draw_samples, draw_zeros
        rows = {"simulated RTL": images, "golden model": golden.images, "float network": real}
        verdict = "bit for bit the golden model's" if report["images_equal"] else "NOT the golden model's"
        files["samples.png"] = draw_samples(rows, job.labels, f"Drawn by the RTL with 4-bit weights and activations: "
                                                              f"{verdict}")
        shown = [done for _, done in sorted(first_evaluations(report).items())]
        zeros = {name: [done["zeros"][name] for done in shown] for name in shown[0]["zeros"]}
        files["zeros.png"] = draw_zeros(zeros, f"Zeros in what each layer reads, batch of {len(job.labels)} (%)")
        labels = {name: [done["labels"][name] for done in shown] for name in shown[0]["labels"]}
        files["labels.png"] = draw_labels(labels, f"Labels of each tensor's channels, batch of {len(job.labels)}")
    for name, data in files.items():
        write_whole(out / name, data)
        print(f"    {out / name}")


if __name__ == "__main__":
    sys.exit(main())
