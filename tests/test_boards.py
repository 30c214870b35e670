"""Boards: the whole design through its serial pins, its parts alone, and the projects that are written."""

import json
import re
import subprocess
import zlib

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.sim import Simulator

from boards.__main__ import main
from boards.bridge import SerialBridge as SerialBridgeRTL
from boards.bringup import BASE, BringUp
from boards.memory import AxiMemory
from boards.uart import Receiver, Transmitter
from hw.config import PRESETS
from hw.gen import convert
from hw.registers import Registers
from sim.benches import BENCHES
from sim.board import DIVISOR, GAP_BYTES, QUIET, TIMEOUT, SimulatedPort, build_board
from sim.fast import FastSim
from sim.toolchain import yosys
from sqdm import selftest
from sqdm.registers import MAGIC, Register
from sqdm.serial_bridge import SerialBridge
from sqdm.serial_protocol import REQUEST, Op
from tests.conftest import BUILD
from tests.test_mutations import Mutant, mutated

TINY = PRESETS["tiny"]


@pytest.mark.parametrize("divisor", [4, 5, 11])
def test_bytes_cross_the_line_at_clocks_that_are_a_little_off(divisor):
    m = Module()
    m.submodules.sender = sender = Transmitter(divisor)
    m.submodules.receiver = receiver = Receiver(divisor)
    line, noise = Signal(init=1), Signal()
    m.d.comb += [line.eq(sender.tx), receiver.rx.eq(line & ~noise)]
    sent = [*np.random.default_rng(divisor).bytes(40), 0x00, 0xFF]
    received = []

    async def send(ctx):
        for number, byte in enumerate(sent):
            ctx.set(sender.bytes.payload, byte)
            ctx.set(sender.bytes.valid, 1)
            await ctx.tick().until(sender.bytes.ready)
            ctx.set(sender.bytes.valid, 0)
            if number % 3 == 0:     # pauses between the bytes, of any length
                await ctx.tick().repeat(number + 1)
        await ctx.tick().repeat(12 * divisor)
        ctx.set(noise, 1)           # the line held low is no byte
        await ctx.tick().repeat(11 * divisor)

    async def listen(ctx):
        async for _, _, valid, byte in ctx.tick().sample(receiver.valid, receiver.byte):
            if valid:
                received.append(byte)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(send)
    simulator.add_testbench(listen, background=True)
    simulator.run()
    assert received == sent


def test_illegal_designs_are_refused():
    with pytest.raises(ValueError, match="divisor=3 is not legal: it must be 4 or more"):
        Receiver(3)
    with pytest.raises(ValueError, match="baud=921600 is not legal: it must be at most 625000, and within 2 % of a"):
        BringUp(TINY, 2_500_000, 921_600, 4096)
    with pytest.raises(ValueError, match="size=3000 is not legal: it must be a power of two of at least 16"):
        AxiMemory(TINY, BASE, 3000)
    with pytest.raises(ValueError, match="base=0x800 is not legal: it must be a multiple of size=0x1000"):
        AxiMemory(TINY, 0x800, 0x1000)


