"""The accelerator in the fast lane, as a backend of the host driver: registers by AXI4-Lite, memory by AXI4."""

from pathlib import Path

import numpy as np

from hw.config import Config
from hw.gen import convert

from .fast import FastSim

__all__ = ["RegisterError", "SimBackend"]

ANSWER = 100        # cycles within which a register answers
WAIT = 10_000       # cycles between two looks at STATUS, if no interrupt comes


class RegisterError(Exception):
    """A register access was answered with SLVERR."""


class SimBackend:
    """RTL simulation of the accelerator; see `sqdm.device.Backend`.

    Parameters
    ----------
    sim : FastSim
        Of the block `accelerator`; it is reset here.
    memory_base, memory_size : int
        Host memory.
    latency, stall, seed
        Of host memory, see `FastSim.attach_memory`.
    """

    def __init__(self, sim: FastSim, memory_base: int = 0x4000_0000, memory_size: int = 1 << 24, *, latency: int = 8,
                 stall: float = 0.0, seed: int = 1) -> None:
        self.sim = sim
        self.memory_base, self.memory_size = memory_base, memory_size
        self.memory = np.zeros(memory_size, np.uint8)
        sim.attach_memory("m_axi_", self.memory, memory_base, latency=latency, stall=stall, seed=seed)
        sim.reset()

    @classmethod
    def build(cls, config: Config, out: Path | str = "build/accelerator", build: Path | str = "build") -> "SimBackend":
        """Emit the Verilog, compile it, or find it compiled, and start a simulation with the memory as by default."""
        verilog = convert("accelerator", config).write(out)[0]
        return cls(FastSim.build(verilog, verilog.stem, build))

    def read32(self, offset: int) -> int:
        """Read a register.

        Raises
        ------
        RegisterError
            There is none.
        """
        sim = self.sim
        sim.poke("s_axi_araddr", offset)
        sim.poke("s_axi_rready", 1)
        self._offer("ar")
        self._until("s_axi_rvalid")
        value, response = sim.peek("s_axi_rdata"), sim.peek("s_axi_rresp")
        sim.step()
        sim.poke("s_axi_rready", 0)
        if response:
            raise RegisterError(f"there is no register at {offset:#x}")
        return value

    def write32(self, offset: int, value: int) -> None:
        """Write a register.

        Raises
        ------
        RegisterError
            There is none, or it cannot be written now.
        """
        sim = self.sim
        sim.poke("s_axi_awaddr", offset)
        sim.poke("s_axi_wdata", value)
        sim.poke("s_axi_wstrb", 15)
        sim.poke("s_axi_bready", 1)
        self._offer("aw")
        self._offer("w")
        self._until("s_axi_bvalid")
        response = sim.peek("s_axi_bresp")
        sim.step()
        sim.poke("s_axi_bready", 0)
        if response:
            raise RegisterError(f"the register at {offset:#x} cannot be written now")

    def _offer(self, channel: str) -> None:
        self.sim.poke(f"s_axi_{channel}valid", 1)
        self._until(f"s_axi_{channel}ready")
        self.sim.step()
        self.sim.poke(f"s_axi_{channel}valid", 0)

    def _until(self, port: str) -> None:
        for _ in range(ANSWER):
            if self.sim.peek(port):
                return
            self.sim.step()
        raise TimeoutError(f"{port} stayed low for {ANSWER} cycles")

    def read_memory(self, address: int, size: int) -> bytes:
        """Read memory."""
        return self._place(address, size).tobytes()

    def write_memory(self, address: int, data: bytes) -> None:
        """Write memory."""
        self._place(address, len(data))[:] = np.frombuffer(data, np.uint8)

    def _place(self, address: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        first = address - self.memory_base
        if first < 0 or first + size > self.memory_size:
            raise ValueError(f"{size} bytes from {address:#x} on are not memory, which is {self.memory_base:#x} to "
                             f"{self.memory_base + self.memory_size:#x}")
        return self.memory[first:first + size]

    def wait(self) -> None:
        """Let time pass until an interrupt, or some thousand cycles."""
        for _ in range(WAIT // 100):
            if self.sim.peek("irq"):
                return
            self.sim.step(100)
