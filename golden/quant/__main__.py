"""Quantise the trained models in many ways, draw images with each and say what they are worth.

examples:
  python -m golden.quant table                                   all rows, about 20 minutes on one core
  python -m golden.quant table --only "G = 8" --samples 200      some rows, in a hurry
  python -m golden.quant table --docs docs/quantisation.md       and put the table into the document
  python -m golden.quant make --out model.npz --feedback --bias active     write one quantised model
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from golden.quant.activations import Calibration
from golden.quant.cases import cases
from golden.quant.layerwise import BiasCorrection
from golden.quant.recipe import Recipe, quantise_model
from golden.quant.table import COLUMNS, Bench, Row, markdown
from golden.report import Table, announced, write_whole
from golden.workload.unet import DEFAULT_MODEL, MODELS, load

BEGIN, END = "<!-- table: python -m golden.quant table -->", "<!-- end of table -->"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m golden.quant", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="measure all ways to quantise, or some")
    table.add_argument("--samples", type=_positive, default=1000, metavar="N", help="images per seed (default: 1000)")
    table.add_argument("--seeds", type=_positive, default=2, metavar="N", help="seeds 0 to N - 1 (default: 2)")
    table.add_argument("--calibration", type=_positive, default=100, metavar="N",
                       help="images that are calibrated on (default: 100)")
    table.add_argument("--only", nargs="+", default=[""], metavar="TEXT",
                       help="only rows with one of these in the name")
    table.add_argument("--out", type=Path, default=Path("build"), metavar="DIR",
                       help="where quantisation.json and quantisation.md go (default: build)")
    table.add_argument("--resume", action="store_true",
                       help="keep the rows that an earlier, equal run has written to the same directory")
    table.add_argument("--docs", type=Path, metavar="FILE", help="Markdown file whose table is replaced")
    make = commands.add_parser("make", help="quantise a model after its training and write it")
    make.add_argument("--model", default=DEFAULT_MODEL, choices=list(MODELS), help=f"(default: {DEFAULT_MODEL})")
    make.add_argument("--out", type=Path, required=True, metavar="FILE", help="the npz to write")
    make.add_argument("--group", type=_positive, default=8, metavar="G", help="input channels per scale (default: 8)")
    make.add_argument("--feedback", action="store_true", help="round the weights with error feedback")
    make.add_argument("--bias", default="none", choices=get_args(BiasCorrection),
                      help="bias correction (default: none)")
    make.add_argument("--dilate", action="store_true", help="weight dilation")
    make.add_argument("--no-tpq", action="store_true", help="one activation scale for all time steps")
    make.add_argument("--calibration", type=_positive, default=100, metavar="N",
                      help="images that are calibrated on (default: 100)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _table(options: argparse.Namespace) -> int:
    document = options.docs.read_text() if options.docs else ""
    if options.docs and not 0 <= document.find(BEGIN) < document.find(END):
        print(f"golden.quant: {options.docs} has no lines {BEGIN!r} and {END!r}", file=sys.stderr)
        return 2
    chosen = [case for case in cases() if any(text in case.name for text in options.only)]
    if not chosen:
        print(f"golden.quant: no row has one of {options.only} in its name; there are:", file=sys.stderr)
        print("\n".join(f"  {case.name}" for case in cases()), file=sys.stderr)
        return 2
    path = options.out / "quantisation.json"
    settings = {"samples": options.samples, "seeds": options.seeds, "calibration": options.calibration}
    known = _known(path, settings) if options.resume else {}
    bench = Bench(options.samples, range(options.seeds), options.calibration)
    about = (f"{options.samples} images for each of {options.seeds} seeds, {bench.steps} Euler steps from noise level "
             f"10; calibration on {options.calibration} other images.")
    print(f"{about}\n")
    shown = Table({"": -50} | dict.fromkeys(COLUMNS, 14))
    print(shown.head())
    rows: dict[str, Row] = {}
    for case in cases():
        if case in chosen and case.name not in known:
            rows[case.name] = bench.measure(case)
            print(shown.line([case.name, *(cell(rows[case.name]) for cell in COLUMNS.values())]), flush=True)
        elif case.name in known:
            rows[case.name] = Row.from_json(case, known[case.name])
        unfinished = {name: values for name, values in known.items() if name not in rows}
        held = [*(row.to_json() for row in rows.values()), *unfinished.values()]
        write_whole(path, json.dumps(settings | {"rows": held}, indent=1) + "\n")
    text = f"{markdown(rows.values())}\n{about}\n"
    write_whole(options.out / "quantisation.md", text)
    if options.docs:
        before, after = document[:document.index(BEGIN)], document[document.index(END):]
        write_whole(options.docs, f"{before}{BEGIN}\n\n{text}\n{after}")
    print(f"\nwritten: {path}")
    return 0


def _known(path: Path, settings: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Rows by name that an earlier run with the same settings has measured."""
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    if {name: report[name] for name in settings} != settings:
        raise ValueError(f"{path} was not measured with {settings}; leave --resume out to begin anew")
    return {row["name"]: row for row in report["rows"]}


def _make(options: argparse.Namespace) -> int:
    recipe = Recipe(temporal=not options.no_tpq, feedback=options.feedback, bias=options.bias, dilate=options.dilate)
    recipe = replace(recipe, weights=replace(recipe.weights, group=options.group))
    with announced(f"quantising {options.model}"):
        calibration = Calibration.record(options.model, samples=options.calibration)
        quantise_model(load(options.model), recipe, calibration).save(options.out)
    print(f"written: {options.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 2 if an argument or a file is wrong."""
    options = _arguments(arguments)
    try:
        return _table(options) if options.command == "table" else _make(options)
    except (OSError, ValueError) as error:
        print(f"golden.quant: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
