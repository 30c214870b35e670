"""What came of the demo's run: all numbers for JSON, a summary, and tables of zeros and labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.quality import psnr
from golden.report import to_csv
from golden.workload.unet import Float32Array
from hw.config import Config
from hw.gen import Emitted

from .baseline import dense_cycles
from .drawing import GoldenRun, Job, RtlEvaluation

__all__ = ["first_evaluations", "labels_csv", "mean", "multiplying", "percent", "report_of", "summary",
           "zeros_markdown"]

KINDS = ("dense", "sparse", "dead")


def multiplying(config: Config, evaluations: Sequence[RtlEvaluation], kind: str) -> float | None:
    """Share of the row cycles of the arrays of a kind in which they multiply; None if there are none."""
    arrays = config.dense if kind == "dense" else config.sparse
    steps = sum(done.counters[f"{kind}{array}_steps"] for done in evaluations for array in range(arrays))
    cycles = sum(done.counters["run"] for done in evaluations)
    return steps / (config.rows * arrays * cycles) if arrays else None


def mean(shares: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def percent(share: float | None) -> str:
    """For a table."""
    return "-" if share is None else f"{100 * share:.0f} %"


def report_of(job: Job, emitted: Emitted, golden: GoldenRun, evaluations: Sequence[RtlEvaluation],
            real: Float32Array) -> dict[str, Any]:
    """All numbers; those of the baseline are None where it cannot run the model."""
    cycles = sum(done.counters["run"] for done in evaluations)
    try:
        baseline: int | None = len(evaluations) * dense_cycles(job.config, job.labels, job.workload)
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
            "model": job.workload.model, "quantised": job.quantised, "classes": list(job.labels), "seed": job.seed,
            "solver": job.solver,
            "noise_levels": job.workload.steps, "sigma_max": job.workload.sigma_max, "evaluations": steps,
            "cycles": cycles, "dense_cycles": baseline,
            "speedup": None if baseline is None else round(baseline / cycles, 3),
            "simulated_cycles_per_second": round(cycles / sum(done.seconds for done in evaluations)),
            "utilisation": {kind: multiplying(job.config, evaluations, kind) for kind in ("dense", "sparse")},
            "psnr_db": [round(float(value), 2) for value in psnr(golden.images, real)]}


def summary(job: Job, report: dict[str, Any]) -> str:
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


def first_evaluations(report: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """By time step: with Heun's correction most noise levels come twice, and the first counts here."""
    return {done["step"]: done for done in reversed(report["evaluations"])}


def labels_csv(report: dict[str, Any]) -> str:
    """Channels of each kind, by time step and tensor."""
    return to_csv([{"step": step, "tensor": name, **counts} for step, done in sorted(first_evaluations(report).items())
                   for name, counts in done["labels"].items()])


def zeros_markdown(report: dict[str, Any]) -> str:
    """Zeros in what each layer reads, by layer and time step, with means of both; Markdown."""
    steps = dict(sorted(first_evaluations(report).items()))
    lines = ["| zeros, % | " + " | ".join(map(str, steps)) + " | mean |", "| --- |" + " --- |" * (len(steps) + 1)]
    layers = next(iter(steps.values()))["zeros"]

    def line(name: str, shares: list[float | None]) -> str:
        cells = ["-" if share is None else f"{100 * share:.0f}" for share in (*shares, mean(shares))]
        return f"| {name} | " + " | ".join(cells) + " |"

    lines += [line(name, [done["zeros"][name] for done in steps.values()]) for name in layers]
    lines.append(line("mean", [mean(list(done["zeros"].values())) for done in steps.values()]))
    return "\n".join(lines) + "\n"
