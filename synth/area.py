"""What a block costs: Yosys on the emitted Verilog, cells counted per module of the hierarchy.

Identical modules are synthesised once and counted as often as they are used, so logic is not optimised across
modules unless the hierarchy is flattened.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from golden.report import announced, write_whole
from hw.config import Config, ConfigError
from hw.gen import convert
from sim.toolchain import ToolError, run, yosys

__all__ = [
    "TARGETS", "Area", "Effort", "ModuleArea", "Target", "macs", "measure", "read_cells", "read_memories", "target",
]


@dataclass(frozen=True)
class Effort:
    """How to synthesise.

    Parameters
    ----------
    flat : bool
        Dissolve the hierarchy first.
    small : bool
        Do without the multiplexers that join LUTs to wider ones: fewer LUTs, but more of them in a row.
    """

    flat: bool = False
    small: bool = False

    def __str__(self) -> str:
        return ("-flat" if self.flat else "") + ("-small" if self.small else "")


@dataclass(frozen=True)
class Target:
    """A technology.

    Parameters
    ----------
    name : str
    script : str
        Yosys commands for a top module and an `Effort`.
    columns : mapping of str to str
        What is reported, and a regular expression of the cells that count as it.
    weights : mapping of str to int
        LUTs that a unit of a column stands for, in LUT-equivalents.
    """

    name: str
    script: Callable[[str, Effort], str]
    columns: Mapping[str, str]
    weights: Mapping[str, int]

    def count(self, cells: Mapping[str, int]) -> dict[str, int]:
        """Sum cells by column."""
        return {column: sum(number for cell, number in cells.items() if re.fullmatch(pattern, cell))
                for column, pattern in self.columns.items()}

    def lut_equivalents(self, cells: Mapping[str, int]) -> int:
        """Return the logic and the distributed RAM as a number of LUTs."""
        counts = self.count(cells)
        return sum(weight * counts[column] for column, weight in self.weights.items())


def _ecp5(top: str, effort: Effort) -> str:
    options = ("" if effort.flat else " -noflatten") + (" -nowidelut" if effort.small else "")
    return f"synth_ecp5 -nodsp{options} -top {top}"


def _xc7(top: str, effort: Effort) -> str:
    options = (" -flatten" if effort.flat else "") + (" -nowidelut" if effort.small else "")
    return f"synth_xilinx -family xc7 -nodsp -noiopad -noclkbuf{options} -top {top}"


def _generic(top: str, effort: Effort) -> str:
    # As `synth -lut 4`, but memories stay whole: they would become flip-flops.
    return (f"synth{' -flatten' if effort.flat else ''} -top {top} -run begin:fine; opt -fast -full; "
            "opt -undriven -fine; techmap; opt -fast; abc -lut 4; opt -fast; clean")


TARGETS: dict[str, Target] = {
    "ecp5": Target("ecp5", _ecp5, {
        "LUT4": "LUT4", "CCU2C": "CCU2C", "DPR16X4": "TRELLIS_DPR16X4", "FF": "TRELLIS_FF", "DP16KD": "DP16KD",
    }, {"LUT4": 1, "CCU2C": 2, "DPR16X4": 6}),
    "xc7": Target("xc7", _xc7, {
        "LUT": "LUT[1-6]|INV", "CARRY4": "CARRY4", "RAM32M": "RAM(32M|64M)", "RAMxx1D": r"RAM(32|64)X1D",
        "SRL": r"SRL\w+", "FF": r"FD[RSCP]E(_1)?", "RAMB18": r"RAMB18E1", "RAMB36": r"RAMB36E1",
    }, {"LUT": 1, "RAM32M": 4, "RAMxx1D": 2, "SRL": 1}),
    "generic": Target("generic", _generic, {
        "LUT4": r"\$lut", "FF": r"\$_\w*DFF\w*_", "memories": r"\$mem\w*",
    }, {"LUT4": 1}),
}


def target(name: str) -> Target:
    """Return the target called `name`.

    Raises
    ------
    ConfigError
        There is no such target; the message lists those that exist.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise ConfigError(f"target={name} is not legal: it must be one of {', '.join(TARGETS)}") from None


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
    """

    name: str
    instances: int
    cells: Mapping[str, int]

    @property
    def all_cells(self) -> Counter[str]:
        """Cells of all instances."""
        return Counter({cell: number * self.instances for cell, number in self.cells.items()})


@dataclass(frozen=True)
class Area:
    """What a block costs.

    Parameters
    ----------
    block, target : str
    effort : Effort
    config : Config
    modules : list of ModuleArea
        The top first.
    memories : mapping of str to str
        What each memory became: MODULE.MEMORY and the primitive, or "flip-flops".
    tool : str
        Version of Yosys.
    """

    block: str
    target: str
    effort: Effort
    config: Config
    modules: list[ModuleArea]
    memories: Mapping[str, str]
    tool: str

    @property
    def cells(self) -> Counter[str]:
        """Cells of the whole block."""
        return sum((module.all_cells for module in self.modules), Counter())

    @property
    def lut_equivalents(self) -> int:
        """LUT-equivalents of the whole block."""
        return TARGETS[self.target].lut_equivalents(self.cells)

    @property
    def luts_per_mac(self) -> float | None:
        """LUT-equivalents per multiplier; None for a block without."""
        multipliers = macs(self.block, self.config)
        return self.lut_equivalents / multipliers if multipliers else None

    def to_json(self) -> dict[str, Any]:
        """Return the figures, in a fixed order."""
        kind = TARGETS[self.target]
        return {
            "block": self.block, "target": self.target, "effort": asdict(self.effort),
            "tool": self.tool, "parameters": asdict(self.config),
            "counts": kind.count(self.cells), "lut_equivalents": self.lut_equivalents,
            "lut_equivalents_per_mac": None if self.luts_per_mac is None else round(self.luts_per_mac, 1),
            "modules": [{"name": module.name, "instances": module.instances, "counts": kind.count(module.all_cells),
                         "lut_equivalents": kind.lut_equivalents(module.all_cells)} for module in self.modules],
            "cells": dict(sorted(self.cells.items())), "memories": dict(sorted(self.memories.items())),
        }


def macs(block: str, config: Config) -> int:
    """Multipliers of a block, 0 if it has none."""
    return {
        "engine": config.peak_macs,
        "dense": config.rows * config.cols * config.dense_taps,
        "sparse": config.rows * config.cols,
        "pe_row": config.cols * config.dense_taps,
    }.get(block, 0)


def read_cells(statistics: str, top: str) -> list[ModuleArea]:
    """Read what `stat -json` printed: the modules of a design and how often each is used."""
    found = json.loads(statistics[statistics.index("{"):])["modules"]
    cells: dict[str, dict[str, int]] = {name.lstrip("\\"): module["num_cells_by_type"]
                                        for name, module in found.items()}
    instances: Counter[str] = Counter()

    def use(name: str, number: int) -> None:
        instances[name] += number
        for cell, times in cells[name].items():
            if cell in cells:
                use(cell, number * times)

    use(top, 1)
    return [ModuleArea(name, instances[name], {cell: number for cell, number in sorted(cells[name].items())
                                               if cell not in cells}) for name in instances]


def read_memories(log: str) -> dict[str, str]:
    """Read from Yosys's log what each memory became."""
    memories = {}
    for memory, primitive in re.findall(r"^mapping memory (\S+) via (\S+)$", log, re.MULTILINE):
        memories[memory] = primitive.removeprefix("$__").rstrip("_")
    for memory in re.findall(r"^using FF mapping for memory (\S+)$", log, re.MULTILINE):
        if "proc_rom" not in memory:    # a case statement that Yosys takes for a ROM; it becomes LUTs
            memories[memory] = "flip-flops"
    return memories


