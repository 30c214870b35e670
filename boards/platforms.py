"""The boards: their pins come from amaranth-boards, their clocks from here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal

from hw.config import Config, ConfigError
from synth.targets import ECP5_GOAL

from .bringup import BringUp

__all__ = ["BOARDS", "Board", "Top", "board"]

PLL_HZ = 800_000_000    # the lowest frequency of the oscillator in an Artix-7's PLL
CLOCK_HZ = 25_000_000


def _own_clock(_m: Module, platform: Any) -> int:
    """The board's clock as it is."""
    return int(platform.default_clk_frequency)


def _divided_clock(m: Module, platform: Any) -> int:
    """25 MHz from a board's clock, by an Artix-7's PLL; reset until it has settled."""
    hertz = int(platform.default_clk_frequency)
    feedback, clock, locked = Signal(), Signal(), Signal()
    m.domains.sync = sync = ClockDomain()
    m.submodules.pll = Instance(
        "PLLE2_BASE", p_CLKIN1_PERIOD=1e9 / hertz, p_CLKFBOUT_MULT=PLL_HZ // hertz, p_DIVCLK_DIVIDE=1,
        p_CLKOUT0_DIVIDE=PLL_HZ // CLOCK_HZ, i_CLKIN1=platform.request(platform.default_clk).i, i_CLKFBIN=feedback,
        o_CLKFBOUT=feedback, i_RST=platform.request(platform.default_rst).i, i_PWRDWN=0, o_CLKOUT0=clock,
        o_LOCKED=locked)
    m.submodules.buffer = Instance("BUFG", i_I=clock, o_O=ClockSignal())
    # The PLL's output is not in step with anything that resets it: two registers.
    for name, source, target in (("settled", locked, settled := Signal()), ("running", settled, running := Signal())):
        m.submodules[name] = Instance("FDRE", p_INIT=0, i_C=ClockSignal(), i_CE=1, i_R=0, i_D=source, o_Q=target)
    m.d.comb += sync.rst.eq(~running)
    return CLOCK_HZ


@dataclass(frozen=True)
class Board:
    """A board.

    Parameters
    ----------
    name, part : str
    platform : callable
        Makes the platform of amaranth-boards.
    clock : callable
        Makes the clock domain `sync` of a module on a platform, and returns its frequency.
    bitstream : bool
        The open tools build it; else there is a project for the vendor's.
    overrides : dict
        Options of amaranth's build.
    """

    name: str
    part: str
    platform: Callable[[], Any]
    clock: Callable[[Module, Any], int]
    bitstream: bool
    overrides: dict[str, str]


def _plain(platform: type) -> Any:
    """The platform without its demand for tools, the programmer's too: `boards.__main__` knows which ones it needs."""
    return type(platform.__name__, (platform,), {"required_tools": []})()


def _ulx3s(size: str) -> Callable[[], Any]:
    def make() -> Any:
        from amaranth_boards import ulx3s
        return _plain(getattr(ulx3s, f"ULX3S_{size}F_Platform"))

    return make


def _arty() -> Any:
    from amaranth_boards.arty_a7 import ArtyA7_100Platform
    return _plain(ArtyA7_100Platform)


_ECP5 = {"script_after_read": ECP5_GOAL, "synth_opts": "-nodsp",
         "nextpnr_opts": "--router router2 --timing-allow-fail --report report.json",
         "ecppack_opts": "--compress"}

BOARDS: dict[str, Board] = {
    "ulx3s-45": Board("ulx3s-45", "LFE5U-45F", _ulx3s("45"), _own_clock, True, _ECP5),
    "ulx3s-85": Board("ulx3s-85", "LFE5U-85F", _ulx3s("85"), _own_clock, True, _ECP5),
    "arty-a7-100": Board("arty-a7-100", "XC7A100T", _arty, _divided_clock, False, {}),
}


def board(name: str) -> Board:
    """Return the board called `name`.

    Raises
    ------
    ConfigError
        There is no such board; the message lists those that exist.
    """
    if name not in BOARDS:
        raise ConfigError(f"board={name} is not legal: it must be one of {', '.join(BOARDS)}")
    return BOARDS[name]


class Top(Elaboratable):
    """The bring-up design on a board: the serial line on its USB adapter, LEDs 0 to 2 alive, busy and error.

    Parameters
    ----------
    board : Board
    config : Config
    baud, memory_bytes : int
        See `BringUp`.
    """

    def __init__(self, board: Board, config: Config, baud: int, memory_bytes: int) -> None:
        self.board, self.config, self.baud, self.memory_bytes = board, config, baud, memory_bytes

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hertz = self.board.clock(m, platform)
        m.submodules.design = design = BringUp(self.config, hertz, self.baud, self.memory_bytes)
        uart = platform.request("uart", 0)
        m.d.comb += [design.rx.eq(uart.rx.i), uart.tx.o.eq(design.tx)]
        for number, light in enumerate((design.alive, design.busy, design.error)):
            m.d.comb += platform.request("led", number).o.eq(light)
        return m
