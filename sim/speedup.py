"""Whole-run speed-up by RTL counters: a configuration against two dense arrays, all layers of all time steps.

Both configurations' Verilog is emitted and simulated, and draws the same digits with the same network, program by
program, loads included; on two dense arrays 8-bit layers run in nibble planes (sim/baseline.py). Every evaluation is
compared with the golden model of its configuration bit for bit. The numbers go to speedup.json. The exit code is 0 if
all is exact, 1 if anything differs or could not run, 2 if an argument is wrong.

examples:
  python -m sim.speedup                           the default preset, ten digits, 18 steps
  python -m sim.speedup --preset ecp5 --classes 4
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.report import Table, announced, write_whole
from hw.gen import convert
from sqdm.device import DeviceError

from .accelerator import SimBackend
from .baseline import dense_config
from .drawing import GoldenRun, Job, RtlEvaluation, draw_golden, draw_rtl
from .fast import FastSim
from .folders import add_folders
from .job import add_arguments, job_of
from .outcome import mean, multiplying, percent
from .toolchain import ToolError

__all__ = ["main", "ratios"]

PAPER = 1.83
DIFFERENCE = f"""The paper (SQ-DM, arXiv 2501.15448) reports {PAPER} from sparsity. That is another measurement, of
larger networks on arrays whose sizes it does not publish. Here it is RTL counters of whole programs, with 8-bit
layers, weight loads, post-processing and the ends of layers, which zeros do not shorten; and with dense_taps 3 a dense
array has three multipliers for each one of a sparse array, so the side that uses zeros has fewer."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.speedup", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_folders(parser, "speedup", "Verilog and speedup.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _arguments(arguments)
    try:
        job = job_of(options)
        if not job.config.sparse:
            raise ValueError(f"preset {job.config.name} has no sparse array, so it is the baseline itself")
    except ValueError as error:
        print(f"sim.speedup: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sim.speedup: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        return _speedup(job, options.out, options.build)
    except (LayerError, AccumulatorOverflow) as error:
        print(f"sim.speedup: {job.workload.model} for {len(job.labels)} digits cannot run: {error}", file=sys.stderr)
    except (ToolError, DeviceError) as error:
        print(f"sim.speedup: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.speedup: cannot write to {options.out}: {error.strerror}", file=sys.stderr)
    return 1


def ratios(cycles: int, multipliers: int, dense_cycles: int, dense_multipliers: int) -> tuple[float, float]:
    """How many times as fast as the dense arrays, and the same per multiplier."""
    return dense_cycles / cycles, dense_cycles * dense_multipliers / (cycles * multipliers)


def _speedup(job: Job, out: Path, build: Path) -> int:
    jobs = {"heterogeneous": job, "dense": replace(job, config=dense_config(job.config))}
    with ProcessPoolExecutor(1) as pool:
        drawings = {name: pool.submit(draw_golden, item) for name, item in jobs.items()}
        runs = {}
        for name, item in jobs.items():
            runs[name] = _draw(item, drawings[name].result, out / name, build)
    report: dict[str, Any] = {"model": job.workload.model, "quantised": job.quantised, "classes": list(job.labels),
                              "steps": job.workload.steps, "solver": job.solver}
    columns = {"time step": 9, "cycles": 9, "two dense": 9, "speed-up": 8}
    table, (ours, dense) = Table(columns), (runs["heterogeneous"], runs["dense"])
    print("\n" + table.head())
    for mine, its in zip(ours, dense, strict=True):
        print(table.line([mine.step, f"{mine.counters['run']:,}", f"{its.counters['run']:,}",
                          f"{its.counters['run'] / mine.counters['run']:.2f}"]))
    for name, item in jobs.items():
        run, config = runs[name], item.config
        report[name] = {"configuration": config.to_json(), "cycles": sum(done.counters["run"] for done in run),
                        "multipliers": config.peak_macs, "exact": all(done.exact for done in run),
                        "counters": [done.counters for done in run]}
        shares = ", ".join(f"{kind} {percent(multiplying(config, run, kind))}" for kind in ("dense", "sparse"))
        print(f"{config.name}: {report[name]['cycles']:,} cycles, {config.peak_macs} multipliers; share of the row "
              f"cycles in which arrays multiply: {shares}")
    report["speedup"], report["speedup_per_multiplier"] = ratios(
        *(report[name][key] for name in jobs for key in ("cycles", "multipliers")))
    print(f"{report['speedup']:.2f} times as fast as two dense arrays, per multiplier "
          f"{report['speedup_per_multiplier']:.2f} times\n\n{DIFFERENCE}")
    exact = all(report[name]["exact"] for name in jobs)
    write_whole(out / "speedup.json", json.dumps(report, indent=1) + "\n")
    print(f"\n    {out / 'speedup.json'}\n{'exact' if exact else 'DIFFERENT'}")
    return 0 if exact else 1


def _draw(job: Job, golden: Any, out: Path, build: Path) -> list[RtlEvaluation]:
    """Draw with a configuration's RTL."""
    config = job.config
    with announced(f"{config.name}: emitting and compiling Verilog (a minute or two the first time, then kept)"):
        emitted = convert("accelerator", config)
        sim = FastSim.build(emitted.write(out)[0], emitted.top, build)
    with announced("    the golden model"):
        expected: GoldenRun = golden()
    zeros = mean([mean(list(shares.values())) for shares in expected.zeros])
    with sim, announced(f"    drawing {len(job.labels)} digits, {job.workload.steps} steps with {job.quantised}; zeros "
                        f"in what layers read: {percent(zeros)}"):
        found, _ = draw_rtl(job, expected, SimBackend(sim), lambda done: print(
            f"        step {done.step}: {done.counters['run']:,} cycles, {'exact' if done.exact else 'DIFFERENT'}",
            flush=True))
    return found


if __name__ == "__main__":
    sys.exit(main())