def measure(block: str, config: Config, kind: Target, build: Path, effort: Effort = Effort()) -> Area:
    """Emit a block, synthesise it and count its cells; the Verilog, the tool's log and the figures stay in `build`.

    Raises
    ------
    ConfigError
        There is no such block.
    ToolError
        Yosys is missing or failed; the message ends with its last lines and the log's path.
    """
    with announced(f"writing the Verilog of block {block}, {config.rows} x {config.cols}"):
        emitted = convert(block, config)
    stem = f"{emitted.top}-{emitted.manifest['sha256'][:8]}-{kind.name}{effort}"
    build.mkdir(parents=True, exist_ok=True)
    write_whole(build / f"{stem}.v", emitted.verilog)
    # YoWASP's Yosys sees only the directory it runs in, and prints nothing after ABC: relative names, and files.
    # Wires get private names, for a wire called `x[0]` and bit 0 of a wire `x` become one name in ABC9.
    script = (f"read_verilog {stem}.v; rename -hide w:*; {kind.script(emitted.top, effort)}; "
              f"tee -q -o {stem}.stat stat -json")
    log = build / f"{stem}.log"
    with announced(f"synthesising {emitted.top} for {kind.name}, log in {log}"):
        try:
            run([yosys(), "-q", "-l", log.name, "-p", script], f"synthesis of {emitted.top}", cwd=build)
        except ToolError as error:
            raise ToolError(f"{error}\nits log: {log}") from None
    text = log.read_text(errors="replace")
    version = re.search(r"^Yosys \S+", text, re.MULTILINE)
    area = Area(block, kind.name, effort, config, read_cells((build / f"{stem}.stat").read_text(), emitted.top),
                read_memories(text), version[0] if version else "Yosys")
    write_whole(build / f"{stem}.json", json.dumps(area.to_json(), indent=2) + "\n")
    return area
