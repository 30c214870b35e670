"""The RTL regression: run testbenches and print a table of what ran.

examples:
  python -m sim                              every bench, on Verilator, seed 1
  python -m sim --block dense --seed 7       the benches of one block
  python -m sim --block dense --waves        with waves in build/sim/runs/
  python -m sim --simulator icarus           those meant for Icarus, which knows unknown values
  python -m sim --list                       what there is
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from .benches import BENCHES, Bench
from .runner import SIMULATORS, Outcome
from .toolchain import ToolError, icarus

COLUMNS = "{:<24} {:<10} {:>6} {:>6} {:>6} {:>7} {:>12} {:>8}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m sim", description=__doc__, formatter_class=style)
    parser.add_argument("--block", help="run only the benches of this block, or this bench")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: 1)")
    parser.add_argument("--waves", action="store_true", help="record waves")
    parser.add_argument("--simulator", choices=SIMULATORS, help="default: verilator, and icarus for benches that ask")
    parser.add_argument("--build", type=Path, default=Path("build"), help="directory for everything generated")
    parser.add_argument("--list", action="store_true", help="list the benches and their simulators")
    return parser.parse_args(arguments)


def _selected(block: str | None) -> list[Bench]:
    benches = [bench for bench in BENCHES if block in (None, bench.block, bench.name)]
    if block is not None and not benches:
        legal = ", ".join(sorted({bench.block for bench in BENCHES})) or "none yet"
        raise SystemExit(f"no bench for block {block!r}; there are benches for: {legal}")
    return benches


def _merge(outcomes: Sequence[Outcome], path: Path) -> None:
    """Join the JUnit results of all runs in one file; the suites are named after the runs."""
    merged = ElementTree.Element("testsuites", name="sim")
    for outcome in outcomes:
        results = outcome.directory / "results.xml"
        if not results.is_file():
            suite = ElementTree.SubElement(merged, "testsuite", tests="1", errors="1")
            case = ElementTree.SubElement(suite, "testcase", name="simulation", classname=outcome.name)
            ElementTree.SubElement(case, "error", message=outcome.failed["simulation"])
        else:
            merged.extend(ElementTree.parse(results).iter("testsuite"))
        merged[-1].set("name", outcome.directory.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(merged).write(path, encoding="utf-8", xml_declaration=True)


def _report(outcome: Outcome) -> None:
    counts = len(outcome.passed), len(outcome.failed), len(outcome.skipped)
    row = COLUMNS.format(
        outcome.name, outcome.simulator, outcome.seed, *counts, f"{outcome.cycles:,}", f"{outcome.seconds:.1f}"
    )
    print(row, flush=True)
    for test, reason in outcome.failed.items():
        print(f"    FAILED  {test}: {reason}")
        print(f"            log: {outcome.directory / 'log.txt'}")
    for test, reason in outcome.skipped.items():
        print(f"    skipped {test}: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _arguments(arguments)
    benches = _selected(options.block)
    if options.list:
        for bench in benches:
            print(f"{bench.name:<24} {', '.join(bench.simulators)}")
        return 0

    print(COLUMNS.format("bench", "simulator", "seed", "passed", "failed", "skipped", "cycles", "seconds"))
    started = time.perf_counter()
    outcomes: list[Outcome] = []
    for bench in benches:
        for simulator in bench.simulators if options.simulator is None else [options.simulator]:
            if simulator == "icarus" and options.simulator is None:
                try:
                    icarus()
                except ToolError as absence:
                    print(f"{bench.name:<24} icarus     not run: {absence}")
                    continue
            outcome = bench.run(options.seed, simulator, options.waves, options.build)
            _report(outcome)
            outcomes.append(outcome)

    results = options.build / "sim" / "results.xml"
    _merge(outcomes, results)
    failed = [outcome.name for outcome in outcomes if not outcome.ok]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all passed" if outcomes else "nothing ran"
    print(f"{len(outcomes)} runs in {time.perf_counter() - started:.0f} s, {verdict}; results in {results}")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToolError as error:
        sys.exit(f"error: {error}")
