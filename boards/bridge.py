"""Serial bridge: frames on a UART become accesses to registers and memory; `sqdm/serial_protocol.py` has the protocol.

A request is complete and its CRC right before anything of it is done. Between requests the bridge reads STATUS now and
then, for the LEDs.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.axi import LITE_ADDR_BITS, OKAY, lite_signature
from sqdm.registers import STATUS_BUSY, STATUS_ERROR, Register
from sqdm.serial_protocol import ANSWER, HELLO_WORDS, MAGIC, MAX_WORDS, REQUEST, Op, Status

from .memory import WORD_BYTES, host_signature
from .uart import Receiver, Transmitter

__all__ = ["SerialBridge"]

POLL = 1 << 12      # cycles between two looks at STATUS
CRC_BYTES = 4


class SerialBridge(wiring.Component):
    """The bridge.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit of the line.
    gap : int
        Clock cycles without a byte after which an incomplete frame is dropped.
    base, size : int
        Of the memory, for HELLO.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line.
    registers : Out(AXI4-Lite)
    memory : Out(host_signature)
    busy, error : Out(1)
        STATUS.busy and STATUS.error, some thousand cycles late at most.
    """

    def __init__(self, divisor: int, gap: int, base: int, size: int) -> None:
        self.divisor, self.gap, self.base, self.size = divisor, gap, base, size
        super().__init__({"rx": In(1), "tx": Out(1, init=1), "registers": Out(lite_signature()),
                          "memory": Out(host_signature(size)), "busy": Out(1), "error": Out(1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = Receiver(self.divisor)
        m.submodules.transmitter = transmitter = Transmitter(self.divisor)
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=8).create()
        m.submodules.words = words = Memory(shape=32, depth=MAX_WORDS, init=[])
        reader, writer = words.read_port(), words.write_port()
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        registers, memory, sent = self.registers, self.memory, transmitter.bytes

        op, sequence, count, address = Signal(8), Signal(8), Signal(8), Signal(32)
        status = Signal(8)
        last_write, repeated = Signal(8), Signal()      # the last write, and whether it counts
        last_status = Signal.like(status)
        dropped = Signal(32)
        number = Signal(range(MAX_WORDS + 1))           # of the word at work
        place = Signal(range(8))                        # of the byte in a header, a word or a CRC
        shift = Signal(32)                              # bytes that make a word, or a word that is sent
        quiet = Signal(range(self.gap + 1))             # cycles since the last byte
        timer = Signal(range(POLL))

        writes, of_memory, hello = op[0], op[1], op == Op.HELLO
        word_address = address[2:] + number
        m.d.comb += [
            crc.data.eq(receiver.byte),
            reader.addr.eq(number),
            writer.addr.eq(number),
            memory.address.eq(word_address),
            memory.write_data.eq(reader.data),
            registers.araddr.eq(Cat(0, 0, word_address)[:LITE_ADDR_BITS]),
            registers.awaddr.eq(registers.araddr),
            registers.wdata.eq(reader.data),
            registers.wstrb.eq(0xF),
        ]
        m.d.sync += quiet.eq(Mux(receiver.valid, 0, quiet + 1))
        m.d.sync += timer.eq(timer + 1)
        verdicts = (Status.OK, Status.REFUSED)
        late = quiet == self.gap
        collected = Cat(shift[8:], receiver.byte)

        def receive(next_state: str, length: int) -> None:
            """Take `length` bytes; what is done with them is up to the state."""
            with m.If(late):
                m.d.sync += dropped.eq(dropped + 1)
                m.next = "HUNT"
            with m.Elif(receiver.valid):
                m.d.comb += crc.valid.eq(1)
                m.d.sync += [shift.eq(collected), place.eq(Mux(place == length - 1, 0, place + 1))]
                with m.If(place == length - 1):
                    m.next = next_state

        def drop() -> None:
            m.d.sync += dropped.eq(dropped + 1)
            m.next = "HUNT"

        def send(byte: Signal, next_state: str) -> None:
            m.d.comb += [sent.valid.eq(1), sent.payload.eq(byte), crc.data.eq(byte)]
            with m.If(sent.ready):
                m.d.comb += crc.valid.eq(1)
                m.next = next_state

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [place.eq(0), number.eq(0)]
                with m.If(receiver.valid & (receiver.byte == REQUEST)):
                    m.next = "HEADER"
                with m.Elif((timer == 0) & receiver.idle):
                    m.next = "POLL"

            # The LEDs: a read that ends before a byte can come.
            with m.State("POLL"):
                m.d.comb += [registers.araddr.eq(Register.STATUS), registers.arvalid.eq(1)]
                with m.If(registers.arready):
                    m.next = "POLLED"
            with m.State("POLLED"):
                m.d.comb += registers.rready.eq(1)
                with m.If(registers.rvalid):
                    m.d.sync += [self.busy.eq((registers.rdata & STATUS_BUSY).any()),
                                 self.error.eq((registers.rdata & STATUS_ERROR).any())]
                    m.next = "HUNT"

            # A request.
            with m.State("HEADER"):
                receive("CHECK", 7)
                with m.If(receiver.valid):
                    with m.Switch(place):
                        for value, target in enumerate((op, sequence, count)):
                            with m.Case(value):
                                m.d.sync += target.eq(receiver.byte)
                    m.d.sync += address.eq(Cat(address[8:], receiver.byte))
            with m.State("CHECK"):
                with m.If((op > max(Op)) | (count > MAX_WORDS)):
                    drop()
                with m.Elif(writes & (count != 0)):
                    m.next = "PAYLOAD"
                with m.Else():
                    m.next = "CRC"
            with m.State("PAYLOAD"):
                receive("STORE", WORD_BYTES)
            with m.State("STORE"):
                m.d.comb += [writer.en.eq(1), writer.data.eq(shift)]
                m.d.sync += number.eq(number + 1)
                with m.If(number + 1 == count):
                    m.next = "CRC"
                with m.Else():
                    m.next = "PAYLOAD"
            with m.State("CRC"):
                receive("DECIDE", CRC_BYTES)
            with m.State("DECIDE"):
                m.d.sync += [number.eq(0), status.eq(Status.OK)]
                with m.If(~crc.match_detected):
                    drop()
                with m.Elif(hello):
                    m.d.sync += [repeated.eq(0), count.eq(HELLO_WORDS)]
                    m.next = "HELLO"
                with m.Elif(writes & repeated & (sequence == last_write)):
                    m.d.sync += status.eq(last_status)
                    m.next = "ANSWER"
                with m.Else():
                    m.d.sync += repeated.eq(0)
                    m.next = "NEXT"

            # Its words, one after the other. A word to be written is there one cycle after its address.
            with m.State("NEXT"):
                with m.If((number == count) | (status != Status.OK)):
                    m.d.sync += number.eq(0)
                    with m.If(writes):
                        m.d.sync += [repeated.eq(1), last_write.eq(sequence), last_status.eq(status)]
                    m.next = "ANSWER"
                with m.Elif(of_memory):
                    m.next = "MEMORY"
                with m.Elif(writes):
                    m.next = "WRITE"
                with m.Else():
                    m.next = "READ"
            with m.State("HELLO"):
                m.d.comb += writer.en.eq(1)
                with m.Switch(number):
                    for value, word in enumerate((MAGIC, self.base, self.size, dropped)):
                        with m.Case(value):
                            m.d.comb += writer.data.eq(word)
                m.d.sync += number.eq(number + 1)
                with m.If(number == HELLO_WORDS - 1):
                    m.d.sync += number.eq(0)
                    m.next = "ANSWER"
            with m.State("MEMORY"):
                inside = word_address < self.size // WORD_BYTES
                m.d.comb += [memory.en.eq(~writes), memory.write.eq(writes & inside)]
                with m.If(~inside):
                    m.d.sync += status.eq(Status.REFUSED)
                    m.next = "NEXT"
                with m.Elif(writes):
                    m.d.sync += number.eq(number + 1)
                    m.next = "NEXT"
                with m.Else():
                    m.next = "FETCHED"
            with m.State("FETCHED"):
                m.d.comb += [writer.en.eq(1), writer.data.eq(memory.read_data)]
                m.d.sync += number.eq(number + 1)
                m.next = "NEXT"
            with m.State("READ"):
                m.d.comb += registers.arvalid.eq(1)
                with m.If(registers.arready):
                    m.next = "READING"
            with m.State("READING"):
                m.d.comb += [registers.rready.eq(1), writer.en.eq(registers.rvalid), writer.data.eq(registers.rdata)]
                with m.If(registers.rvalid):
                    m.d.sync += [number.eq(number + 1), status.eq(Mux(registers.rresp == OKAY, *verdicts))]
                    m.next = "NEXT"
            with m.State("WRITE"):
                taken = Signal(2)
                m.d.comb += [registers.awvalid.eq(~taken[0]), registers.wvalid.eq(~taken[1])]
                done = taken | Cat(registers.awready, registers.wready)
                m.d.sync += taken.eq(done)
                with m.If(done.all()):
                    m.d.sync += taken.eq(0)
                    m.next = "WRITING"
            with m.State("WRITING"):
                m.d.comb += registers.bready.eq(1)
                with m.If(registers.bvalid):
                    m.d.sync += [number.eq(number + 1), status.eq(Mux(registers.bresp == OKAY, *verdicts))]
                    m.next = "NEXT"

            # The answer.
            with m.State("ANSWER"):
                m.d.comb += [sent.valid.eq(1), sent.payload.eq(ANSWER), crc.start.eq(1)]
                m.d.sync += place.eq(0)
                with m.If(writes | (status != Status.OK)):
                    m.d.sync += count.eq(0)     # no words
                with m.If(sent.ready):
                    m.next = "STATUS"
            with m.State("STATUS"):
                send(status, "SEQUENCE")
            with m.State("SEQUENCE"):
                send(sequence, "COUNT")
            with m.State("COUNT"):
                send(count, "WORD")
            with m.State("WORD"):
                m.d.sync += [shift.eq(Mux(number == count, crc.crc, reader.data)), place.eq(0)]
                m.next = "BYTE"
            with m.State("BYTE"):
                m.d.comb += [sent.valid.eq(1), sent.payload.eq(shift[:8]), crc.data.eq(shift[:8])]
                with m.If(sent.ready):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += [shift.eq(shift >> 8), place.eq(place + 1)]
                    with m.If(place == WORD_BYTES - 1):
                        m.d.sync += number.eq(number + 1)
                        m.next = "SENT"
            with m.State("SENT"):   # lets the next word be read
                with m.If(number == count + 1):
                    m.next = "HUNT"
                with m.Else():
                    m.next = "WORD"
        return m
