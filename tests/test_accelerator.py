"""The accelerator's RTL against the functional simulator: whatever the program, whatever memory does.

The driver's tests run on it too, in test_sqdm.py; the AXI protocol is checked by the bench `accelerator`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from golden.detector import RefreshPolicy
from golden.layer import LayerError
from golden.program.bundle import Program
from golden.program.descriptor import BYTES, FIELDS, LIMITS, ErrorCode, Opcode, decode
from golden.program.pack import Packing
from golden.program.tiler import tile
from sim.accelerator import RegisterError
from sim.fast import FastSim, Hang
from sim.stimulus_network import STEPS, random_case
from sim.twins import Twins
from sqdm.device import REFRESH
from sqdm.registers import SOFT_RESET, START, STATUS_BUSY, STATUS_DONE, STATUS_READY, Register
from tests.conftest import ACCELERATOR
from tests.test_program import ERRORS, LEGAL, PARAMS, PROGRAM, TABLE, WEIGHTS, build, changed, payload
from tests.test_program import simulator as legal_simulator

IRQ_DONE, IRQ_ERROR, IRQ_START_IGNORED = 1, 2, 4
WAIT = next(field.first_bit for field in FIELDS[Opcode.LOAD] if field.name == "wait")
Build = Callable[[], FastSim]


def make(accelerator: Build, rng: np.random.Generator) -> Twins:
    """Twins with some memory."""
    return Twins(ACCELERATOR, accelerator(), latency=int(rng.integers(1, 40)),
                 stall=float(rng.choice([0, 0.1, 0.3, 0.7])), seed=int(rng.integers(1 << 20)))


def network(rng: np.random.Generator, nodes: int = 3, masks: bool = False) -> tuple[Program, bytes]:
    """A program for a random network, and its data."""
    while True:
        case = random_case(rng, ACCELERATOR, (2, 4, 6), nodes, masks=masks)
        with suppress(LayerError):      # it does not fit
            program = tile(case.network, ACCELERATOR)
            break
    block = rng.integers(0, case.network.blocks, 2).tolist() if program.blocks == 2 else [0, 0]
    return program, bytes(program.data(case.inputs, block))


def check_network(twins: Twins, rng: np.random.Generator) -> None:
    """A program that needs nothing of what was before is exact."""
    twins.fill(rng.integers(0, 16, ACCELERATOR.act_nibbles).astype(np.uint8))
    program, data = network(rng)
    outcome = twins.run(program.code, program.count, data)
    assert outcome is not None and outcome.error is None
    twins.check_labels(program.labels)


def transfers(sim: FastSim) -> bool:
    """Whether anything moves on the memory's bus in this cycle."""
    return any(sim.peek(f"m_axi_{channel}valid") and sim.peek(f"m_axi_{channel}ready")
               for channel in ("ar", "r", "aw", "w", "b"))


def begin(twins: Twins, rng: np.random.Generator, least: int = 1) -> None:
    """Start a random network, and stop the clock within it."""
    program, data = network(rng)
    twins.place(program.code, program.count, data)
    twins.start()
    twins.rtl.sim.step(int(rng.integers(least, rng.choice([40, 400, 4000]))))


# Programs.

@pytest.mark.parametrize("seed", range(8))
def test_networks_leave_the_same_memories(accelerator: Build, seed: int) -> None:
    """Over some time steps, with masks and refresh policies; the labels as well."""
    rng = np.random.default_rng([seed, 20])
    twins = make(accelerator, rng)
    policy = RefreshPolicy(REFRESH[seed % 4], int(rng.integers(1, 4)), int(rng.integers(0, 1 << STEPS)))
    twins.write(Register.POLICY, REFRESH.index(policy.refresh) | policy.n << 8)
    twins.write(Register.POLICY_MASK, policy.mask)
    twins.golden.policy = policy
    program, data = network(rng, 5, masks=True)
    for step in range(STEPS):
        outcome = twins.run(program.code, program.count, data, step)
        assert outcome is not None and outcome.error is None
        twins.check_labels(program.labels)
        data = bytes(twins.golden.data)


def check_errors(accelerator: Build, programs: list[tuple[str, bytes, int]]) -> set[ErrorCode | None]:
    """Run changed versions of the legal program; the errors that came up."""
    rng = np.random.default_rng(21)
    data = bytes(legal_simulator(build(LEGAL)).data)
    found = set()
    twins = make(accelerator, rng)
    for name, code, count in programs:
        try:
            outcome = twins.run(code[:PROGRAM] + payload(ACCELERATOR), count, data)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        if outcome is None:     # their memories differ now
            twins = make(accelerator, rng)
        else:
            found.add(outcome.error)
    return found


