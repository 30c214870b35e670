"""What a block costs in FPGA cells, per module of its hierarchy: Yosys on the emitted Verilog.

    python -m synth --target ecp5 --block pe_row            a row of lanes, default preset
    python -m synth --target ecp5 --block dense --dense-taps 1
    python -m synth --target xc7 --block sparse --preset ecp5 --rows 4
    python -m synth --target ecp5 --preset tiny --flat      the whole engine, hierarchy dissolved

    python -m synth --pnr --preset tiny --device 45 --seeds 3       place and route for ECP5, best of three
    python -m synth --target liberty --liberty sg13g2_stdcell_typ_1p20V_25C.lib --block fp16
    python -m synth.table --help                            all presets and targets in one table

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
from hw.gen import TOP
from sim.toolchain import ToolError

from . import pnr
from .area import SYNTH_BLOCKS, Area, AreaError, macs, measure
from .targets import TARGET_NAMES, Effort, target

__all__ = ["main", "report"]


def report(area: Area, hierarchy: bool = False) -> Iterator[str]:
    """Yield the lines of a block's table: its modules, then the total, then what the memories became.

    With `hierarchy` a line is a place in the hierarchy with all that is in it, else a module without the modules in it.
    """
    kind = area.target
    unit = "area" if kind.libraries else "LUT-eq."
    if hierarchy:
        rows = [("  " * level.depth + _named(level.instances, level.name.removeprefix(f"{area.modules[0].name}_")),
                 level.cells, level.size, level.instances * macs(level.name.rsplit("_", 1)[-1], area.config))
                for level in area.hierarchy()]
    else:
        rows = [(_named(module.instances, module.name), module.all_cells, module.size * module.instances, 0)
                for module in area.modules]
    width = max(len("module"), *(len(row[0]) for row in rows))
    table = Table({"module": -width} | {column: max(8, len(column)) for column in kind.columns}
                  | {unit: 10, "%": 6, "per MAC": 8})

    def line(name: str, cells: Counter[str], size: float, multipliers: int) -> str:
        worth = size if kind.libraries else kind.lut_equivalents(cells)
        share, each = f"{100 * worth / (area.total or 1):.1f}", f"{worth / multipliers:.1f}" if multipliers else ""
        return table.line([name, *kind.count(cells).values(), f"{worth:.0f}", share, each])

    yield table.head()
    for row in rows:
        yield line(*row)
    if not hierarchy:
        yield line("total", area.cells, area.size, 0)
    if area.per_mac is not None:
        yield f"{area.per_mac:.1f} {'area' if kind.libraries else 'LUT-equivalents'} per multiplier"
    for primitive, number in sorted(Counter(area.memories.values()).items()):
        which = sorted(memory for memory, became in area.memories.items() if became == primitive)
        yield f"{primitive}: {number} memories per set of modules: {', '.join(which)}"


def _named(instances: int, name: str) -> str:
    return f"{instances} x {name}" if instances > 1 else name


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m synth", description=summary, epilog=f"examples:\n{examples}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="ecp5", metavar="NAME",
                        help=f"one of {', '.join(TARGET_NAMES)}; ecp5 if absent")
    parser.add_argument("--liberty", type=Path, metavar="FILE", nargs="+", default=[],
                        help="the cells, for the target liberty; as text or .gz, in one file or several")
    parser.add_argument("--preset", default="default", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--block", default=TOP, metavar="NAME",
                        help=f"one of {', '.join(SYNTH_BLOCKS)}; {TOP} if absent")
    parser.add_argument("--flat", action="store_true", help="dissolve the hierarchy first: slower, a little smaller")
    parser.add_argument("--hierarchy", action="store_true", help="each place in the hierarchy with all that is in it")
    parser.add_argument("--small", action="store_true", help="no muxes that join LUTs: fewer LUTs, longer paths")
    place = parser.add_argument_group("place and route")
    place.add_argument("--pnr", action="store_true", help="place and route for ECP5, down to a bitstream")
    place.add_argument("--device", default="85", metavar="N", help="one of 25, 45, 85; 85 if absent")
    place.add_argument("--seeds", type=int, default=1, metavar="N", help="try seeds 1 to N, and take the fastest")
    parser.add_argument("--build", type=Path, default=Path("build/synth"), metavar="DIR", help="build/synth if absent")
    group = parser.add_argument_group("parameters", "each overrides the preset's; `python -m hw.gen --help` says more")
    for field in fields(Config):
        if field.name != "name":
            group.add_argument(f"--{field.name.replace('_', '-')}", type=int, metavar="N", help=argparse.SUPPRESS
                               if field.name not in ("rows", "cols", "dense_taps", "lanes_per_scale") else "as there")
    return parser


def _place(block: str, config: Config, build: Path, device: str, seeds: int, flat: bool) -> Iterator[str]:
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} is not legal: it must be 1 or more")
    return pnr.report(pnr.place_and_route(block, config, build, device=device, seeds=range(1, seeds + 1),
                                          flat=flat))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if a tool failed, 2 after a message that says what is legal."""
    options = vars(_parser().parse_args(arguments))
    name, block, build, chosen, library, hierarchy = (
        options.pop(key) for key in ("preset", "block", "build", "target", "liberty", "hierarchy"))
    routes, device, seeds = (options.pop(key) for key in ("pnr", "device", "seeds"))
    effort = Effort(options.pop("flat"), options.pop("small"))
    overrides = {key: value for key, value in options.items() if value is not None}
    try:
        kind = target(chosen, library)
        config = preset(name)
        if overrides:
            config = replace(config, name=f"{name} with changes", **overrides)
        lines = list(_place(block, config, build, device, seeds, effort.flat) if routes
                     else report(measure(block, config, kind, build, effort), hierarchy))
    except ConfigError as error:
        print(f"synth: {error}", file=sys.stderr)
        return 2
    except (ToolError, AreaError, OSError) as error:
        print(f"synth: {error}", file=sys.stderr)
        return 1
    for line in lines:
        print(line)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # so that `--help | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
