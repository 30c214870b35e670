"""The generator's command line: a configuration in, Verilog and its manifest out.

    python -m hw.gen                             the accelerator, default preset, into build/
    python -m hw.gen --rows 16 --cols 32
    python -m hw.gen --preset ecp5 --dense-taps 1 --out rtl
    python -m hw.gen --block dense --rows 3 --cols 5
    python -m hw.gen --html                      with the registers' documentation as a web page
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib.wiring import Component, In

from .accelerator import Accelerator, counter_events
from .actmem import ActivationMemory
from .addrgen import AddressGenerator
from .checker import DescriptorChecker
from .config import PRESETS, Config, ConfigError, preset
from .counters import Counters
from .dense import DenseArray
from .detector import SparsityDetector
from .dma_read import ReadDMA
from .dma_write import WriteDMA
from .engine import LayerEngine
from .fetcher import PortArbiter, WindowFetcher
from .guard import WriteGuard
from .loader import Loader
from .pe_row import PERow
from .ppu import PostProcessor
from .readout import Readout
from .registers import Registers, register_files, write_html
from .scheduler import Scheduler
from .sequencer import Sequencer
from .sparse import SparseArray
from .verilog import convert_component
from .weights import LineWeights, ScaleMemory, TapWeights, WeightHalves

__all__ = ["ARBITER_USERS", "BLOCKS", "COUNTER_EVENTS", "Emitted", "convert", "emit", "main"]

COUNTER_EVENTS = {"cycles": 1, "beats": 3, "steps": 12, "many": (1 << 40) - 1}   # of the block `counters` alone
ARBITER_USERS = 3   # the post-processor, an array and the host, as on one of the engine's read ports

BLOCKS: dict[str, Callable[[Config], Component]] = {
    "accelerator": Accelerator,
    "engine": LayerEngine,
    "actmem": ActivationMemory,
    "addrgen": AddressGenerator,
    "checker": DescriptorChecker,
    "arbiter": lambda config: PortArbiter(config, ARBITER_USERS),
    "counters": lambda config: Counters(COUNTER_EVENTS),
    "dense": DenseArray,
    "detector": SparsityDetector,
    "dma_read": ReadDMA,
    "dma_write": WriteDMA,
    "fetcher": WindowFetcher,
    "guard": WriteGuard,
    "line_weights": LineWeights,
    "loader": Loader,
    "pe_row": PERow,
    "ppu": PostProcessor,
    "readout": Readout,
    "registers": Registers,
    "scales": ScaleMemory,
    "scheduler": Scheduler,
    "sequencer": Sequencer,
    "sparse": SparseArray,
    "tap_weights": TapWeights,
    "weight_halves": lambda config: WeightHalves(),
}
TOP = "accelerator"


@dataclass(frozen=True)
class Emitted:
    """What the generator made of a block.

    Parameters
    ----------
    top : str
        Name of the top module; the files are called after it.
    verilog : str
    manifest : dict
        Configuration, derived constants, ports, memories, hash of the Verilog.
    registers : dict of str to str
        What software needs to know, by file name: see `hw.registers.register_files`. Only of the accelerator.
    """

    top: str
    verilog: str
    manifest: dict[str, Any]
    registers: dict[str, str]

    def write(self, out: Path | str) -> list[Path]:
        """Write TOP.v, TOP.json and the registers' files into the folder `out`; a reader sees old files or new ones."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        texts = {f"{self.top}.v": self.verilog, f"{self.top}.json": json.dumps(self.manifest, indent=2) + "\n",
                 **self.registers}
        with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text)
            for name in texts:
                os.replace(Path(folder) / name, out / name)
        return [out / name for name in texts]


