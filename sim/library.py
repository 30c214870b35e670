"""A design as a shared library: emitted Verilog through Verilator, and a C++ compiler, with the harness `fast.cpp`.

`sim.fast` drives it. A library is compiled once per content of the Verilog, and kept.
"""

import ctypes
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .cache import cached, content_key

__all__ = ["Port", "build_library", "load_library"]

HARNESS = Path(__file__).with_name("fast.cpp")
LIBRARY = "libsim.so"

# Names of the clock and the reset in a design, and what they are connected to.
CLOCKING = ({"clk": "clk", "rst": "reset"}, {"aclk": "clk", "aresetn": "~reset"})

# Two-state simulation: a value that Verilog leaves unknown is whatever is fastest. The functional lane, on Icarus,
# is where unknowns are looked for.
VERILATOR_FLAGS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "--no-assert")

# The library runs where it is compiled, so all of the processor's instructions may be used: with g++ 12, an array of
# multipliers runs at 1257 instead of 444 thousand cycles per second, whole engines 10 % faster. -O3 and Verilator's
# splitting and inlining options made no difference, or a bad one.
COMPILER_FLAGS = ("-std=gnu++20", "-O2", "-march=native", "-fPIC", "-w", "-DVM_COVERAGE=0", "-DVM_SC=0")


