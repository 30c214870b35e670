"""Does a board with the bring-up design work? Everything that it prints is the same on every working board.

    python -m sqdm.selftest --port /dev/ttyUSB0
    python -m sqdm.selftest --port COM4 --baud 1000000
    python -m sqdm.selftest --simulate                  the design in RTL simulation, every bit through the UART's pins

docs/bringup.md says what to look at when it fails.
"""

import argparse
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from golden.detector import balance_detection
from golden.formats import S4, S8, U4, Tensor
from golden.program.bundle import Program
from golden.program.descriptor import ErrorCode
from golden.program.network import Conv, Input, Network, Parameters
from golden.program.tiler import tile
from hw.config import PRESETS, Config

from .device import Device, DeviceError, ProgramError
from .golden_backend import GoldenBackend
from .hardware_backend import HardwareBackend
from .registers import MAGIC, Register
from .serial_bridge import BAUD, SerialBridge, SerialError
from .serial_protocol import REQUEST

__all__ = ["SelfTestError", "main", "network", "run"]

SEED = 6
SAMPLES, SIDE, CHANNELS, MIDDLE, OUTPUTS = 2, 6, 6, 9, 5
SHIFT = 16


class SelfTestError(Exception):
    """A part of the test failed; the message says what came and what should have."""


def network(config: Config) -> tuple[Network, Tensor]:
    """Return two convolutions, 4-bit and then 8-bit where there is a sparse array, and an input for them."""
    rng = np.random.default_rng(SEED)
    shape = (CHANNELS, SAMPLES, SIDE, SIDE)
    x = Tensor(rng.integers(0, 16, shape) * (rng.random(shape) < 0.6), U4)

    def conv(name: str, source: str, output: str, inputs: int, outputs: int, kernel: int, spread: int) -> Conv:
        last = name == "second"
        fmt = (S8 if config.sparse else S4) if last else U4
        post = Parameters(rng.integers(spread // 2, spread, (1, outputs)), np.zeros((1, outputs), np.int64),
                          rng.integers(-1 << SHIFT, 1 << SHIFT, (1, outputs)), SHIFT)
        return Conv(name=name, inputs=(source,), output=output, weights=rng.integers(
            -8, 8, (outputs, inputs, kernel, kernel)), w_fmt=S4, codes=np.full((outputs, 1), 8, np.uint8), group=inputs,
            post=post, out_fmt=fmt, detection=None if last else balance_detection(
                SAMPLES * SIDE * SIDE, config.dense, config.sparse, config.dense_taps))

    nodes = (conv("first", "x", "middle", CHANNELS, MIDDLE, 3, 300),
             conv("second", "middle", "y", MIDDLE, OUTPUTS, 1, 3000))
    return Network((Input("x", shape, U4),), nodes, ("y",)), x


def _link(bridge: SerialBridge) -> Iterator[str]:
    yield f"{bridge.memory_size} bytes of memory at {bridge.memory_base:#x}"


def _noise(bridge: SerialBridge) -> Iterator[str]:
    """Garbage, and frames that break off, between requests."""
    rng = np.random.default_rng(SEED)
    before = bridge.dropped
    for _ in range(3):
        bridge.port.write(rng.bytes(20) + bytes([REQUEST]) + rng.bytes(3))
        word = bridge.registers.read(Register.ID, 4)
        _expect("ID after noise", int.from_bytes(word, "little"), MAGIC)
    if bridge.dropped == before:
        raise SelfTestError("the bridge has dropped nothing, though there was garbage on the line")
    yield "3 requests answered, each behind garbage on the line"


def _configuration(config: Config) -> Iterator[str]:
    yield f"{config.name}: {config.rows} x {config.cols}, {config.dense} dense, {config.sparse} sparse, " \
          f"hash {config.config_hash:#010x}"


def _memory(backend: HardwareBackend, size: int) -> Iterator[str]:
    rng = np.random.default_rng(SEED)
    for content in (rng.bytes(size), bytes(size)):
        backend.write_memory(backend.memory_base, content)
        found = backend.read_memory(backend.memory_base, len(content))
        if found != content:
            place = next(index for index, (a, b) in enumerate(zip(found, content, strict=True)) if a != b)
            raise SelfTestError(f"memory: byte {place:#x} reads {found[place]:#04x}, not {content[place]:#04x}")
    backend.write_memory(backend.memory_base + 5, b"unaligned")
    _expect("unaligned bytes", backend.read_memory(backend.memory_base + 4, 11), b"\0unaligned\0")
    yield f"{size} bytes hold what is written"


def _refusals(backend: HardwareBackend) -> Iterator[str]:
    for name, access in (("a register that is not there", lambda: backend.read32(0x0C0)),
                         ("memory behind the end", lambda: backend.memory.read(backend.memory_size, 4))):
        try:
            access()
        except SerialError:
            continue
        raise SelfTestError(f"{name} can be read")
    yield "what is not there is refused"


def _step(device: Device, program: Program, config: Config, x: Tensor, golden: Tensor) -> Iterator[str]:
    device.load_program(program, config.config_hash)
    device.write_data("x", x)
    device.set_batch([0] * SAMPLES)
    device.clear_counters()
    device.run_step(timeout=10)
    y = device.read_data("y")
    check = zlib.crc32(y.values.astype("<i4").tobytes())
    if not np.array_equal(y.values, golden.values):
        wrong = int((y.values != golden.values).sum())
        raise SelfTestError(f"{wrong} of {y.values.size} results differ from the golden model")
    yield f"{y.values.size} results equal to the golden model, CRC-32 {check:#010x}, " \
          f"{device.counters()['run']} cycles"


def _error(device: Device, backend: HardwareBackend) -> Iterator[str]:
    backend.write32(Register.PROGRAM_BASE, backend.memory_base + backend.memory_size)
    try:
        device.run_step(timeout=10)
    except ProgramError as error:
        _expect("error code", error.code, ErrorCode.BUS_READ)
        yield f"a program outside the memory ends with {error.code.name} at {error.address:#x}; LED error is on now"
        return
    raise SelfTestError("a program outside the memory ran without an error")


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SelfTestError(f"{what} is {found!r}, not {expected!r}")


def run(bridge: SerialBridge, wait: Callable[[], None] | None = None,
        configs: Collection[Config] = tuple(PRESETS.values()), memory_bytes: int | None = None) -> Iterator[str]:
    """Yield a line for each part of the test that has passed.

    Parameters
    ----------
    bridge : SerialBridge
    wait : callable, optional
        See `sqdm.hardware_backend.HardwareBackend`.
    configs : collection of Config
        What the board may hold.
    memory_bytes : int, optional
        How much of the memory is tested; all by default.

    Raises
    ------
    SelfTestError, DeviceError
        A part failed.
    """
    backend = bridge.backend(wait)
    yield from _part("link", _link(bridge))
    yield from _part("noise", _noise(bridge))
    device = Device.open(backend)
    found = backend.read32(Register.CONFIG_HASH)
    config = next((config for config in configs if config.config_hash == found), None)
    if config is None:
        raise SelfTestError(f"the configuration {found:#010x} is none of this version's presets, "
                            f"{', '.join(config.name for config in configs)}")
    yield from _part("configuration", _configuration(config))
    yield from _part("refusals", _refusals(backend))
    yield from _part("memory", _memory(backend, memory_bytes or backend.memory_size))
    net, x = network(config)
    program = tile(net, config)
    model = Device.open(GoldenBackend(config, bridge.memory_base, bridge.memory_size, config.config_hash))
    model.load_program(program)
    model.write_data("x", x)
    model.set_batch([0] * SAMPLES)
    model.run_step()
    golden = model.read_data("y")
    yield from _part("step", _step(device, program, config, x, golden))
    yield from _part("error", _error(device, backend))
    yield from _part("step again", _step(device, program, config, x, golden))


def _part(name: str, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield f"{name:<14} {line}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if the test fails, 2 for bad arguments."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m sqdm.selftest", description=summary,
                                     epilog=f"examples:\n{examples}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--port", metavar="NAME", help="serial port of the board")
    chosen.add_argument("--simulate", action="store_true", help="the design in simulation; compiles for a minute, once")
    parser.add_argument("--baud", type=int, default=BAUD, metavar="N", help=f"{BAUD} if absent")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="to simulate; tiny if absent")
    options = parser.parse_args(arguments)
    wait = None
    try:
        if options.simulate:
            from sim.board import simulated_bridge
            bridge, wait = simulated_bridge(PRESETS[options.preset])
        else:
            bridge = SerialBridge.open(options.port, options.baud)
        with bridge:
            for line in run(bridge, wait):
                print(line, flush=True)
    except (SelfTestError, DeviceError, OSError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