def convert(block: str, config: Config, blocks: Mapping[str, Callable[[Config], Component]] = BLOCKS,
            source: bool = False) -> Emitted:
    """Make the Verilog and the manifest of a block.

    Parameters
    ----------
    block : str
    config : Config
    blocks : mapping
        How to make each block.
    source : bool
        Say in the Verilog which line of the generator each signal comes from.

    Raises
    ------
    ConfigError
        There is no such block.
    """
    if block not in blocks:
        raise ConfigError(f"block={block} is not legal: it must be one of {', '.join(blocks)}")
    component = blocks[block](config)
    top = "sqdm" if block == TOP else f"sqdm_{block}"
    clocks = () if block == TOP else ("clk", "rst")     # the accelerator has its own
    ports = [{"name": name, "dir": "input", "width": 1} for name in clocks]
    for path, member, _ in component.signature.flatten(component):
        ports.append({"name": "__".join(map(str, path)), "dir": "input" if member.flow is In else "output",
                      "width": Shape.cast(member.shape).width})
    text = convert_component(component, top, source)
    header = f"// {top}: block {block}, configuration {config.name}, " \
             f"{config.rows} rows x {config.cols} columns. Generated: edit the generator, not this file.\n"
    text = header + text
    manifest: dict[str, Any] = {"top": top, "block": block, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    manifest |= config.to_json() | {"peak_macs_per_cycle": config.peak_macs, "ports": ports}
    if block in (TOP, "engine"):
        manifest["memories"] = config.memories
    if block != TOP:
        return Emitted(top, text, manifest, {})
    manifest["counters"] = list(counter_events(config))
    return Emitted(top, text, manifest, register_files(config))


def emit(config: Config, block: str = TOP, out: Path | str = "build") -> Path:
    """Write the Verilog and the manifest of a block; return the path of the Verilog."""
    return convert(block, config).write(out)[0]


def _parameter_help() -> dict[str, str]:
    """First sentence of each parameter's description in the docstring of Config."""
    helps: dict[str, str] = {}
    names: list[str] = []
    for line in (Config.__doc__ or "").splitlines():
        head, colon, _ = line.strip().partition(" : ")
        if colon:
            names = head.split(", ")
            helps |= dict.fromkeys(names, "")
        else:
            helps |= {name: f"{helps[name]} {line.strip()}".strip() for name in names if line.strip()}
    return {name: text.split(";")[0].split(". ")[0].rstrip(".") for name, text in helps.items()}


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m hw.gen", description=summary, epilog=f"examples:\n{examples.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--block", default=TOP, metavar="NAME", help=f"one of {', '.join(BLOCKS)}; {TOP} unless given")
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="build/ unless given")
    parser.add_argument("--html", action="store_true",
                        help=f"write the registers of the {TOP} as a web page as well, into sqdm_regs/")
    group = parser.add_argument_group("parameters", "each overrides the preset's")
    helps = _parameter_help()
    for field in fields(Config):
        if field.name != "name":
            default = getattr(PRESETS["default"], field.name)
            group.add_argument(f"--{field.name.replace('_', '-')}", type=int, metavar="N",
                               help=f"{helps[field.name]} (default preset: {default})")
    return parser


def _write_html(config: Config, out: Path) -> Path:
    """Write the registers' web page into a new folder, which then takes the place of the old one."""
    folder = out / "sqdm_regs"
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as scratch:
        write_html(config, Path(scratch) / "new")
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        (Path(scratch) / "new").rename(folder)
    return folder / "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 after a message that says what is legal."""
    options = vars(_parser().parse_args(arguments))
    block, out, name, html = (options.pop(key) for key in ("block", "out", "preset", "html"))
    overrides = {key: value for key, value in options.items() if value is not None}
    try:
        config = preset(name)
        if overrides:
            config = replace(config, name=f"{name} with changes", **overrides)
        if html and block != TOP:
            raise ConfigError(f"--html is for the block {TOP}: {block} has no registers")
        emitted = convert(block, config)
    except ConfigError as error:
        print(f"hw.gen: {error}", file=sys.stderr)
        return 2
    try:
        paths = emitted.write(out)
        if html:
            paths.append(_write_html(config, out))
    except OSError as error:
        print(f"hw.gen: cannot write to {out}: {error.strerror}", file=sys.stderr)
        return 1
    lines = emitted.verilog.count("\n")
    print(f"{emitted.top}: {config.rows} x {config.cols}, {config.dense} dense, {config.sparse} sparse, "
          f"{config.peak_macs} MAC per cycle; {lines} lines of Verilog")
    for path in paths:
        print(f"  {path}")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # so that `--help | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
