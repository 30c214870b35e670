"""Bench of the accelerator: cocotbext-axi on both of its ports, as a host with memory would be."""

from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from sqdm.registers import SOFT_RESET, START, STATUS_BUSY, STATUS_DONE, STATUS_ERROR, STATUS_READY, WIDE, Register

from .axi import HostMemory, ReadChecker, ReadSlave, WriteChecker, WriteSlave, generator, pauses
from .streams import CLOCK_NS, vectors

__all__ = ["a_failed_beat_ends_the_run", "a_soft_reset_completes_the_bursts", "programs_leave_the_same_memory"]

LIMIT = 60_000      # cycles of a run
SLVERR, BUS_READ, BUS_WRITE = 2, 9, 10
IRQ_DONE, IRQ_ERROR = 1, 2
OUTPUTS = ("irq", "m_axi_arvalid", "m_axi_rready", "m_axi_awvalid", "m_axi_wvalid", "m_axi_bready", "s_axi_awready",
           "s_axi_wready", "s_axi_bvalid", "s_axi_arready", "s_axi_rvalid")


class Host:
    """A host, its memory, and the checks of the bus."""

    def __init__(self, dut: Any, pause: float) -> None:
        self.dut, self.data = dut, vectors()
        Clock(dut.aclk, CLOCK_NS, unit="ns").start()
        dut.aresetn.value = 0
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn,
                                    reset_active_level=False)
        self.memory = HostMemory(int(self.data["base"]), b"")
        ReadSlave(dut, self.memory, pause, latency=int(20 * pause))
        WriteSlave(dut, self.memory, pause)
        self.reads = ReadChecker(dut, self.data["limits"])
        self.writes = WriteChecker(dut, self.data["limits"])
        write, read = self.master.write_if, self.master.read_if
        for side in (write, read):
            side.log.setLevel("ERROR")
        if pause:
            for name, channel in (("aw", write.aw_channel), ("w", write.w_channel), ("b", write.b_channel),
                                  ("ar", read.ar_channel), ("r", read.r_channel)):
                channel.set_pause_generator(pauses(f"host {name}", pause))

    async def reset(self) -> None:
        """Reset; afterwards nothing that a bus looks at is unknown."""
        await ClockCycles(self.dut.aclk, 3)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)
        for name in OUTPUTS:
            assert self.dut[name].value.is_resolvable, f"{name} is {self.dut[name].value} after reset"

    async def write(self, register: Register, value: int) -> None:
        """Write a register of 32 or 64 bits."""
        for word in range(2 if register in WIDE else 1):
            data = (value >> 32 * word & 0xFFFF_FFFF).to_bytes(4, "little")
            answer = await self.master.write(register + 4 * word, data)
            assert int(answer.resp) == 0, f"a write of {register.name} failed"

    async def read(self, register: Register) -> int:
        """Read a register of 32 or 64 bits."""
        value = 0
        for word in range(2 if register in WIDE else 1):
            answer = await self.master.read(register + 4 * word, 4)
            assert int(answer.resp) == 0, f"a read of {register.name} failed"
            value |= int.from_bytes(answer.data, "little") << 32 * word
        return value

    async def start(self, number: int) -> None:
        """Start a program in a memory of its own."""
        program = self.data[f"{number}.program"].tolist()
        content = bytearray(self.data[f"{number}.memory"].tobytes())
        self.memory.content, self.memory.extent = content, len(content)
        for register, value in zip((Register.PROGRAM_BASE, Register.PROGRAM_SIZE, Register.DATA_BASE,
                                    Register.DATA_SIZE, Register.PROGRAM_COUNT), program, strict=False):
            await self.write(register, value)
        await self.write(Register.IRQ_ENABLE, IRQ_DONE | IRQ_ERROR)
        assert self.dut.irq.value == 0, "an interrupt before the start"
        await self.write(Register.CONTROL, START)

    async def finish(self) -> int:
        """Wait for the interrupt, then until ready; return ERROR."""
        for _ in range(LIMIT):
            if self.dut.irq.value == 1:
                break
            await RisingEdge(self.dut.aclk)
        else:
            raise AssertionError(f"no interrupt within {LIMIT} cycles")
        await self.settle()
        status, error = await self.read(Register.STATUS), await self.read(Register.ERROR)
        assert status == STATUS_READY | (STATUS_ERROR if error else STATUS_DONE), f"STATUS is {status:#x}"
        irqs = IRQ_ERROR if error else IRQ_DONE
        assert await self.read(Register.IRQ_STATUS) == irqs
        await self.write(Register.IRQ_STATUS, irqs)
        await ClockCycles(self.dut.aclk, 2)
        assert self.dut.irq.value == 0, "the interrupt stays"
        return error

    async def settle(self) -> None:
        """Wait until ready: no bursts are left then."""
        for _ in range(LIMIT // 10):
            if await self.read(Register.STATUS) & STATUS_READY:
                break
        else:
            raise AssertionError("the accelerator does not become ready")
        left = self.reads.outstanding + self.writes.outstanding
        assert left == 0, f"ready with {left} bursts outstanding"

    async def check(self, number: int) -> None:
        """Run a program: its memory and its error are as expected."""
        await self.start(number)
        error = await self.finish()
        *_, code, index = self.data[f"{number}.program"].tolist()
        assert error == code | index << 8, f"program {number}: ERROR is {error:#x}, expected {code | index << 8:#x}"
        after = self.data[f"{number}.after"].tobytes()
        wrong = [place for place, (found, right) in enumerate(zip(self.memory.content, after, strict=True))
                 if found != right]
        assert not wrong, f"program {number}: {len(wrong)} bytes of memory differ, the first at {wrong[0]:#x}"
        assert not self.memory.strays, f"{self.memory.strays[0]:#x} is outside of memory"


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.4])
async def programs_leave_the_same_memory(dut: Any, pause: float) -> None:
    """Whoever pauses, memory is as the functional simulator leaves it; the last program is refused in its middle."""
    host = Host(dut, pause)
    await host.reset()
    for number in range(int(host.data["count"])):
        await host.check(number)
    assert host.writes.beats > 0


