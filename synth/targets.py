"""The technologies that blocks are synthesised for: scripts for Yosys, and what is counted.

No target uses DSPs: small products go into LUTs, and a device's few DSPs would run out unnoticed.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hw.config import ConfigError

__all__ = ["ECP5_GOAL", "PLAIN", "SMALL_MEMORIES", "TARGETS", "TARGET_NAMES", "Effort", "Target", "liberty",
           "read_library", "target"]

GZIP = b"\x1f\x8b"
# What ABC9 maps for: paths of 5 ns by its own delays, about twice as much when routed. Where a path is shorter it saves
# LUTs; without a goal it makes every path of a module as short as it can, which doubles the cost of shifters.
ECP5_GOAL = "scratchpad -set abc9.D 5000"
MACRO_DEPTH = 64    # where there is no block RAM to map to, memories of so many words and more stay whole
SMALL_MEMORIES = "small_memories"   # ends the name of the module that has a module's smaller ones


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


PLAIN = Effort()


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
    libraries : tuple of path
        Liberty files with the cells; the scripts have LIBRARIES for the options that name them.
    """

    name: str
    script: Callable[[str, Effort], str]
    columns: Mapping[str, str]
    weights: Mapping[str, int] = field(default_factory=dict)
    libraries: tuple[Path, ...] = ()

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
    return f"{ECP5_GOAL}; synth_ecp5 -nodsp{options} -top {top}"


def _ice40(top: str, effort: Effort) -> str:
    return f"synth_ice40{'' if effort.flat else ' -noflatten'} -top {top}"  # DSPs only if asked for


def _xilinx(family: str) -> Callable[[str, Effort], str]:
    def script(top: str, effort: Effort) -> str:
        options = (" -flatten" if effort.flat else "") + (" -nowidelut" if effort.small else "")
        return f"synth_xilinx -family {family} -nodsp -noiopad -noclkbuf{options} -top {top}"

    return script


def _generic(top: str, effort: Effort) -> str:
    # As `synth -lut 4`, but memories stay whole: they would become flip-flops.
    return (f"synth{' -flatten' if effort.flat else ''} -top {top} -run begin:fine; opt -fast -full; "
            "opt -undriven -fine; techmap; opt -fast; abc -lut 4; opt -fast; clean")


def _liberty(top: str, effort: Effort) -> str:
    # As `synth`, but large memories stay whole: they would be macros of the technology. The small ones of each module
    # become flip-flops in a module of their own, so that the report says what they cost.
    small = f"t:$mem_v2 r:SIZE<{MACRO_DEPTH} %i"
    return (f"synth{' -flatten' if effort.flat else ''} -top {top} -run begin:fine; opt -fast -full; "
            f'setattr -set submod "{SMALL_MEMORIES}" {small}; submod; memory_map {small}; opt -undriven -fine; '
            "techmap; opt -fast; dfflibmap LIBRARIES; opt; abc LIBRARIES; opt_clean -purge")


TARGETS: dict[str, Target] = {
    "ecp5": Target("ecp5", _ecp5, {
        "LUT4": "LUT4", "CCU2C": "CCU2C", "DPR16X4": "TRELLIS_DPR16X4", "FF": "TRELLIS_FF",
        "DP16KD": "DP16KD|PDPW16KD", "DSP": "MULT18X18D|ALU54B",
    }, {"LUT4": 1, "CCU2C": 2, "DPR16X4": 6}),
    "ice40": Target("ice40", _ice40, {
        "LUT4": "SB_LUT4", "CARRY": "SB_CARRY", "FF": r"SB_DFF\w*", "RAM40": r"SB_RAM40_4K\w*", "DSP": "SB_MAC16",
    }, {"LUT4": 1}),
    "xc7": Target("xc7", _xilinx("xc7"), {
        "LUT": "LUT[1-6]|INV", "CARRY4": "CARRY4", "RAM32M": "RAM(32M|64M)", "RAMxx1D": r"RAM(32|64|128)X1D",
        "SRL": r"SRL\w+", "FF": r"FD[RSCP]E(_1)?", "RAMB18": r"RAMB18E1", "RAMB36": r"RAMB36E1", "DSP": "DSP48E1",
    }, {"LUT": 1, "RAM32M": 4, "RAMxx1D": 2, "SRL": 1}),
    "xcup": Target("xcup", _xilinx("xcup"), {
        "LUT": "LUT[1-6]|INV", "CARRY4": "CARRY4", "CARRY8": "CARRY8", "RAM32M16": "RAM(32M16|64M8)",
        "RAM32M": "RAM(32M|64M)", "RAMxx1D": r"RAM(32|64|128)X1D", "SRL": r"SRL\w+", "FF": r"FD[RSCP]E(_1)?",
        "RAMB18": r"RAMB18E2", "RAMB36": r"RAMB36E2", "URAM": "URAM288", "DSP": "DSP48E2",
    }, {"LUT": 1, "RAM32M16": 8, "RAM32M": 4, "RAMxx1D": 2, "SRL": 1}),
    "generic": Target("generic", _generic, {
        "LUT4": r"\$lut", "FF": r"\$_\w*DFF\w*_", "memories": r"\$mem\w*",
    }, {"LUT4": 1}),
}
TARGET_NAMES = (*TARGETS, "liberty")

_GROUP = re.compile(r"\bcell\s*\(\s*\"?(\w+)\"?\s*\)|\bff\s*\(")


def read_library(path: Path) -> str:
    """Return the text of a Liberty file, which may be compressed by gzip.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content[:2] == GZIP else content).decode(errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"liberty={path} is not legal: it cannot be read ({reason})") from None


def liberty(libraries: Sequence[Path]) -> Target:
    """Return the target of a standard-cell library, in one file or several.

    Raises
    ------
    ConfigError
        A file cannot be read, or none describes a flip-flop.
    """
    flip_flops, cell = set(), ""
    for library in libraries:
        for group in _GROUP.finditer(re.sub(r"/\*.*?\*/", "", read_library(library), flags=re.DOTALL)):
            if group[1]:
                cell = group[1]
            else:
                flip_flops.add(cell)
    if not flip_flops:
        raise ConfigError(f"liberty={' '.join(map(str, libraries))} is not legal: it must be Liberty, as text or "
                          "compressed by gzip, with a flip-flop")
    return Target("liberty", _liberty, {
        "cells": r"[^$].*", "FF": "|".join(sorted(map(re.escape, flip_flops))), "memories": r"\$mem\w*",
    }, libraries=tuple(libraries))


def target(name: str, libraries: Sequence[Path] = ()) -> Target:
    """Return the target called `name`.

    Parameters
    ----------
    name : str
    libraries : sequence of path
        The cells, for liberty only.

    Raises
    ------
    ConfigError
        There is no such target, or the libraries are missing, or go with another target.
    """
    if name not in TARGET_NAMES:
        raise ConfigError(f"target={name} is not legal: it must be one of {', '.join(TARGET_NAMES)}")
    if bool(libraries) != (name == "liberty"):
        raise ConfigError("target=liberty needs --liberty FILE, and the other targets have no use for it")
    return liberty(libraries) if libraries else TARGETS[name]
