"""The host driver: programs, data, errors, labels and registers; on the golden backend and on the RTL."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from golden.detector import Labels, RefreshPolicy, threshold_detection
from golden.formats import U4, Tensor
from golden.program.bundle import Program
from golden.program.descriptor import BYTES, ErrorCode, Opcode, encode
from golden.program.network import Input, Network
from golden.program.tiler import tile
from hw.accelerator import counter_events
from sim.accelerator import RegisterError, SimBackend
from sim.fast import FastSim
from sim.stimulus import random_tensor
from sim.stimulus_network import STEPS, Case, conv_node, random_case, reference
from sqdm import Device, DeviceError, ProgramError
from sqdm.golden_backend import BusError, GoldenBackend
from sqdm.registers import CONFIG_FIELDS, WIDE, Register
from tests.conftest import ACCELERATOR as TINY

BASE = 0x9_8765_4800    # of memory: beyond 4 GiB


def open_golden() -> tuple[Device, GoldenBackend]:
    backend = GoldenBackend(TINY, memory_base=BASE, config_hash=TINY.config_hash)
    return Device.open(backend), backend


@pytest.fixture(params=["golden", "rtl"])
def opened(request: pytest.FixtureRequest,
           accelerator: Callable[[], FastSim]) -> tuple[Device, GoldenBackend | SimBackend]:
    """The driver's tests do not know what they run on."""
    if request.param == "golden":
        return open_golden()
    backend = SimBackend(accelerator(), BASE, 1 << 20, latency=20, stall=0.2)
    return Device.open(backend), backend


def small_case(seed: int) -> Case:
    rng = np.random.default_rng([seed, 8])
    x = random_tensor(rng, (3, 2, 4, 6), U4)
    node = conv_node(rng, TINY, "layer", {"x": x}, ("x",), "y", outputs=5, kernel=3, transform="none", out_fmt=U4,
                     detection=threshold_detection(48, 0.3))
    return Case(Network((Input("x", x.shape, U4),), (node,), ("y",)), {"x": x})


@pytest.mark.parametrize("seed", range(10))
def test_steps_of_networks(opened: tuple[Device, GoldenBackend | SimBackend], seed: int) -> None:
    """Outputs are those of the golden model, labels those of the functional simulator, over time steps with masks."""
    rng = np.random.default_rng([seed, 7])
    case = random_case(rng, TINY, (2, 4, 6), 4, masks=True)
    program = tile(case.network, TINY)
    device, backend = opened
    other, golden = open_golden()
    policy = RefreshPolicy("mask", 3, 1 << 40 | 0b101)
    for each in (device, other):
        each.set_policy(policy)
        each.load_program(program, config_hash=TINY.config_hash)
        each.clear_counters()
    tensors: dict[str, Tensor] = {}
    for step in range(STEPS):
        block = rng.integers(0, case.network.blocks, 2).tolist() if program.blocks == 2 else [0, 0]
        for each in (device, other):
            for name, tensor in case.inputs.items():
                each.write_data(name, tensor)
            each.set_batch(block)
            each.run_step(step)
        tensors = reference(TINY, case, block, step, tensors)
        for name in case.network.outputs:
            np.testing.assert_array_equal(device.read_data(name).values, tensors[name].values,
                                          f"seed {seed}, step {step}, tensor {name}")
    found = golden.simulator.policy
    assert (found.refresh, found.n, found.mask) == (policy.refresh, policy.n, policy.mask)
    for name, places in program.labels.items():
        labels = device.labels(name)
        assert list(zip(labels.sparse, labels.dead, labels.bin, strict=True)) == [
            golden.simulator.labels.read(*place) for place in places], f"seed {seed}, labels of {name}"
        assert backend.read32(Register.LABEL_ADDRESS) == places[-1][0] | places[-1][1] << 16
    counters = device.counters()
    assert list(counters) == list(counter_events(TINY))
    if isinstance(backend, SimBackend):
        assert all(counters[name] for name in ("run", "idle", "layer", "layers", "read", "written"))
    else:
        assert not any(counters.values())
    device.clear_counters()
    assert not any(device.counters().values())


def test_labels_are_those_of_the_output(opened: tuple[Device, GoldenBackend | SimBackend]) -> None:
    case = small_case(0)
    device, _ = opened
    device.load_program(tile(case.network, TINY))
    device.write_data("x", case.inputs["x"])
    device.set_batch([0, 0])
    device.run_step()
    nonzeros = np.count_nonzero(device.read_data("y").values.reshape(5, -1), axis=1)
    labels = device.labels("y")
    np.testing.assert_array_equal(labels.dead, nonzeros == 0)
    np.testing.assert_array_equal(labels.sparse, nonzeros < 48 - int(0.3 * 48))
    np.testing.assert_array_equal(labels.bin, nonzeros >> 1)
    written = Labels(~labels.sparse, ~labels.dead, labels.bin[::-1])
    device.write_labels("y", written)
    back = device.labels("y")
    for name in ("sparse", "dead", "bin"):
        np.testing.assert_array_equal(getattr(back, name), getattr(written, name))
    device.reset()
    np.testing.assert_array_equal(device.labels("y").dead, written.dead)


def broken(program: Program, index: int) -> Program:
    raw = encode(Opcode.CONV, width=0, block_log2=4)
    return replace(program, code=program.code[:BYTES * index] + raw + program.code[BYTES * (index + 1):])