def run_memory_bench(made, seed):
    """Random bursts in both directions, stalls, and the host's accesses in between, against an array of bytes."""
    rng = np.random.default_rng(seed)
    size, beat = 1 << 10, TINY.bus_bits // 8
    memory = made(TINY, BASE, size)
    read, write, host = memory.read, memory.write, memory.host
    model = bytearray(size)
    half = size // 2        # the lower half is written by the master, the upper one by the host

    def burst(first, last):
        start = int(rng.integers(first, last))
        return start, int(rng.integers(1, min(16, last - start) + 1))

    async def channel(ctx, port, prefix, start, count):
        ctx.set(getattr(port, f"{prefix}addr"), BASE + start * beat)
        ctx.set(getattr(port, f"{prefix}len"), count - 1)
        ctx.set(getattr(port, f"{prefix}valid"), 1)
        await ctx.tick().until(getattr(port, f"{prefix}ready"))
        ctx.set(getattr(port, f"{prefix}valid"), 0)

    async def writer(ctx):
        for _ in range(40):
            start, count = burst(0, half // beat)
            await channel(ctx, write, "aw", start, count)
            for number in range(count):
                data, strobe = rng.bytes(beat), int(rng.integers(0, 1 << beat))
                while rng.random() < 0.3:
                    await ctx.tick()
                ctx.set(write.wdata, int.from_bytes(data, "little"))
                ctx.set(write.wstrb, strobe)
                ctx.set(write.wlast, number == count - 1)
                ctx.set(write.wvalid, 1)
                await ctx.tick().until(write.wready)
                ctx.set(write.wvalid, 0)
                for lane in range(beat):
                    if strobe >> lane & 1:
                        model[(start + number) * beat + lane] = data[lane]
            ctx.set(write.bready, 1)
            (response,) = await ctx.tick().sample(write.bresp).until(write.bvalid)
            ctx.set(write.bready, 0)
            assert response == 0, f"seed {seed}"
        start = size // beat - 2    # across the end: only the first two beats are there
        await channel(ctx, write, "aw", start, 4)
        ctx.set(write.wdata, (1 << TINY.bus_bits) - 1)
        ctx.set(write.wstrb, (1 << beat) - 1)
        ctx.set(write.wvalid, 1)
        for number in range(4):
            ctx.set(write.wlast, number == 3)
            await ctx.tick().until(write.wready)
        ctx.set(write.wvalid, 0)
        model[-2 * beat:] = b"\xff" * 2 * beat
        ctx.set(write.bready, 1)
        (refused,) = await ctx.tick().sample(write.bresp).until(write.bvalid)
        assert refused == 2, f"seed {seed}"

    async def owner(ctx):
        for _ in range(300):
            place = int(rng.integers(half, size - 4 * beat)) // 4
            word = rng.bytes(4)
            ctx.set(host.address, place)
            ctx.set(host.write_data, int.from_bytes(word, "little"))
            ctx.set(host.write, 1)
            await ctx.tick()
            ctx.set(host.write, 0)
            model[4 * place:4 * place + 4] = word
            ctx.set(host.en, 1)
            await ctx.tick()
            ctx.set(host.en, 0)
            assert ctx.get(host.read_data) == int.from_bytes(word, "little"), f"seed {seed}, word {place}"
            for _ in range(int(rng.integers(1, 6))):
                await ctx.tick()

    async def visitor(ctx):
        """The host, while the master reads: as often as not in the cycle of a beat."""
        while "read" not in done:
            place = int(rng.integers(half, size - 4 * beat)) // 4
            ctx.set(host.address, place)
            ctx.set(host.en, 1)
            await ctx.tick()
            ctx.set(host.en, 0)
            assert ctx.get(host.read_data).to_bytes(4, "little") == model[4 * place:4 * place + 4], f"seed {seed}"
            for _ in range(int(rng.integers(1, 4))):
                await ctx.tick()

    async def everything(ctx):
        for start in range(0, size // beat, 16):
            await channel(ctx, read, "ar", start, 16)
            for number in range(16):
                while rng.random() < 0.3:
                    await ctx.tick()
                ctx.set(read.rready, 1)
                data, last, response = await ctx.tick().sample(read.rdata, read.rlast, read.rresp).until(read.rvalid)
                ctx.set(read.rready, 0)
                place = (start + number) * beat
                assert data.to_bytes(beat, "little") == model[place:place + beat], f"seed {seed}, byte {place:#x}"
                assert (last, response) == (number == 15, 0)
        await channel(ctx, read, "ar", size // beat - 1, 2)
        ctx.set(read.rready, 1)
        for expected in (0, 2):
            (response,) = await ctx.tick().sample(read.rresp).until(read.rvalid)
            assert response == expected, f"seed {seed}"

    async def pace(ctx):
        """With nothing in its way, a beat per cycle."""
        await channel(ctx, read, "ar", 3, 64)
        ctx.set(read.rready, 1)
        await ctx.tick().until(read.rvalid)
        for _ in range(63):
            _, _, valid = await ctx.tick().sample(read.rvalid)
            assert valid

    done = set()

    async def first(ctx):
        await writer(ctx)
        done.add("written")
        while "owned" not in done:
            await ctx.tick()
        await everything(ctx)
        done.add("read")
        await ctx.tick().repeat(2)      # the host is through
        await pace(ctx)

    async def second(ctx):
        await owner(ctx)
        done.add("owned")
        while "written" not in done:
            await ctx.tick()
        await visitor(ctx)

    simulator = Simulator(memory)
    simulator.add_clock(1e-6)
    simulator.add_testbench(first)
    simulator.add_testbench(second)
    simulator.run()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_memory_serves_bursts_beside_the_host(seed):
    run_memory_bench(AxiMemory, seed)


@pytest.mark.parametrize(("what", "old", "new"), [
    ("beats are lost while the host writes", "wready.eq(busy & ~host.write)", "wready.eq(busy)"),
    ("a beat is read where the host reads", "(buffer.w_level < BUFFER - 1) & ~host.en",
     "(buffer.w_level < BUFFER - 1)"),
    ("what leaves the memory is written at its beginning", "Mux(beat & legal, write.wstrb, 0)",
     "Mux(beat, write.wstrb, 0)"),
    ("all bytes of a beat are written", "Mux(beat & legal, write.wstrb, 0)", "Mux(beat & legal, ~0, 0)"),
    ("what leaves the memory is read without an error", "asked_bad.eq(~inside(address))", "asked_bad.eq(0)"),
    ("the host's word is the beat's first", "lane.eq(host.address[:lane_bits])", "lane.eq(0)"),
])
def test_a_fault_of_the_memory_is_seen(what, old, new):
    _, faulty = mutated(Mutant(what, "", "memory", old, new), "boards")
    with pytest.raises(AssertionError):
        run_memory_bench(faulty.AxiMemory, 1)


class Link(wiring.Component):
    """Bridge, memory and registers, without what makes an accelerator of them, which takes a minute to compile."""

    def __init__(self, config):
        self.config = config
        super().__init__({"rx": In(1), "tx": Out(1)})

    def elaborate(self, _platform):
        m = Module()
        m.submodules.bridge = bridge = SerialBridgeRTL(DIVISOR, GAP_BYTES * 10 * DIVISOR, BASE, 1 << 12)
        m.submodules.memory = memory = AxiMemory(self.config, BASE, 1 << 12)
        m.submodules.registers = registers = Registers(self.config)
        connect(m, bridge.registers, registers.axi)
        connect(m, bridge.memory, memory.host)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx)]
        return m


@pytest.fixture
def link():
    """Makes a simulation of `Link`; `mangle` is what the line does to bytes."""
    made = []

    def make(mangle=None):
        verilog = convert("link", TINY, {"link": Link}).write(BUILD / "tests" / "link")[0]
        made.append(SimulatedPort(FastSim.build(verilog, verilog.stem, BUILD), mangle=mangle))
        return made[-1]

    yield make
    for port in made:
        port.close()


@pytest.fixture
def board():
    """A simulated board."""
    port = build_board(TINY, 1 << 13, BUILD / "tests" / "board", BUILD)
    yield port
    port.close()


def bridge_to(port, **arguments):
    return SerialBridge(port, timeout=TIMEOUT, quiet=QUIET, **arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    (["icebreaker"], "board=icebreaker is not legal: it must be one of ulx3s-45, ulx3s-85, arty-a7-100"),
    (["ulx3s-85", "--baud", "12000000"], "baud=12000000 is not legal"),
    (["ulx3s-85", "--memory", "5000"], "size=5000 is not legal"),
])
def test_wrong_input_is_refused(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--build", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"boards: {message}")


def test_a_project_for_vivado(tmp_path, capsys):
    assert main(["arty-a7-100", "--build", str(tmp_path)]) == 0
    folder = tmp_path / "arty-a7-100"
    assert "vivado -mode batch -source sqdm_board.tcl" in capsys.readouterr().out
    text = (folder / "sqdm_board.xdc").read_text()
    pins = dict(re.findall(r'set_property LOC (\w+) \[get_ports "(\w+)__io"\]', text))
    assert pins == {"E3": "clk100_0", "C2": "rst_0", "A9": "uart_0__rx", "D10": "uart_0__tx", "H5": "led_0",
                    "J5": "led_1", "T9": "led_2"}
    script = (folder / "sqdm_board.tcl").read_text()
    assert "-part xc7a100ticsg324" in script and "add_files sqdm_board.v" in script


@pytest.mark.soak
def test_every_cell_and_port_of_the_project_for_vivado_is_known(tmp_path):
    assert main(["arty-a7-100", "--build", str(tmp_path)]) == 0
    subprocess.run([yosys(), "-q", "-p", "read_verilog -lib +/xilinx/cells_sim.v +/xilinx/cells_xtra.v; "
                    "read_verilog sqdm_board.v; hierarchy -check -top sqdm_board"],
                   cwd=tmp_path / "arty-a7-100", check=True)


def test_a_project_for_the_open_tools(tmp_path):
    assert main(["ulx3s-85", "--project", "--build", str(tmp_path)]) == 0
    folder = tmp_path / "ulx3s-85"
    places = dict(re.findall(r'LOCATE COMP "(\w+)__io" SITE "(\w+)"', (folder / "sqdm_board.lpf").read_text()))
    assert {name: places[name] for name in ("clk25_0", "uart_0__rx", "uart_0__tx", "led_2")} == {
        "clk25_0": "G2", "uart_0__rx": "M1", "uart_0__tx": "L4", "led_2": "C1"}
    assert "abc9.D" in (folder / "sqdm_board.ys").read_text()
    assert "-nodsp" in (folder / "sqdm_board.ys").read_text()
    assert json.loads((folder / "build_sqdm_board.json").read_text())


def test_the_line_resynchronises_behind_garbage_and_damage(link):
    """Behind random garbage, and with damage in both directions; every bit crosses the pins of the RTL."""
    rng = np.random.default_rng(5)
    rate = [0.0]

    def mangle(byte, answer):
        if rng.random() >= rate[0]:
            return bytes([byte])
        return [b"", bytes([byte ^ 1 << rng.integers(8)]), bytes([byte, int(rng.integers(256))]),
                bytes([REQUEST, byte])][rng.integers(4)]

    port = link(mangle)
    bridge = bridge_to(port, retries=40)
    assert (bridge.memory_base, bridge.memory_size, bridge.dropped, bridge.retried) == (BASE, 1 << 12, 0, 0)
    expected = bytearray(bridge.memory.read(0, 600))
    rate[0] = 0.01
    for _ in range(6):
        port.write(rng.bytes(int(rng.integers(1, 40))))
        begin, data = int(rng.integers(0, 500)), rng.bytes(int(rng.integers(1, 100)))
        bridge.memory.write(begin, data)
        expected[begin:begin + len(data)] = data
        assert int.from_bytes(bridge.registers.read(Register.ID, 4), "little") == MAGIC
    assert bridge.memory.read(0, 600) == expected
    assert bridge.retried > 0
    rate[0] = 0.0
    assert bridge.dropped > 0


def test_a_repeated_write_is_not_done_again(link):
    """The bytes of a write, sent twice: the second one changes nothing, whatever it says."""
    port = link()
    bridge = bridge_to(port)
    sent = []
    write, port.write = port.write, lambda data: sent.append(data) or write(data)
    bridge.registers.write(Register.TIME_STEP, (7).to_bytes(4, "little"))
    first = sent[-1]
    assert first[1] == Op.WRITE_REGISTER
    again = bytearray(first)
    again[8] = 9        # another value under the same number: the bridge must not look at it
    again[-4:] = zlib.crc32(again[1:-4]).to_bytes(4, "little")
    write(bytes(again))
    port.wait(300)
    assert int.from_bytes(bridge.registers.read(Register.TIME_STEP, 4), "little") == 7
    # A read in between: the number counts no more, and the write is done.
    port.reset_input_buffer()
    write(bytes(again))
    port.wait(300)
    assert int.from_bytes(bridge.registers.read(Register.TIME_STEP, 4), "little") == 9


def test_the_self_test_passes_in_cocotb():
    """The driver in a thread, cocotbext-uart on the pins, a small accelerator behind; the lights are looked at."""
    next(bench for bench in BENCHES if bench.name == "board-2x2").run(1, build_dir=BUILD).require()


@pytest.mark.soak
def test_the_self_test_passes_and_the_lights_say_so(board):
    port = board
    bridge = bridge_to(port)
    lines = []
    for line in selftest.run(bridge, port.wait):
        lines.append(line)
        port.wait(5000)
        assert port.sim.peek("error") == line.startswith("error"), line
        assert port.sim.peek("busy") == 0
    assert lines[:2] == ["link           8192 bytes of memory at 0x40000000",
                         "noise          3 requests answered, each behind garbage on the line"]
    runs = [line.split("  ")[-1].strip() for line in lines if line.startswith("step")]
    assert len(runs) == 2 and runs[0].split(" ", 1)[1] == runs[1].split(" ", 1)[1]
    assert "360 results equal to the golden model" in lines[-1]


@pytest.mark.soak
def test_a_broken_board_is_found(board, monkeypatch):
    """The self-test sees a bit of the memory that is stuck."""
    port = board
    bridge = bridge_to(port)
    request = bridge.request

    def stuck(op, address=0, data=b"", words=0):
        found = request(op, address, data, words)
        if op == Op.READ_MEMORY and address <= 0x204 < address + 4 * words:
            found = found[:0x204 - address] + bytes([found[0x204 - address] & 0xFE]) + found[0x205 - address:]
        return found

    monkeypatch.setattr(bridge, "request", stuck)
    with pytest.raises(selftest.SelfTestError, match="memory: byte 0x204 reads"):
        list(selftest.run(bridge, port.wait))


def test_the_self_test_says_what_failed(capsys):
    assert selftest.main(["--port", "/dev/nothing-here"]) == 1
    assert capsys.readouterr().err.startswith("FAILED: cannot open /dev/nothing-here with 1000000 baud")
