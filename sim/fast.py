"""The fast lane: emitted Verilog as a shared library, driven in bulk from Python.

Whole layers take hundreds of thousands of cycles; Python must not be asked about each of them. Verilator turns the
Verilog into C++, a C++ compiler turns that and the harness `fast.cpp` into a shared library, and the harness feeds
queues of beats to the streams, collects what comes out, and returns when all of it is done::

    sim = FastSim.build("build/dense.v", "dense")
    sim.reset()
    sim.send("windows", windows, stall=0.25)       # an array [beats, words] of uint64
    sums = sim.receive("sums", count=64, stall=0.25)
    cycles = sim.run(100_000)                      # raises Hang, naming the stream, if they don't suffice
    assert (sums == expected).all()

Only the clock ``clk`` and the synchronous reset ``rst``, or ``aclk`` and ``aresetn``, and streams named
``NAME__valid``, ``NAME__ready``, ``NAME__payload`` are assumed; `attach_memory` serves an AXI4 master. The library is
compiled once per content of the Verilog, and kept.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from . import toolchain
from .library import Port, build_library, load_library
from .words import Words, check_words, words_per_value

__all__ = ["FastSim", "Hang", "Port"]

NO_PORT = 0xFFFF_FFFF

# The ports of an AXI4 master, in the order of `Memory::Port` in the harness.
AXI_PORTS = ("arvalid", "arready", "araddr", "arlen", "rvalid", "rready", "rdata", "rresp", "rlast",
             "awvalid", "awready", "awaddr", "awlen", "wvalid", "wready", "wdata", "wstrb", "wlast",
             "bvalid", "bready", "bresp")


class Hang(TimeoutError):
    """A run used up its cycles before what it waited for happened."""


class FastSim:
    """A simulation of one design, driven in bulk. Make one with `FastSim.build`.

    Time starts at the creation, with every input low, no reset done. All methods that let time pass move the streams
    in use as well, except while ``rst`` is high: the streams rest then.

    Parameters
    ----------
    library : Path
        The shared library, from `FastSim.build`.
    ports : mapping of str to Port
        The design's ports.
    seed : int
        Makes the random stalls: the same seed, the same cycle for every event.

    Attributes
    ----------
    ports : dict of str to Port
        The design's ports by their Verilog names.
    sources, sinks : list of str
        Names of the streams into and out of the design.
    cycle : int
        Number of clock cycles simulated so far.
    """

    def __init__(self, library: Path, ports: Mapping[str, Port], seed: int = 0) -> None:
        self.ports = dict(ports)
        self.cycle = 0
        self._library = load_library(library)
        self._sim = ctypes.c_void_p(self._library.sim_create())
        self._streams: dict[str, int] = {}
        self._beats: dict[str, Words] = {}  # keeps the memory alive that the harness reads and writes
        self._watched: Words = np.zeros((0, 0), np.uint64)
        self._memories: list[NDArray[np.uint8]] = []    # kept alive, too
        self.sources: list[str] = []
        self.sinks: list[str] = []
        for name in [port.removesuffix("__valid") for port in ports if port.endswith("__valid")]:
            if f"{name}__ready" in ports and f"{name}__payload" in ports:
                self._add_stream(name, seed)

    @classmethod
    def build(
        cls,
        verilog: Path | str,
        top: str,
        build_dir: Path | str = "build",
        *,
        seed: int = 0,
        waves: bool = False,
        compiler: toolchain.Compiler | None = None,
    ) -> Self:
        """Compile a design, or find it compiled, and start a simulation of it.

        Parameters
        ----------
        verilog : path
            The Verilog file.
        top : str
            The module to simulate.
        build_dir : path
            The library is kept in its subdirectory ``fast/``.
        seed : int
            Makes the random stalls.
        waves : bool
            Compile with tracing, for `trace`; several times slower.
        compiler : Compiler, optional
            The C++ compiler, `toolchain.fast_compiler()` unless given.

        Raises
        ------
        toolchain.ToolError
            If a tool is missing, or refuses the design.
        """
        library, ports = build_library(Path(verilog), top, Path(build_dir), waves=waves, compiler=compiler)
        return cls(library, ports, seed)

    def _add_stream(self, name: str, seed: int) -> None:
        valid, ready, payload = (self.ports[f"{name}__{part}"] for part in ("valid", "ready", "payload"))
        mask = ((1 << payload.width) - 1).to_bytes(payload.size, "little")
        index = self._streams[name] = len(self._streams)
        # An odd multiple of the golden ratio spreads small seeds over the generator's states, none of them zero.
        state = (2 * (seed * 1009 + index) + 1) * 0x9E37_79B9_7F4A_7C15 % 2**64
        self._library.sim_add_stream(
            self._sim, valid.index, ready.index, payload.index, mask, len(mask), int(valid.is_input), state
        )
        (self.sources if valid.is_input else self.sinks).append(name)

    def _port(self, name: str) -> Port:
        if name not in self.ports:
            raise KeyError(f"the design has no port {name!r}; its ports are {', '.join(self.ports)}")
        return self.ports[name]

    def poke(self, name: str, value: int) -> None:
        """Set an input; its effect shows at the next `peek` and from the next cycle on."""
        port = self._port(name)
        if not port.is_input:
            raise ValueError(f"{name} is an output of the design and cannot be set")
        if not 0 <= value < 1 << port.width:
            raise ValueError(f"{value:#x} does not fit in the {port.width} bits of {name}")
        ctypes.memmove(self._address(port), value.to_bytes(port.size, "little"), port.size)

    def peek(self, name: str) -> int:
        """The value of a port, as combinational logic settles with the present inputs."""
        port = self._port(name)
        self._library.sim_settle(self._sim)
        return int.from_bytes(ctypes.string_at(self._address(port), port.size), "little")

    def _address(self, port: Port) -> int:
        return int(self._library.sim_port(self._sim, port.index))

    def step(self, cycles: int = 1) -> None:
        """Let ``cycles`` clock cycles pass."""
        self._advance(cycles, NO_PORT, drain=False)

    def reset(self, cycles: int = 2) -> None:
        """Hold ``rst`` high for some cycles. A beat that was offered but not taken goes back to its queue."""
        self.poke("rst", 1)
        self.step(cycles)
        self.poke("rst", 0)

    def send(self, stream: str, beats: Words, stall: float = 0.0) -> None:
        """Queue beats on an input stream.

        Parameters
        ----------
        stream : str
            The stream's name, without ``__payload``.
        beats : array of uint64, [beats] or [beats, words]
            The payloads, least significant word first; see `words.to_words`.
        stall : float
            Probability that the stream pauses in a cycle in which it could offer a new beat.
        """
        if stream not in self.sources:
            raise KeyError(f"{stream!r} is not a stream into the design; those are {self.sources}")
        self._use(stream, check_words(beats, self.ports[f"{stream}__payload"].width), stall)

    def receive(self, stream: str, count: int, stall: float = 0.0) -> Words:
        """Make room for ``count`` beats of an output stream; the array returned fills while time passes.

        Beyond ``count`` beats the stream is not ready, so that nothing gets lost.
        ``stall`` is the probability that the stream is not ready in a cycle.
        """
        if stream not in self.sinks:
            raise KeyError(f"{stream!r} is not a stream out of the design; those are {self.sinks}")
        beats = np.zeros((count, words_per_value(self.ports[f"{stream}__payload"].width)), np.uint64)
        self._use(stream, beats, stall)
        return beats

    def _use(self, stream: str, beats: Words, stall: float) -> None:
        if not 0 <= stall < 1:
            raise ValueError(f"stall is a probability from 0 to below 1, got {stall}")
        if self.pending(stream):
            raise RuntimeError(f"stream {stream} has {self.pending(stream)} beats left: run until they are done")
        self._beats[stream] = beats
        self._library.sim_use_stream(
            self._sim, self._streams[stream], beats.ctypes.data, beats.strides[0], len(beats), int(stall * 2**32)
        )

    def attach_memory(self, prefix: str, memory: NDArray[np.uint8], base: int, *, latency: int = 8, stall: float = 0.0,
                      seed: int = 1) -> None:
        """Put memory behind an AXI4 master.

        Parameters
        ----------
        prefix : str
            Of the master's ports, as in ``m_axi_``.
        memory : uint8 [bytes]
            Read and written while time passes.
        base : int
            Address of its first byte; outside of it there are only errors.
        latency : int
            Cycles from a request to its first beat.
        stall : float
            Probability that a channel pauses in a cycle.
        """
        ports = [self._port(prefix + name) for name in AXI_PORTS]
        numbers = (ctypes.c_uint32 * len(ports))(*(port.index for port in ports))
        address, data = (self.ports[prefix + name].size for name in ("araddr", "rdata"))
        self._memories.append(memory)
        self._library.sim_add_memory(self._sim, numbers, address, data, memory.ctypes.data, base, memory.size, latency,
                                     int(stall * 2**32), (2 * seed + 1) * 0x9E37_79B9_7F4A_7C15 % 2**64)

    def bad_range(self, begin: int, end: int) -> None:
        """Answer accesses to these addresses of the first memory with an error."""
        self._library.sim_bad_range(self._sim, begin, end)

    def pace_memory(self, latency: int, stall: float) -> None:
        """Change latency and stalls of the first memory; one with a stall of 1 never answers."""
        if not 0 <= stall <= 1:
            raise ValueError(f"stall is a probability from 0 to 1, got {stall}")
        self._library.sim_pace_memory(self._sim, latency, int(stall * 2**32))

    @property
    def outstanding(self) -> int:
        """Bursts that the first memory was asked for and has not answered completely."""
        return int(self._library.sim_outstanding(self._sim))

    def pending(self, stream: str) -> int:
        """Number of beats that a stream has yet to send or receive."""
        if stream not in self._beats:
            return 0
        return len(self._beats[stream]) - int(self._library.sim_stream_done(self._sim, self._streams[stream]))

    def run(self, limit: int, until: str | None = None) -> int:
        """Simulate until a port is high, or until every stream in use has sent and received all its beats.

        Parameters
        ----------
        limit : int
            The most cycles to simulate.
        until : str, optional
            A one-bit port; the run ends after the first cycle in which it is high, whatever the streams do.

        Returns
        -------
        int
            The cycles simulated.

        Raises
        ------
        Hang
            If ``limit`` cycles did not suffice; the message says where each stream stands.
        """
        if until is not None and self._port(until).width != 1:
            raise ValueError(f"can only wait for a one-bit port, {until} has {self.ports[until].width} bits")
        if until is None and not self._beats:
            raise ValueError("nothing to wait for: use `send` or `receive` first, or give `until`")
        goal = NO_PORT if until is None else self._port(until).index
        cycles, stopped = self._advance(limit, goal, drain=until is None)
        if not stopped:
            waited = "the streams" if until is None else until
            raise Hang(f"waited {limit} cycles for {waited} in vain: {self._standing()}")
        return cycles

    def _advance(self, limit: int, until: int, drain: bool) -> tuple[int, bool]:
        stopped = ctypes.c_int()
        cycles = int(self._library.sim_run(self._sim, limit, until, int(drain), ctypes.byref(stopped)))
        self.cycle += cycles
        return cycles, bool(stopped.value)

    def _standing(self) -> str:
        """Where each stream in use stands, for the message of `Hang`."""
        lines = []
        for stream, beats in self._beats.items():
            done = len(beats) - self.pending(stream)
            verb = "sent" if stream in self.sources else "received"
            flags = ", ".join(f"{part}={self.peek(f'{stream}__{part}')}" for part in ("valid", "ready"))
            lines.append(f"{stream} {verb} {done} of {len(beats)} beats ({flags})")
        return "; ".join(lines) or "no stream is in use"

    def watch(self, names: Sequence[str], cycles: int) -> None:
        """Record ports of at most 64 bits in each of the next ``cycles`` cycles, as they stand before the edge."""
        ports = [self._port(name) for name in names]
        if wide := [name for name, port in zip(names, ports, strict=True) if port.width > 64]:
            raise ValueError(f"can only watch ports of at most 64 bits, {wide[0]} has {self.ports[wide[0]].width}")
        self._watched = np.zeros((cycles, len(ports)), np.uint64)
        numbers = (ctypes.c_uint32 * len(ports))(*(port.index for port in ports))
        sizes = (ctypes.c_uint32 * len(ports))(*(port.size for port in ports))
        self._library.sim_watch(self._sim, numbers, sizes, len(ports), self._watched.ctypes.data, cycles)

    def watched(self) -> Words:
        """What `watch` has recorded so far: an array [cycles, ports]."""
        return self._watched[: int(self._library.sim_watched(self._sim))]

    def trace(self, path: Path | str) -> None:
        """Write all signals to a VCD file from now until `close`; needs ``build(..., waves=True)``."""
        if not self._library.sim_trace(self._sim, os.fsencode(path)):
            raise RuntimeError(f"cannot trace to {path}: build with waves=True, and into a directory that exists")

    def close(self) -> None:
        """End the simulation and free it; a trace is complete only afterwards."""
        if self._sim:
            self._library.sim_destroy(self._sim)
            self._sim = ctypes.c_void_p()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
