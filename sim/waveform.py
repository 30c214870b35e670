"""Waveform of the accelerator's first cycles as text, from the RTL: a start, the first bursts, and the end.

    python -m sim.waveform      prints the waveform of docs/integration.md, preset tiny
"""

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from golden.program.descriptor import Opcode, encode
from hw.config import Config, preset
from hw.gen import convert
from sqdm.registers import START, Register

from .accelerator import SimBackend
from .fast import FastSim

__all__ = ["main", "waveform"]

WAVES = ("s_axi_awvalid", "s_axi_awready", "s_axi_awaddr", "s_axi_wvalid", "s_axi_wready", "s_axi_wdata",
         "s_axi_bvalid", "s_axi_bready", "m_axi_arvalid", "m_axi_arready", "m_axi_araddr", "m_axi_arlen",
         "m_axi_rvalid", "m_axi_rready", "m_axi_rlast", "irq")
QUALIFIER = {"awaddr": "awvalid", "wdata": "wvalid", "araddr": "arvalid", "arlen": "arvalid"}
CYCLES = 75
LATENCY = 8     # of memory, cycles
ADDRESS = 0x1000


class _Watched:
    """A simulation with a memory of its own, whose ports can be looked at in every cycle."""

    def __init__(self, sim: FastSim, beat_bytes: int) -> None:
        self.sim = sim
        self.beat_bytes = beat_bytes
        self.cycles: list[dict[str, int]] = []
        self.beats: deque[tuple[int, int, bool]] = deque()     # due in cycle, address, last of its burst

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sim, name)

    def attach_memory(self, _prefix: str, memory: NDArray[np.uint8], base: int, **_: float) -> None:
        """Serve reads from the memory: requests are taken at once."""
        self.memory, self.base = memory, base

    def step(self, cycles: int = 1) -> None:
        """Let cycles pass, and note the ports in each."""
        for _ in range(cycles):
            now, there = len(self.cycles), bool(self.beats) and self.beats[0][0] <= len(self.cycles)
            self.sim.poke("m_axi_arready", 1)
            self.sim.poke("m_axi_rvalid", int(there))
            self.sim.poke("m_axi_rlast", int(there and self.beats[0][2]))
            if there:
                address = self.beats[0][1]
                place = address - self.base
                data = self.memory[place:place + self.beat_bytes].tobytes()
                self.sim.poke("m_axi_rdata", int.from_bytes(data, "little"))
            ports = {name: self.sim.peek(name) for name in WAVES}
            self.cycles.append(ports)
            if there and ports["m_axi_rready"]:
                self.beats.popleft()
            if ports["m_axi_arvalid"]:
                count = ports["m_axi_arlen"] + 1
                self.beats += [(now + LATENCY, ports["m_axi_araddr"] + number * self.beat_bytes, number == count - 1)
                               for number in range(count)]
            self.sim.step()


def waveform(config: Config, out: Path, build: Path) -> str:
    """Return the waveform of a run of two descriptors: one that this time step passes over, and END."""
    verilog = convert("accelerator", config).write(out)[0]
    with FastSim.build(verilog, verilog.stem, build) as sim:
        watched = _Watched(sim, config.bus_bits // 8)
        backend = SimBackend(cast(FastSim, watched), ADDRESS, 1 << 13)     # does all of it that the backend needs
        program = encode(Opcode.STORE, mask=0) + encode(Opcode.END)
        backend.write_memory(ADDRESS, program)
        for register, value in ((Register.PROGRAM_BASE, ADDRESS), (Register.PROGRAM_SIZE, len(program)),
                                (Register.PROGRAM_COUNT, 2), (Register.IRQ_ENABLE, 1)):
            backend.write32(register, value)
        watched.cycles.clear()
        backend.write32(Register.CONTROL, START)
        watched.step(CYCLES)
    return _draw(watched.cycles[:CYCLES]) + "\n"


def _draw(cycles: Sequence[dict[str, int]]) -> str:
    """A line for each signal, a column for each cycle: _ low, # high; of numbers, the value where it is valid."""
    width = max(map(len, WAVES))
    lines = [" " * (width + 2) + "".join(f"{number:<5}" for number in range(0, len(cycles), 5))]
    for name in WAVES:
        prefix, port = name.rsplit("_", 1) if "_" in name else ("", name)
        if port in QUALIFIER:
            text, valid = [" "] * len(cycles), [cycle[f"{prefix}_{QUALIFIER[port]}"] for cycle in cycles]
            for number, cycle in enumerate(cycles):
                if valid[number] and not (number and valid[number - 1]):
                    label = f"|{cycle[name]:x}"
                    text[number:number + len(label)] = label
            lines.append(f"{name:<{width}}  {''.join(text)}".rstrip())
        else:
            lines.append(f"{name:<{width}}  {''.join('#' if cycle[name] else '_' for cycle in cycles)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser("python -m sim.waveform", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build"), metavar="DIR", help="(default: build)")
    options = parser.parse_args(arguments)
    print(waveform(preset("tiny"), options.build / "waveform", options.build), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
