"""Programs on the command line: list one, assemble a listing, print the tables of descriptor fields.

examples:
  python -m golden.program listing step.bin
  python -m golden.program listing step.bin --manifest build/sqdm.json > step.txt     tables and parameters too
  python -m golden.program assemble step.txt --out step.bin
  python -m golden.program fields                                                     Markdown, as in docs/program.md
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from golden.program.assembler import AssemblyError, assemble, disassemble
from golden.program.document import markdown
from golden.program.pack import Packing


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m golden.program", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("listing", help="list a program's bytes as text")
    listing.add_argument("file", type=Path, help="the program region")
    listing.add_argument("--count", type=int, metavar="N", help="descriptors (default: up to END)")
    listing.add_argument("--manifest", type=Path, metavar="FILE",
                         help="what hw.gen wrote beside the Verilog; with it tables and parameters are readable")
    assembler = commands.add_parser("assemble", help="the bytes of a listing")
    assembler.add_argument("file", type=Path, help="the listing")
    assembler.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the program region goes")
    commands.add_parser("fields", help="the tables of descriptor fields and limits, as Markdown")
    return parser.parse_args(arguments)


def _packing(manifest: Path) -> Packing:
    parameters = json.loads(manifest.read_text())["parameters"]
    return Packing(**{item.name: parameters[item.name] for item in fields(Packing)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 2 if an argument or a file is wrong."""
    options = _arguments(arguments)
    try:
        if options.command == "listing":
            packing = _packing(options.manifest) if options.manifest else None
            sys.stdout.write(disassemble(options.file.read_bytes(), options.count, packing))
        elif options.command == "assemble":
            options.out.write_bytes(assemble(options.file.read_text()))
        else:
            sys.stdout.write(markdown())
    except AssemblyError as error:
        print(f"golden.program: {options.file}, {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"golden.program: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        print(f"golden.program: not what was expected in a file: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
