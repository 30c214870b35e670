"""Shares identical modules of the emitted Verilog: 32 rows are one module with 32 instances, not 32 modules.

Amaranth writes each instance of a component as a module of its own, with port names that depend on the surroundings.
Two modules are the same when their texts are, once the names that carry a running number (`\\port$21689$0`,
`\\$155 `) are numbered anew in the order of their appearance. The Verilog becomes several times shorter (default:
24 modules and 2.5 MB instead of 134 and 6.8 MB), and its modules have plain names.
"""

import re
from collections.abc import Iterator

__all__ = ["share_modules"]

_MODULE = re.compile(r"^module (\\\S+|\w+) *\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_NUMBERED = re.compile(r"\\\S*\$\d\S*")
_INSTANCE = re.compile(r"^  (\\\S+|\w+) +(\\\S+|\w+) +\(\n(.*?)^  \);$", re.MULTILINE | re.DOTALL)
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


def share_modules(verilog: str) -> str:
    """Return the Verilog with one module for each set of identical ones, named after its place.

    The top module, the first one, keeps its name; so do all ports of the top module.
    """
    modules = {match[1]: match[0] for match in _MODULE.finditer(verilog)}
    top = next(iter(modules))
    header = verilog[:verilog.index(f"module {top}")]
    chosen: dict[str, str] = {}                 # module -> name of the one that stands for it
    numbering: dict[str, dict[str, str]] = {}   # module -> running-number names, renumbered
    by_text: dict[str, str] = {}
    texts: dict[str, str] = {}
    for name in _dependencies_first(modules):
        text = modules[name]

        def redirect(instance: re.Match[str]) -> str:
            if instance[1] not in modules:
                return instance[0]
            names = numbering[instance[1]]
            # A port's new name is the child's, and not to be numbered anew with the names of this module.
            ports = _PORT.sub(lambda port: f"    .{names.get(port[1], port[1]).replace('$', _KEPT)}", instance[3])
            return f"  {chosen[instance[1]]} {instance[2]} (\n{ports}  );"

        text = _INSTANCE.sub(redirect, text)
        found = dict.fromkeys(_NUMBERED.findall(text))
        renumbered = numbering[name] = {old: f"\\${number}" for number, old in enumerate(found, 1)}
        text = _NUMBERED.sub(lambda match, names=renumbered: names[match[0]], text).replace(_KEPT, "$")
        body = text.split("(", 1)[1]
        if name == top:
            chosen[name] = name
        elif body in by_text:
            chosen[name] = by_text[body]
            continue
        else:
            chosen[name] = by_text[body] = _short_name(name, set(texts))
        texts[chosen[name]] = f"module {chosen[name]} ({body}"
    ordered = [texts[top], *(text for name, text in reversed(texts.items()) if name != top)]
    return header + "\n\n".join(ordered) + "\n"