@cocotb.test()
async def a_failed_beat_ends_the_run(dut: Any) -> None:
    """SLVERR, wherever it comes from: the descriptor and the burst are named, and the next run is exact."""
    host = Host(dut, 0.2)
    await host.reset()
    faults = generator("faults").sample(host.data["faults"].tolist(), len(host.data["faults"]))
    for address, descriptor, write in sorted(faults, key=lambda fault: -fault[2])[:4]:     # writes, and some reads
        host.memory.faults = {address: SLVERR}
        await host.start(1)
        error = await host.finish()
        expected = (BUS_WRITE if write else BUS_READ) | descriptor << 8
        assert error == expected, f"fault at {address:#x}: ERROR is {error:#x}, expected {expected:#x}"
        bursts = (host.writes if write else host.reads).bursts
        place = await host.read(Register.ERROR_ADDRESS)
        size = int(host.data["limits"][0]) // 8
        assert any(start == place and start <= address < start + beats * size for start, beats in bursts), \
            f"fault at {address:#x}: ERROR_ADDRESS is {place:#x}"
        host.memory.faults = {}
        await host.check(1)


@cocotb.test()
async def a_soft_reset_completes_the_bursts(dut: Any) -> None:
    """At any moment, with everybody pausing; no interrupt comes, and the next run is exact."""
    host = Host(dut, 0.4)
    await host.reset()
    numbers = generator("resets")
    for _ in range(6):
        await host.start(1)
        await ClockCycles(dut.aclk, numbers.choice([1, numbers.randrange(100), numbers.randrange(1500)]))
        await host.write(Register.CONTROL, SOFT_RESET)
        await host.settle()
        assert not await host.read(Register.STATUS) & (STATUS_BUSY | STATUS_DONE | STATUS_ERROR)
        await host.write(Register.IRQ_STATUS, IRQ_DONE | IRQ_ERROR)     # it may have been done before
    await host.check(0)
