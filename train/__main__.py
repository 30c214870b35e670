"""Train what golden/data/ holds: the classifier of the quality measures, float models, 4-bit models.

Each is made in minutes on one core; the same seed gives the same arrays on the same machine with the same PyTorch.

examples:
  python -m train all                     everything, in the order in which it is needed
  python -m train classifier              the classifier
  python -m train float digits32          a float model
  python -m train distil digits32         its 4-bit model, from the float model in golden/data
  python -m train float digits16 --seed 3 --out build/train
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from golden.workload.unet import DATA

from .models import DISTILLED, MODELS

WHAT = ("all", "classifier", "float", "distil")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m train", description=__doc__, formatter_class=style)
    parser.add_argument("what", choices=WHAT, help="what to train")
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help=f"of {', '.join(MODELS)} (default: all; of distil {', '.join(DISTILLED)})")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument("--iterations", type=int, help="instead of the usual number (for a quick look)")
    parser.add_argument("--out", type=Path, default=DATA, help="directory of the results (default: golden/data)")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"there are no models {', '.join(sorted(unknown))}, only {', '.join(MODELS)}")
    if options.what in ("classifier", "all") and options.models:
        parser.error(f"{options.what} takes no models")
    if options.iterations is not None and options.iterations < 1:
        parser.error(f"--iterations must be at least 1, not {options.iterations}")
    wrong = [name for name in options.models if MODELS[name].shape.activation != "relu"]
    if options.what == "distil" and wrong:
        parser.error(f"{', '.join(wrong)}: 4-bit models have ReLU")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _arguments(arguments)
    try:
        from .commands import distil_models, train_classifier, train_floats
    except ModuleNotFoundError as error:
        print(f"train: {error.name} is missing; install the extra: pip install -e '.[train]'", file=sys.stderr)
        return 1
    if options.what in ("classifier", "all"):
        train_classifier(options.seed, options.out)
    if options.what in ("float", "all"):
        train_floats(options.models or list(MODELS), options.seed, options.iterations, options.out)
    if options.what in ("distil", "all"):
        distil_models(options.models or list(DISTILLED), options.seed, options.iterations, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
