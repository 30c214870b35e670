"""What a block costs in FPGA cells, per module of its hierarchy: Yosys on the emitted Verilog.

    python -m synth --target ecp5 --block pe_row            a row of lanes, default preset
    python -m synth --target ecp5 --block dense --dense-taps 1
    python -m synth --target xc7 --block sparse --preset ecp5 --rows 4
    python -m synth --target ecp5 --preset tiny --flat      the whole engine, hierarchy dissolved

LUT-equivalents on ECP5: LUT4 + 2 CCU2C + 6 DPR16X4; on xc7: LUTs, those of distributed RAM and shift registers
included. No DSPs are used. A row of the table is all instances of a module, without the modules in it. Verilog, tool
log and figures (JSON) stay in the build folder.
"""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from golden.report import Table
from hw.config import PRESETS, Config, ConfigError, preset
from hw.gen import BLOCKS, TOP
from sim.toolchain import ToolError

from .area import TARGETS, Area, Effort, measure, target

__all__ = ["main", "report"]


def report(area: Area) -> Iterator[str]:
    """Yield the lines of a block's table: its modules, then the total, then what the memories became."""
    kind = TARGETS[area.target]
    names = [(f"{module.instances} x " if module.instances > 1 else "") + module.name for module in area.modules]
    width = max(len(name) for name in [*names, "module"])
    table = Table({"module": -width} | {column: max(8, len(column)) for column in kind.columns}
                  | {"LUT-eq.": 8, "%": 6})
    total = max(1, area.lut_equivalents)

    def line(name: str, cells: Counter[str]) -> str:
        equivalents = kind.lut_equivalents(cells)
        return table.line([name, *kind.count(cells).values(), equivalents, f"{100 * equivalents / total:.1f}"])

    yield table.head()
    for name, module in zip(names, area.modules, strict=True):
        yield line(name, module.all_cells)
    yield line("total", area.cells)
    if area.luts_per_mac is not None:
        yield f"{area.luts_per_mac:.1f} LUT-equivalents per multiplier"
    for primitive, number in sorted(Counter(area.memories.values()).items()):
        which = sorted(memory for memory, became in area.memories.items() if became == primitive)
        yield f"{primitive}: {number} memories per set of modules: {', '.join(which)}"


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m synth", description=summary, epilog=f"examples:\n{examples}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="ecp5", metavar="NAME", help=f"one of {', '.join(TARGETS)}; ecp5 if absent")
    parser.add_argument("--preset", default="default", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--block", default=TOP, metavar="NAME", help=f"one of {', '.join(BLOCKS)}; {TOP} if absent")
    parser.add_argument("--flat", action="store_true", help="dissolve the hierarchy first: slower, a little smaller")
    parser.add_argument("--small", action="store_true", help="no muxes that join LUTs: fewer LUTs, longer paths")
    parser.add_argument("--build", type=Path, default=Path("build/synth"), metavar="DIR", help="build/synth if absent")
    group = parser.add_argument_group("parameters", "each overrides the preset's; `python -m hw.gen --help` says more")
    for field in fields(Config):
        if field.name != "name":
            group.add_argument(f"--{field.name.replace('_', '-')}", type=int, metavar="N", help=argparse.SUPPRESS
                               if field.name not in ("rows", "cols", "dense_taps", "lanes_per_scale") else "as there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if a tool failed, 2 after a message that says what is legal."""
    options = vars(_parser().parse_args(arguments))
    name, block, build, chosen = (options.pop(key) for key in ("preset", "block", "build", "target"))
    effort = Effort(options.pop("flat"), options.pop("small"))
    overrides = {key: value for key, value in options.items() if value is not None}
    try:
        kind = target(chosen)
        config = preset(name)
        if overrides:
            config = replace(config, name=f"{name} with changes", **overrides)
        area = measure(block, config, kind, build, effort)
    except ConfigError as error:
        print(f"synth: {error}", file=sys.stderr)
        return 2
    except (ToolError, OSError) as error:
        print(f"synth: {error}", file=sys.stderr)
        return 1
    for line in report(area):
        print(line)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # so that `--help | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