def test_every_error(accelerator: Build) -> None:
    """Code and index, and memories as if the program ended there."""
    found = check_errors(accelerator, [(name, code, 5 if error is ErrorCode.NO_END else len(LEGAL))
                                       for name, (code, error, _) in ERRORS.items()])
    assert found >= {code for code in ErrorCode if code <= ErrorCode.GUARD}


def test_every_limit(accelerator: Build) -> None:
    """Values at the limits, and beyond."""
    programs = []
    for index, (opcode, _) in enumerate(LEGAL):
        for field in FIELDS[opcode]:
            if field.name in LIMITS:
                low, high = LIMITS[field.name].low, LIMITS[field.name].high(ACCELERATOR)
                programs += [(f"{opcode.name} {field.name}={value}", changed(index, **{field.name: value}), len(LEGAL))
                             for value in (low - 1, low, high, high + 1) if 0 <= value < 1 << field.bits]
    assert check_errors(accelerator, programs) >= {None, ErrorCode.SIZE}


@pytest.mark.parametrize("seed", range(4))
def test_corrupt_descriptors(accelerator: Build, seed: int) -> None:
    """A bit of a network's program is turned over: the same error or result, or an end at least.

    Not `wait` of a LOAD: whether one that does not wait overtakes what uses its place is a matter of time.
    """
    rng = np.random.default_rng([seed, 22])
    twins = make(accelerator, rng)
    program, data = network(rng)
    for _ in range(30):
        index = int(rng.integers(program.count))
        fields = FIELDS[decode(program.code[BYTES * index:BYTES * (index + 1)]).opcode]
        field = fields[rng.integers(len(fields))]
        bit = field.first_bit + int(rng.integers(field.bits)) if rng.random() < 0.8 else int(rng.integers(8 * BYTES))
        if bit == WAIT and fields is FIELDS[Opcode.LOAD]:
            continue
        code = bytearray(program.code)
        code[BYTES * index + bit // 8] ^= 1 << bit % 8
        try:
            outcome = twins.run(bytes(code), program.count, data)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, descriptor {index}, bit {bit}: {error}") from None
        if outcome is None or outcome.error is ErrorCode.GUARD:     # labels may differ now
            twins = make(accelerator, rng)


@pytest.mark.parametrize("seed", range(4))
def test_any_tables_and_weights(accelerator: Build, seed: int) -> None:
    """Whatever they hold, a layer ends, and stays within its region: noise, or a table with a wrong bit."""
    rng = np.random.default_rng([seed, 32])
    for number in range(6):
        twins = make(accelerator, rng)
        program, data = network(rng)
        code = np.frombuffer(program.code, np.uint8).copy()
        for index in range(program.count):
            item = decode(program.code[BYTES * index:BYTES * (index + 1)])
            if item.opcode == Opcode.CONV and number % 2:
                table = code[item["table"]:item["table"] + 8 * item["table_count"]]
                table[rng.integers(table.size)] ^= 1 << rng.integers(8)
        if number % 2 == 0:
            code[BYTES * program.count:] = rng.integers(0, 256, code.size - BYTES * program.count)
        try:
            twins.run(code.tobytes(), program.count, data)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, network {number}: {error}") from None


@pytest.mark.parametrize("members", [{"weight": 100}, {"group": 31}, {"taps": 0}, {"last": False}, {"exponent": 3}])
@pytest.mark.parametrize("width", [1, 8])
def test_entries_that_name_what_is_not_there(accelerator: Build, members: dict[str, int], width: int) -> None:
    """The layer ends all the same, in windows and in lines."""
    packing, data = Packing.of(ACCELERATOR), bytes(legal_simulator(build(LEGAL)).data)
    code = bytearray(changed(2, width=width, height=8 // width)[:PROGRAM] + payload(ACCELERATOR))
    item = packing.unpack_entry(bytes(code[TABLE:TABLE + 8]))
    for dense_ok in (False, True):
        code[TABLE:TABLE + 8] = packing.pack_entry(replace(item, entry=replace(item.entry, **members),
                                                           dense_ok=dense_ok))
        make(accelerator, np.random.default_rng(33)).run(bytes(code), len(LEGAL), data)


@pytest.mark.parametrize("seed", range(3))
def test_sizes_of_the_regions(accelerator: Build, seed: int) -> None:
    """Programs cut off anywhere, too few descriptors, none, and data regions that are too small."""
    rng = np.random.default_rng([seed, 23])
    twins = make(accelerator, rng)
    program, data = network(rng)
    for _ in range(4):
        size = int(rng.integers(len(program.code)))
        twins.run(program.code[:size], program.count, data)
        twins.run(program.code, program.count, data[:rng.integers(len(data))])
        outcome = twins.run(program.code, int(rng.integers(program.count)), data)
        assert outcome is not None and outcome.error is ErrorCode.NO_END
    for code in (program.code, b""):
        outcome = twins.run(code, 0, data)
        assert outcome is not None and (outcome.error, outcome.index) == (ErrorCode.NO_END, 0)
    check_network(twins, rng)


def test_masked_descriptors_are_passed_over_unseen(accelerator: Build) -> None:
    """Noise anywhere in a program, under a mask that leaves the time step out."""
    rng = np.random.default_rng(24)
    twins = make(accelerator, rng)
    data = bytes(legal_simulator(build(LEGAL)).data)
    for step in (0, 1, 31, 32, 62, 63):
        items = [build(LEGAL)[BYTES * index:BYTES * (index + 1)] for index in range(len(LEGAL))]
        for _ in range(2):
            noise = bytearray(rng.integers(2, 256, BYTES, np.uint8).tobytes())      # 1 would be END
            noise[8 + step // 8] &= ~(1 << step % 8)
            items.insert(int(rng.integers(len(items))), bytes(noise))
        outcome = twins.run(b"".join(items).ljust(PROGRAM, b"\0") + payload(ACCELERATOR), len(items), data, step)
        assert outcome is not None and (outcome.error, outcome.index) == (None, 7)


# The bus.

@pytest.mark.parametrize(("place", "index", "error"), [
    *((BYTES * index + 8 * beat, index, ErrorCode.BUS_READ) for index, beat in ((0, 0), (2, 15), (5, 7))),
    (TABLE, 2, ErrorCode.BUS_READ), (WEIGHTS + 40, 2, ErrorCode.BUS_READ), (PARAMS + 8, 2, ErrorCode.BUS_READ),
    ("data", 0, ErrorCode.BUS_READ), ("data", 8, ErrorCode.BUS_READ), ("data", 16, ErrorCode.BUS_READ),
    ("data", 32, ErrorCode.BUS_WRITE), ("data", 48, ErrorCode.BUS_WRITE)])
def test_bus_errors(accelerator: Build, place: int | str, index: int, error: ErrorCode) -> None:
    """A beat that fails ends the run; the descriptor and the burst are named, and the next run is exact."""
    rng = np.random.default_rng([index, 25])
    twins = make(accelerator, rng)
    data = bytes(legal_simulator(build(LEGAL)).data)
    twins.place(build(LEGAL)[:PROGRAM] + payload(ACCELERATOR), len(LEGAL), data)
    address = twins.rtl.memory_base + (twins.code + place if isinstance(place, int) else twins.data + index)
    expected = {0: 0, 8: 0, 16: 1, 32: 4, 48: 4}[index] if place == "data" else index
    twins.rtl.sim.bad_range(address, address + 1)
    twins.start()
    end = twins.finish()
    assert (end.error, end.index) == (error, expected)
    assert address - 8 * ACCELERATOR.axi_burst < end.address <= address
    twins.rtl.sim.bad_range(0, 0)
    check_network(twins, rng)


@pytest.mark.parametrize("seed", range(4))
def test_a_bus_that_stops_answering(accelerator: Build, seed: int) -> None:
    """The watchdog ends the run; a reset of both sides, and all is well."""
    rng = np.random.default_rng([seed, 26])
    twins = make(accelerator, rng)
    sim = twins.rtl.sim
    twins.write(Register.WATCHDOG, 300)
    program, data = network(rng)
    twins.place(program.code, program.count, data)
    twins.start()
    quiet = 0       # cycles since the last transfer
    for _ in range(int(rng.integers(1, 200))):
        quiet = 0 if transfers(sim) else quiet + 1
        sim.step()
    sim.pace_memory(8, 1)
    cycles = sim.run(10_000, until="irq")
    assert 300 <= quiet + cycles <= 1000
    assert twins.read(Register.ERROR) & 0xFF == ErrorCode.WATCHDOG
    sim.step(400)
    assert twins.read(Register.STATUS) & STATUS_READY
    sim.pace_memory(8, 0.3)
    sim.reset()
    assert (twins.read(Register.STATUS), twins.read(Register.ERROR)) == (STATUS_READY, 0)
    restore(twins)
    check_network(twins, rng)


def restore(twins: Twins) -> None:
    """After a hard reset, which sets the registers to their first values."""
    twins.write(Register.WATCHDOG, 5000)
    twins.write(Register.IRQ_ENABLE, IRQ_DONE | IRQ_ERROR)
    twins.golden.policy = RefreshPolicy()


# Resets, and hosts that do not wait.

@pytest.mark.parametrize("seed", range(6))
def test_soft_reset_at_any_moment(accelerator: Build, seed: int) -> None:
    """Settles by itself, with nothing left on the bus, and the next run is exact."""
    rng = np.random.default_rng([seed, 27])
    twins = make(accelerator, rng)
    for _ in range(4):
        begin(twins, rng)
        host = twins.rtl.memory.copy()
        twins.soft_reset()
        host[twins.data:] = twins.rtl.memory[twins.data:]
        np.testing.assert_array_equal(twins.rtl.memory, host)
        assert not twins.read(Register.STATUS) & (STATUS_BUSY | STATUS_DONE)
    check_network(twins, rng)


def test_soft_reset_keeps_memories(accelerator: Build) -> None:
    """Between runs it changes neither activation memory nor labels, so that masked layers' outputs can be used."""
    rng = np.random.default_rng(28)
    twins = make(accelerator, rng)
    program, data = network(rng, 5, masks=True)
    for step in range(STEPS):
        outcome = twins.run(program.code, program.count, data, step)
        assert outcome is not None and outcome.error is None
        data = bytes(twins.golden.data)
        twins.soft_reset()
        twins.check_labels(program.labels)


@pytest.mark.parametrize("seed", range(3))
def test_hard_reset_at_any_moment(accelerator: Build, seed: int) -> None:
    """Of both sides of the bus; the registers have their first values then."""
    rng = np.random.default_rng([seed, 29])
    twins = make(accelerator, rng)
    for _ in range(4):
        begin(twins, rng)
        twins.rtl.sim.reset()
        assert twins.read(Register.STATUS) == STATUS_READY
        assert twins.read(Register.PROGRAM_COUNT) == 0
        restore(twins)
    check_network(twins, rng)


def test_a_start_while_busy_is_ignored(accelerator: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told by an interrupt; settings cannot be written then."""
    rng = np.random.default_rng(30)
    twins = make(accelerator, rng)
    program, data = network(rng)
    original, hits = twins.start, 0

    def start(step: int = 0) -> None:
        nonlocal hits
        original(step)
        twins.rtl.sim.step(int(rng.integers(60)))
        twins.rtl.write32(Register.CONTROL, START)
        if twins.read(Register.STATUS) & STATUS_BUSY:
            assert twins.read(Register.IRQ_STATUS) & IRQ_START_IGNORED
            for register in (Register.PROGRAM_BASE, Register.DATA_SIZE, Register.TIME_STEP):
                with pytest.raises(RegisterError, match="cannot be written now"):
                    twins.rtl.write32(register, 0)
            hits += 1
        twins.write(Register.IRQ_STATUS, IRQ_START_IGNORED)

    monkeypatch.setattr(twins, "start", start)
    for _ in range(3):
        outcome = twins.run(program.code, program.count, data)
        assert outcome is not None and outcome.error is None
    assert hits >= 3


@pytest.mark.parametrize("seed", range(6))
def test_a_program_rewritten_while_it_runs(accelerator: Build, seed: int) -> None:
    """Ends, one way or another, and writes to the data region only; the next run is exact."""
    rng = np.random.default_rng([seed, 31])
    twins = make(accelerator, rng)
    for _ in range(3):
        begin(twins, rng)
        twins.rtl.memory[twins.code:twins.data] = rng.integers(0, 256, twins.data - twins.code)
        host = twins.rtl.memory.copy()
        try:
            end = twins.finish()
        except Hang:
            raise AssertionError(f"seed {seed}: a hang") from None
        assert end.error is not ErrorCode.WATCHDOG, f"seed {seed}: a hang, ended by the watchdog"
        host[twins.data:] = twins.rtl.memory[twins.data:]
        np.testing.assert_array_equal(twins.rtl.memory, host)
    check_network(twins, rng)


def test_a_soft_reset_beside_a_start(accelerator: Build) -> None:
    """Reset wins."""
    twins = make(accelerator, np.random.default_rng(32))
    twins.place(build(LEGAL), len(LEGAL), bytes(64))
    twins.rtl.write32(Register.CONTROL, START | SOFT_RESET)
    twins.settle()
    assert not twins.read(Register.STATUS) & (STATUS_BUSY | STATUS_DONE)
