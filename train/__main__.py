"""Train what golden/data/ holds: float models, the classifier of the quality measures, 4-bit models.

examples:
  python -m train all                     everything, in the order in which it is needed
  python -m train float digits32          one float model
  python -m train float --seed 3 --out build/train digits16
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from golden.workload.unet import DATA

from .models import MODELS


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m train", description=__doc__, formatter_class=style)
    parser.add_argument("what", choices=("classifier", "float"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument("--iterations", type=int, help="instead of the model's number (for a quick look)")
    parser.add_argument("--out", type=Path, default=DATA, help="directory of the results (default: golden/data)")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"there are no models {', '.join(sorted(unknown))}, only {', '.join(MODELS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _arguments(arguments)
    from .commands import train_classifier, train_floats

    if options.what == "classifier":
        train_classifier(options.seed, options.out)
    else:
        train_floats(options.models or list(MODELS), options.seed, options.iterations, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