def test_errors_of_a_run_are_reported_and_do_not_last(opened: tuple[Device, GoldenBackend | SimBackend]) -> None:
    case = small_case(1)
    device, backend = opened
    program = tile(case.network, TINY)
    device.load_program(broken(program, 2))
    device.set_batch([0, 0])
    with pytest.raises(ProgramError, match="the run ended with error SIZE at descriptor 2") as error:
        device.run_step()
    assert (error.value.code, error.value.descriptor, error.value.address) == (ErrorCode.SIZE, 2, 0)
    assert backend.read32(Register.IRQ_STATUS) == 2
    backend.write32(Register.IRQ_STATUS, 2)
    assert backend.read32(Register.IRQ_STATUS) == 0
    device.load_program(program)
    device.write_data("x", case.inputs["x"])
    device.set_batch([0, 0])
    device.run_step()
    np.testing.assert_array_equal(device.read_data("y").values, reference(TINY, case, [0, 0], 0, {})["y"].values)
    assert backend.read32(Register.ERROR) == 0


def test_the_configuration_can_be_read(opened: tuple[Device, GoldenBackend | SimBackend]) -> None:
    found = opened[0].configuration
    assert found == {name: getattr(TINY, name) for name in found}
    assert {"rows", "act_nibbles", "label_slots", "dim_bits", "bus_bits"} <= set(found)


class Other(GoldenBackend):
    """An accelerator with something wrong."""

    def __init__(self, wrong: dict[int, int]) -> None:
        super().__init__(TINY)
        self.wrong = wrong

    def read32(self, offset: int) -> int:
        return self.wrong.get(offset, super().read32(offset))


@pytest.mark.parametrize(("wrong", "message"), [
    ({0: 0xFFFFFFFF}, "there is no accelerator: register ID reads 0xffffffff, not 0x5351444d"),
    ({4: 0x20003}, "the accelerator's registers have version 2.3, this driver knows 1"),
])
def test_other_hardware_is_refused(wrong: dict[int, int], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Device.open(Other(wrong))


def test_an_accelerator_that_does_not_answer() -> None:
    device = Device(Other({Register.STATUS: 1}))
    with pytest.raises(DeviceError, match=r"the reset did not end within 0\.01 s, STATUS is 0x1"):
        device.reset(timeout=0.01)
    device.load_program(tile(small_case(2).network, TINY))
    with pytest.raises(DeviceError, match="the accelerator is not ready: it runs something already"):
        device.run_step()


def test_what_the_driver_refuses(opened: tuple[Device, GoldenBackend | SimBackend]) -> None:
    device, program = opened[0], tile(small_case(3).network, TINY)
    with pytest.raises(DeviceError, match="no program is loaded"):
        device.run_step()
    with pytest.raises(DeviceError, match=f"for the configuration 0x00000007, this is {TINY.config_hash:#010x}"):
        device.load_program(program, config_hash=7)
    with pytest.raises(DeviceError, match="for a bus of 128 bits, the hardware has 64"):
        device.load_program(replace(program, bus_bits=128))
    with pytest.raises(DeviceError, match=r"program and data need \d+ bytes from 0x987655000 on, memory ends at 0x"):
        device.load_program(replace(program, data_size=1 << 24))
    device.load_program(program)
    with pytest.raises(ValueError, match=r"'z' is u4 .*; the program has no such tensor"):
        device.write_data("z", small_case(3).inputs["x"])
    with pytest.raises(KeyError):
        device.labels("x")


def test_registers_that_are_not_there(opened: tuple[Device, GoldenBackend | SimBackend]) -> None:
    backend = opened[1]
    for offset in (0xC, 0x54, 0x200):
        with pytest.raises((BusError, RegisterError), match="there is no register at"):
            backend.read32(offset)
    with pytest.raises((BusError, RegisterError), match=r"register .* cannot be written"):
        backend.write32(Register.STATUS, 0)


def test_what_a_bus_answers_with_an_error() -> None:
    backend = GoldenBackend(TINY, 0x1000, 0x1000)
    for address, size in ((0xFFF, 1), (0x1FFF, 2)):
        with pytest.raises(BusError, match="are not memory, which is 0x1000 to 0x2000"):
            backend.read_memory(address, size)
    backend.write32(Register.DATA_BASE, 0x12345FFF)
    backend.write32(Register.DATA_BASE + 4, 0x9)
    assert (backend.read32(Register.DATA_BASE), backend.read32(Register.DATA_BASE + 4)) == (0x12345000, 9)


def test_registers_are_those_of_the_description() -> None:
    """hw/sqdm.rdl, from which the hardware is made."""
    registers = pytest.importorskip("hw.registers", reason="the register block is not there")
    top = registers.compile_registers(TINY)
    found = {register.inst_name: register for register in top.registers(unroll=False)}
    for register in Register:
        node = found.pop(register.name)
        offset = node.raw_absolute_address if node.is_array else node.absolute_address
        assert offset == register, register
        assert (node.get_property("regwidth") == 64) == (register in WIDE), register
    assert not found
    for name, (register, lsb, bits) in CONFIG_FIELDS.items():
        field = next(field for node in top.registers(unroll=False) if node.inst_name == register.name
                     for field in node.fields() if field.inst_name == name)
        assert (field.lsb, field.width) == (lsb, bits), name
