"""The host's end of the serial line, against a model of the bridge that loses, damages and repeats what it likes."""

import os
import threading
import zlib

import numpy as np
import pytest

from sqdm.serial_bridge import SerialBridge, SerialError
from sqdm.serial_protocol import ANSWER, MAGIC, MAX_WORDS, REQUEST, Op, Status

SIZE = 1 << 12


class Line:
    """A port with a bridge behind it, written from the protocol's description; 16 registers at 0."""

    def __init__(self, damage=lambda frame, answer: frame):
        self.timeout = None
        self.damage = damage
        self.coming = bytearray()
        self.memory = bytearray(SIZE)
        self.registers = [0] * 16
        self.starts = 0     # writes of register 0
        self.last = None
        self.silences = 0
        self.magic = MAGIC

    def write(self, data):
        frame = self.damage(bytes(data), False)
        begin = frame.find(REQUEST)
        body = frame[begin + 1:-4] if begin >= 0 else b""
        if body and zlib.crc32(body).to_bytes(4, "little") == frame[-4:]:
            self.coming += self.damage(self.answer(body), True)
        return len(data)

    def answer(self, body):
        op, sequence, words = body[:3]
        address, data = int.from_bytes(body[3:7], "little"), body[7:]
        assert len(data) == (4 * words if op & 1 else 0) and words <= MAX_WORDS
        status, content = Status.OK, b""
        if op & 1 and self.last is not None and self.last[0] == sequence:
            status = self.last[1]
        else:
            status, content = self.carry_out(op, address, words, data)
            self.last = (sequence, status) if op & 1 else None
        count = len(content) // 4
        answer = bytes([status, sequence, count]) + content
        return bytes([ANSWER]) + answer + zlib.crc32(answer).to_bytes(4, "little")

    def carry_out(self, op, address, words, data):
        if op == Op.HELLO:
            return Status.OK, b"".join(word.to_bytes(4, "little") for word in (self.magic, 0x4000_0000, SIZE, 7))
        if op in (Op.READ_MEMORY, Op.WRITE_MEMORY):
            if address + 4 * words > SIZE:
                return Status.REFUSED, b""
            if op == Op.WRITE_MEMORY:
                self.memory[address:address + len(data)] = data
                return Status.OK, b""
            return Status.OK, bytes(self.memory[address:address + 4 * words])
        if address >= 64 or words != 1:
            return Status.REFUSED, b""
        if op == Op.WRITE_REGISTER:
            self.starts += address == 0
            self.registers[address // 4] = int.from_bytes(data, "little")
            return Status.OK, b""
        return Status.OK, self.registers[address // 4].to_bytes(4, "little")

    def read(self, size=1):
        found = bytes(self.coming[:size])
        del self.coming[:size]
        self.silences += not found
        return found

    def reset_input_buffer(self):
        self.coming.clear()

    def close(self):
        pass


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_line_costs_time_but_nothing_else(seed):
    rng = np.random.default_rng(seed)

    def damage(frame, answer):
        kind = rng.integers(8)
        if kind == 0:                           # lost
            return b""
        place = int(rng.integers(len(frame)))
        if kind == 1:                           # a bit is wrong
            return frame[:place] + bytes([frame[place] ^ 1 << rng.integers(8)]) + frame[place + 1:]
        if kind == 2:                           # a byte is lost
            return frame[:place] + frame[place + 1:]
        if kind == 3 and answer:                # garbage before it that looks like an answer
            return bytes([ANSWER, 0]) + rng.bytes(5) + frame
        return frame

    line = Line(damage)
    bridge = SerialBridge(line, retries=30)
    expected = bytearray(SIZE)
    for number in range(60):
        begin = int(rng.integers(0, SIZE - 700))
        data = rng.bytes(int(rng.integers(1, 700)))
        bridge.memory.write(begin, data)
        expected[begin:begin + len(data)] = data
        assert bridge.memory.read(begin, len(data)) == data, f"seed {seed}"
        bridge.registers.write(0, number.to_bytes(4, "little"))
    assert line.memory == expected
    assert line.starts == 60, "a write was done twice, or not at all"
    assert bridge.retried > 20


def test_a_write_after_many_reads_is_not_taken_for_the_one_before():
    line = Line()
    bridge = SerialBridge(line)
    bridge.registers.write(0, bytes(4))
    for _ in range(255):
        bridge.registers.read(4, 4)
    bridge.registers.write(0, bytes(4))
    assert line.starts == 2


def test_late_answers_are_not_taken_for_others():
    line = Line()
    bridge = SerialBridge(line)
    line.registers[1], line.registers[2] = 11, 22
    late = line.answer(bytes([Op.READ_REGISTER, bridge._sequence, 1, 4, 0, 0, 0]))
    line.coming += late + late[:5]
    assert int.from_bytes(bridge.registers.read(8, 4), "little") == 22


def test_errors_say_what_to_do():
    with pytest.raises(SerialError, match="no answer to HELLO at 0x0, asked 5 times: check the port, the baud rate"):
        SerialBridge(Line(lambda frame, answer: b""))
    with pytest.raises(SerialError, match="no answer to HELLO"):
        SerialBridge(Line(lambda frame, answer: b"\x5a\x00" * 40000 if answer else frame), retries=1)
    line = Line()
    line.magic = 0x32425153
    with pytest.raises(SerialError, match="the bridge speaks another protocol: its HELLO says 0x32425153"):
        SerialBridge(line)
    bridge = SerialBridge(Line())
    assert bridge.dropped == 7
    with pytest.raises(SerialError, match="the board refuses READ_REGISTER at 0x100: there is nothing"):
        bridge.registers.read(0x100, 4)
    with pytest.raises(SerialError, match="the board refuses WRITE_MEMORY at 0xffc"):
        bridge.request(Op.WRITE_MEMORY, SIZE - 4, bytes(8))
    with pytest.raises(SerialError, match="cannot open /dev/nothing-here with 9600 baud"):
        SerialBridge.open("/dev/nothing-here", 9600)


def test_pyserial_carries_it():
    """Through a pseudo terminal: pyserial's own reads, writes and time-outs, with the model at the other end."""
    master, slave = os.openpty()
    line = Line()

    def serve():
        heard = b""
        while True:
            try:
                heard += os.read(master, 4096)
            except OSError:
                return
            while len(heard) >= 12:
                length = 12 + (4 * heard[3] if heard[1] & 1 else 0)
                if len(heard) < length:
                    break
                line.write(heard[:length])
                heard = heard[length:]
                os.write(master, bytes(line.coming))
                line.coming.clear()

    threading.Thread(target=serve, daemon=True).start()
    with SerialBridge.open(os.ttyname(slave)) as bridge:
        assert bridge.memory_size == SIZE
        data = np.random.default_rng(1).bytes(1001)
        bridge.memory.write(3, data)
        assert bridge.memory.read(3, 1001) == data
        line.damage = lambda frame, answer: b""
        bridge.timeout, bridge.quiet, bridge.retries = 0.02, 0.01, 2
        with pytest.raises(SerialError, match="no answer to READ_REGISTER at 0x4, asked 3 times"):
            bridge.registers.read(4, 4)
    os.close(slave)
    os.close(master)
