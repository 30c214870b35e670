"""Window fetcher: turns read requests into windows, and shares read ports of the activation memory.

    cycle       0       1 .. 3           4           5                       6
    request 0   taken   in the memory    its data    in the queue            offered as a window
                                                     (doubled if upsampled)
    request 1   .       taken            .           its data                in the queue

A request is only taken while the queue has room for it and for all that are on their way, so nothing is ever lost and
an array that stalls stalls nobody else.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .actmem import READ_CYCLES, read_port_signature
from .config import Config
from .interfaces import request_layout, upsample_patterns, window_layout

__all__ = ["PortArbiter", "WindowFetcher"]


class WindowFetcher(wiring.Component):
    """Reads of one array.

    Members
    -------
    requests : In(stream of request_layout)
    windows : Out(stream of window_layout)
    memory : Out(read_port_signature)
    idle : Out(1)
        Nothing is on its way or queued.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "requests": In(stream.Signature(request_layout(config))),
            "windows": Out(stream.Signature(window_layout(config))),
            "memory": Out(read_port_signature(config)),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        request = self.requests.payload
        # What the window keeps of its request waits for the memory, then lies in the queue beside the nibbles.
        kept = {name: request[name] for name, _ in request_layout(config) if name != "addr"}
        read = data.StructLayout({name: value.shape() for name, value in kept.items()}
                                 | {"nibbles": data.ArrayLayout(4, config.window)})
        m.submodules.queue = queue = fifo.SyncFIFO(width=read.size, depth=config.fetch_depth)
        written, head = Signal(read), data.View(read, queue.r_data)
        for stage in range(READ_CYCLES):
            later = {name: Signal.like(value, name=f"{name}{stage}", reset_less=True) for name, value in kept.items()}
            m.d.sync += [later[name].eq(value) for name, value in kept.items()]
            kept = later
        m.d.comb += [written[name].eq(value) for name, value in kept.items()]
        m.d.comb += [
            written.nibbles.as_value().eq(self.memory.data.as_value()),
            queue.w_data.eq(written),
            queue.w_en.eq(self.memory.valid),
        ]

        # Slots taken: on their way, queued, or offered.
        taken = Signal(range(config.fetch_depth + 1))
        room = Signal(init=1)
        popped = self.windows.valid & self.windows.ready
        issue = Signal()
        m.d.comb += [
            self.memory.en.eq(self.requests.valid & room),
            self.memory.addr.eq(request.addr),
            issue.eq(self.memory.en & self.memory.ready),
            self.requests.ready.eq(issue),
            self.idle.eq(taken == 0),
        ]
        after = Signal.like(taken)
        m.d.comb += after.eq(taken + issue - popped)
        m.d.sync += [taken.eq(after), room.eq(after != config.fetch_depth)]

        # The window that is offered.
        window = Signal(window_layout(config))
        m.d.comb += [window[name].eq(head[name]) for name, _ in window_layout(config)]
        patterns = upsample_patterns(config)
        if patterns:
            # A tile's pixels, or lines, with their neighbours. What no row needs comes as it is.
            with m.Switch(head.pattern):
                for number, (width, odd) in enumerate(patterns):
                    pixels = range(-1, config.rows + 1) if width > config.rows else range(width)
                    with m.Case(1 + number):
                        for line in range(max(1, config.rows // width) + 2):
                            of_line = 1 + (line + 1 - odd) // 2 * (width // 2)
                            m.d.comb += [window.nibbles[1 + width * line + pixel].eq(
                                head.nibbles[of_line + pixel // 2]) for pixel in pixels]
        offered = Signal(window_layout(config), reset_less=True)
        m.d.comb += [
            queue.r_en.eq(~self.windows.valid | self.windows.ready),
            self.windows.payload.eq(offered),
        ]
        with m.If(queue.r_en):
            m.d.sync += [self.windows.valid.eq(queue.r_rdy), offered.eq(window)]
        return m


class PortArbiter(wiring.Component):
    """Shares one read port among several users; the first that asks wins.

    Parameters
    ----------
    config : Config
    users : int

    Members
    -------
    user : In(read_port_signature) x users
        `data` is common to all, `valid` tells whose it is.
    memory : Out(read_port_signature)
    """

    def __init__(self, config: Config, users: int) -> None:
        self.config = config
        self.users = users
        super().__init__({
            "user": In(read_port_signature(config)).array(users),
            "memory": Out(read_port_signature(config)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        granted = Signal(self.users)
        free = self.memory.ready
        for number, user in enumerate(self.user):
            m.d.comb += [user.ready.eq(free), granted[number].eq(user.en & free), user.data.eq(self.memory.data)]
            free = free & ~user.en
        chosen = self.user[self.users - 1].addr
        for user in reversed(list(self.user)[:-1]):
            chosen = Mux(user.en, user.addr, chosen)
        m.d.comb += [self.memory.addr.eq(chosen), self.memory.en.eq(granted.any())]
        for _ in range(READ_CYCLES):
            later = Signal(self.users)
            m.d.sync += later.eq(granted)
            granted = later
        m.d.comb += [user.valid.eq(granted[number] & self.memory.valid) for number, user in enumerate(self.user)]
        return m
