"""The driver's backend for hardware, with a model where the hardware would be, and with a file that is mapped."""

from pathlib import Path

import numpy as np
import pytest

from golden.formats import U4
from golden.program.network import Input, Network
from golden.program.tiler import tile
from sim.stimulus import random_tensor
from sim.stimulus_network import Case, conv_node, reference
from sqdm import Device
from sqdm.golden_backend import GoldenBackend
from sqdm.hardware_backend import HardwareBackend, MappedFile
from sqdm.registers import MAGIC, Register
from tests.conftest import ACCELERATOR

BASE, SIZE = 0x7000_0000, 1 << 20


class Registers:
    """A transport to the registers of a model; it refuses what a bus of words would."""

    def __init__(self, model: GoldenBackend) -> None:
        self.model = model

    def read(self, address: int, size: int) -> bytes:
        assert size == 4 and address % 4 == 0
        return self.model.read32(address).to_bytes(4, "little")

    def write(self, address: int, data: bytes) -> None:
        assert len(data) == 4 and address % 4 == 0
        self.model.write32(address, int.from_bytes(data, "little"))


class Memory:
    """A transport to the memory of a model."""

    def __init__(self, model: GoldenBackend) -> None:
        self.model = model

    def read(self, address: int, size: int) -> bytes:
        return self.model.read_memory(BASE + address, size)

    def write(self, address: int, data: bytes) -> None:
        self.model.write_memory(BASE + address, data)


def test_a_step_runs_through_transports() -> None:
    rng = np.random.default_rng(3)
    x = random_tensor(rng, (3, 2, 4, 6), U4)
    node = conv_node(rng, ACCELERATOR, "layer", {"x": x}, ("x",), "y", outputs=5, kernel=3, transform="none",
                     out_fmt=U4)
    case = Case(Network((Input("x", x.shape, U4),), (node,), ("y",)), {"x": x})
    model = GoldenBackend(ACCELERATOR, BASE, SIZE)
    device = Device.open(HardwareBackend(Registers(model), Memory(model), BASE, SIZE))
    device.load_program(tile(case.network, ACCELERATOR))
    device.write_data("x", x)
    device.set_batch([0, 0])
    device.run_step()
    np.testing.assert_array_equal(device.read_data("y").values,
                                  reference(ACCELERATOR, case, [0, 0], 0, {})["y"].values)


def test_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.write_bytes(bytes(range(256)) * 32)
    with MappedFile(path, 4096, offset=4096) as mapped:
        backend = HardwareBackend(mapped, mapped, BASE, 4096)
        assert backend.read32(8) == 0x0B0A0908
        backend.write32(Register.ID, MAGIC)
        assert backend.read_memory(BASE + 1, 3) == MAGIC.to_bytes(4, "little")[1:]
        backend.write_memory(BASE + 4093, b"abc")
        with pytest.raises(ValueError, match="2 bytes from 0x70000fff on are not memory, which is 0x70000000 to"):
            backend.write_memory(BASE + 4095, b"xy")
        with pytest.raises(ValueError, match="4 bytes from 0x1000 on are not mapped; 0x1000 bytes are"):
            mapped.read(4096, 4)
    raw = path.read_bytes()
    assert raw[:4096] == bytes(range(256)) * 16 and raw[4096:4100] == MAGIC.to_bytes(4, "little")
    assert raw[-3:] == b"abc"


def test_waiting_is_up_to_the_user() -> None:
    waited = []
    model = GoldenBackend(ACCELERATOR, BASE, SIZE)
    HardwareBackend(Registers(model), Memory(model), BASE, SIZE, wait=lambda: waited.append(1)).wait()
    assert waited == [1]
