"""Committed resource counts, and whether the generator still comes to them.

    python -m synth.figures                     synthesise all entries of synth/figures.json and compare
    python -m synth.figures --preset tiny       those of one preset
    python -m synth.figures --update            write what is measured into the file

A count may differ by 3 %, or by 8 cells: less is what a change of names does to ABC. A count that is better by more
fails too, so that the file stays true. Entries without counts are measured with --update.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden.report import write_whole
from hw.config import PRESETS, ConfigError, preset
from sim.toolchain import ToolError

from .area import Area, AreaError, measure
from .targets import Effort, target

__all__ = ["FIGURES", "Entry", "compare", "main", "read", "to_text"]

FIGURES = Path(__file__).parent / "figures.json"
TOLERANCE, CELLS = 0.03, 8


@dataclass(frozen=True)
class Entry:
    """What a block came to.

    Parameters
    ----------
    preset, block, target : str
    small : bool
        See `synth.targets.Effort`.
    counts : mapping of str to int
        By the target's columns.
    """

    preset: str
    block: str
    target: str
    small: bool
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.block} of {self.preset} for {self.target}{Effort(small=self.small)}"

    def measure(self, build: Path) -> Area:
        """Synthesise the block; raises as `synth.area.measure`."""
        return measure(self.block, preset(self.preset), target(self.target), build, Effort(small=self.small))


def read(path: Path = FIGURES) -> tuple[str, list[Entry]]:
    """Return the tool's version and the entries of the file."""
    content = json.loads(path.read_text())
    return content["tool"], [Entry(**entry) for entry in content["entries"]]


def to_text(tool: str, entries: Sequence[Entry]) -> str:
    """Return the file's content."""
    lines = ",\n".join("    " + json.dumps(vars(entry)) for entry in entries)
    return f'{{\n  "tool": {json.dumps(tool)},\n  "entries": [\n{lines}\n  ]\n}}\n'


def compare(entry: Entry, found: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each count that differs by more than the tolerance."""
    for column, count in found.items():
        expected = entry.counts.get(column, 0)
        if abs(count - expected) > max(CELLS, TOLERANCE * expected):
            change = f" ({100 * (count - expected) / expected:+.1f} %)" if expected else ""
            yield f"{entry}: {count} {column}, committed are {expected}{change}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m synth.figures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="all if absent")
    parser.add_argument("--update", action="store_true", help="write what is measured")
    parser.add_argument("--file", type=Path, default=FIGURES, metavar="FILE", help="synth/figures.json if absent")
    parser.add_argument("--build", type=Path, default=Path("build/synth"), metavar="DIR", help="build/synth if absent")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if counts differ or a tool failed, 2 for a bad file."""
    options = _parser().parse_args(arguments)
    try:
        tool, entries = read(options.file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"synth.figures: {options.file} is not legal: {error}", file=sys.stderr)
        return 2
    differences: list[str] = []
    measured: list[Entry] = []
    found_tool = tool
    for number, entry in enumerate(entries, 1):
        if options.preset not in (None, entry.preset):
            measured.append(entry)
            continue
        print(f"{number} of {len(entries)}: {entry}", flush=True)
        try:
            area = entry.measure(options.build)
        except (ToolError, AreaError, ConfigError, OSError) as error:
            print(f"synth.figures: {entry}: {error}", file=sys.stderr)
            return 1
        counts: dict[str, Any] = area.target.count(area.cells)
        found_tool = area.tool
        measured.append(Entry(entry.preset, entry.block, entry.target, entry.small, counts))
        differences += compare(entry, counts)
    if options.update:
        write_whole(options.file, to_text(found_tool, measured))
        print(f"{options.file} is written; {len(differences)} counts had changed")
        return 0
    for difference in differences:
        print(difference)
    if differences and found_tool != tool:
        print(f"the committed counts are of {tool}, this is {found_tool}")
    print(f"{len(differences)} counts differ by more than {100 * TOLERANCE:.0f} %" if differences
          else "all counts are as committed")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
