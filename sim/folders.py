"""Where the commands write, on their command lines."""

import argparse
from pathlib import Path

__all__ = ["add_folders"]


def add_folders(parser: argparse.ArgumentParser, out: str, what: str) -> None:
    """`--out`, a folder of build/ for this, and `--build`."""
    parser.add_argument("--out", type=Path, default=Path("build", out), metavar="DIR",
                        help=f"for {what} (default: build/{out})")
    parser.add_argument("--build", type=Path, default=Path("build"), metavar="DIR",
                        help="where compiled simulations are kept (default: build)")
