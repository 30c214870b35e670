"""The serial protocol: `boards/bridge.py` is the board's end of it, `sqdm/serial_bridge.py` the host's.

All numbers are little-endian; a CRC is that of Ethernet and zlib, over all bytes of its frame but the first.

    request    0xA5  op  sequence  words  address (4)  words x 4 bytes, of a write  CRC (4)
    answer     0x5A  status  sequence  words  words x 4 bytes, of a read  CRC (4)

A frame that is damaged, or pauses for longer than the bridge's gap, is dropped without an answer, and the next 0xA5
begins another one: a host that gets no answer waits for longer than that gap and asks again. A write with the sequence
number of the last write is answered as that one was and not done again, so asking again is safe. Any other request
makes the bridge forget the last write.

HELLO's answer: MAGIC, base and size of the memory on the accelerator's bus, frames dropped so far (32 bits each).
"""

from enum import IntEnum

__all__ = ["ANSWER", "HELLO_WORDS", "MAGIC", "MAX_WORDS", "REQUEST", "Op", "Status"]

REQUEST, ANSWER = 0xA5, 0x5A
MAGIC = 0x31425153      # "SQB1", the 1 is the protocol's version
MAX_WORDS = 64
HELLO_WORDS = 4


class Op(IntEnum):
    """Operations. Bit 0 tells writes, bit 1 the memory from the registers."""

    READ_REGISTER = 0
    WRITE_REGISTER = 1
    READ_MEMORY = 2
    WRITE_MEMORY = 3
    HELLO = 4


class Status(IntEnum):
    """Of an answer."""

    OK = 0
    REFUSED = 1         # the register block answered with an error, or the memory ends before
