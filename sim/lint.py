"""Lint emitted Verilog with Verilator and with Yosys; any complaint is an error.

Verilator looks with ``-Wall``; the few kinds of warnings that the way Amaranth and Yosys write Verilog always causes
are waived, each with its reason, in ``lint.vlt``. Yosys checks for missing modules, undriven or doubly driven nets and
combinational loops.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from . import toolchain

__all__ = ["lint"]

WAIVERS = Path(__file__).with_name("lint.vlt")


def lint(verilog: Path | str, top: str) -> None:
    """Check a Verilog file whose top module is ``top``.

    Raises
    ------
    toolchain.ToolError
        If a tool complains; the message ends with the tool's last lines.
    """
    verilog = Path(verilog).resolve()
    verilator = toolchain.verilator()
    command = [str(verilator.binary), "--lint-only", "-Wall", "--top-module", top, str(WAIVERS), str(verilog)]
    toolchain.run(command, f"linting {verilog.name} with Verilator", env={"VERILATOR_ROOT": str(verilator.root)})

    # YoWASP's Yosys sees only the directory it runs in, so it gets a copy under a relative name. It writes no more
    # to a redirected standard output after some passes, hence the log file.
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(verilog, Path(scratch) / "design.v")
        script = f"read_verilog design.v; hierarchy -check -top {top}; proc; check -assert"
        toolchain.run([toolchain.yosys(), "-q", "-p", script], f"linting {verilog.name} with Yosys", cwd=Path(scratch))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m sim.lint FILE.v TOP")
    try:
        lint(sys.argv[1], sys.argv[2])
    except toolchain.ToolError as error:
        sys.exit(f"error: {error}")
    print(f"{sys.argv[1]}: clean")