@dataclass(frozen=True)
class Port:
    """A top-level port: its position in the harness, its direction seen from the design, and its width in bits."""

    index: int
    is_input: bool
    width: int

    @property
    def size(self) -> int:
        """Bytes that Verilator stores the port in."""
        return next((size for size in (1, 2, 4, 8) if self.width <= 8 * size), 4 * -(-self.width // 32))


def _mangle(name: str) -> str:
    """A Verilog name as Verilator writes it in C++, where a double underscore is reserved."""
    return name.replace("__", "___05F")


def _ports(header: str) -> dict[str, Port]:
    """The top-level ports that Verilator declares in the header of the model."""
    found = re.findall(r"VL_(IN|OUT)(?:8|16|64|W)?\(&(\w+),(\d+),(\d+)", header)
    return {
        member.replace("___05F", "__"): Port(index, direction == "IN", int(msb) - int(lsb) + 1)
        for index, (direction, member, msb, lsb) in enumerate(found)
    }


def _compile(directory: Path, compiler: toolchain.Compiler, flags: Sequence[str], include: Path) -> None:
    """Compile the verilated model and the harness in ``directory`` to a shared library, one process per core."""
    sources = [*sorted(directory.glob("V*.cpp")), HARNESS]
    sources += [include / name for name in ("verilated.cpp", "verilated_threads.cpp")]
    if "-DVM_TRACE=1" in flags:
        sources.append(include / "verilated_vcd_c.cpp")
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]

    def compile_one(source: Path) -> str:
        output = source.stem + ".o"
        command = [*compiler.command, *flags, *includes, "-c", str(source), "-o", output]
        toolchain.run(command, f"compiling {source.name} with {compiler.version}", cwd=directory)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    command = [*compiler.command, "-shared", "-pthread", *objects, "-o", LIBRARY]
    toolchain.run(command, f"linking {LIBRARY} with {compiler.version}", cwd=directory)


def _with_registered_reset(verilog: str, top: str) -> str:
    """A module `fast_top` with the ports of ``top`` around it, whose reset goes through a register.

    Verilator evaluates what depends on an input port twice a cycle, once per clock edge, and next to every register
    depends on the reset: a quarter of the run time. At the falling edge the register changes before the streams are
    sampled, so no cycle is different.
    """
    module = re.search(rf"^module {top} *\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if module is None:
        raise toolchain.ToolError(f"there is no module {top} in the Verilog")
    ports = re.findall(r"^  (input|output) (\[\d+:\d+\] )?(\w+);", module[0], re.MULTILINE)
    names = [name for _, _, name in ports]
    clocking = next((pins for pins in CLOCKING if set(pins) <= set(names)), None)
    if clocking is None:
        raise toolchain.ToolError(f"module {top} needs ports clk and rst, or aclk and aresetn, has {names}")
    others = [port for port in ports if port[2] not in clocking]
    lines = [f"module fast_top({', '.join(['clk', 'rst', *(name for _, _, name in others)])});", "  input clk, rst;"]
    lines += [f"  {direction} {width}{name};" for direction, width, name in others]
    lines += ["  reg reset = 1'b1;", "  always @(negedge clk) reset <= rst;"]
    pins = clocking | {name: name for _, _, name in others}
    connections = ", ".join(f".{pin}({wire})" for pin, wire in pins.items())
    return "\n".join([*lines, f"  {top} dut({connections});", "endmodule", ""])


def build_library(
    verilog: Path, top: str, build_dir: Path, *, waves: bool = False, compiler: toolchain.Compiler | None = None,
) -> tuple[Path, dict[str, Port]]:
    """Compile a design, or find it compiled.

    Parameters
    ----------
    As `sim.fast.FastSim.build`.

    Returns
    -------
    Path
        The shared library.
    dict of str to Port
        The design's ports by their Verilog names.

    Raises
    ------
    toolchain.ToolError
        If a tool is missing, or refuses the design.
    """
    verilator = toolchain.verilator()
    compiler = compiler or toolchain.fast_compiler()
    verilog = verilog.resolve()
    wrapper = _with_registered_reset(verilog.read_text(), top)
    trace_flags = ("--trace-vcd",) if waves else ()
    verilate = [str(verilator.binary), *VERILATOR_FLAGS, *trace_flags, "--Mdir", ".", "--prefix", "Vtop"]
    verilate += ["--top-module", "fast_top", "-Wno-lint", "-Wno-style", "fast_top.v", str(verilog)]
    compile_flags = [*COMPILER_FLAGS, f"-DVM_TRACE={int(waves)}"]

    def build(directory: Path) -> None:
        environment = {"VERILATOR_ROOT": str(verilator.root)}
        (directory / "fast_top.v").write_text(wrapper)
        toolchain.run(verilate, f"verilating {verilog.name}", cwd=directory, env=environment)
        ports = _ports((directory / "Vtop.h").read_text())
        (directory / "ports.inc").write_text("".join(f"PORT({_mangle(name)})\n" for name in ports))
        _compile(directory, compiler, compile_flags, verilator.root / "include")

    flags = [str(verilator.version), compiler.version, wrapper, *verilate[1:-1], *compile_flags]
    directory = cached(build_dir / "fast", content_key([verilog, HARNESS, *flags]), build)
    return directory / LIBRARY, _ports((directory / "Vtop.h").read_text())


def load_library(library: Path) -> ctypes.CDLL:
    """Load the shared library and declare the functions of `fast.cpp`."""
    loaded = ctypes.CDLL(str(library))
    u32, u64, pointer, text = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
    integer, flag = ctypes.c_int, ctypes.POINTER(ctypes.c_int)
    for name, result, arguments in (
        ("sim_create", pointer, []),
        ("sim_destroy", None, [pointer]),
        ("sim_port", pointer, [pointer, u32]),
        ("sim_settle", None, [pointer]),
        ("sim_add_stream", None, [pointer, u32, u32, u32, text, u64, integer, u64]),
        ("sim_use_stream", None, [pointer, u32, pointer, u64, u64, u64]),
        ("sim_stream_done", u64, [pointer, u32]),
        ("sim_add_memory", None, [pointer, ctypes.POINTER(u32), u64, u64, pointer, u64, u64, u64, u64, u64]),
        ("sim_bad_range", None, [pointer, u64, u64]),
        ("sim_pace_memory", None, [pointer, u64, u64]),
        ("sim_outstanding", u64, [pointer]),
        ("sim_watch", None, [pointer, ctypes.POINTER(u32), ctypes.POINTER(u32), u32, pointer, u64]),
        ("sim_watched", u64, [pointer]),
        ("sim_run", u64, [pointer, u64, u32, integer, flag]),
        ("sim_trace", integer, [pointer, text]),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
