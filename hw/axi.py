"""Interfaces of the AXI ports. Members are called as in the AXI specification, in lower case."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["CACHE", "INCR", "LITE_ADDR_BITS", "OKAY", "SLVERR", "axi_read_members", "axi_read_signature",
           "axi_write_members", "axi_write_signature", "lite_members", "lite_signature"]

OKAY = 0
SLVERR = 2
INCR = 1                # the only kind of burst that is made
CACHE = 0b0011          # normal memory, not cached: an interconnect may merge, split and buffer bursts
ID_BITS = 1             # all transfers have ID 0, so that data and responses return in order
LITE_ADDR_BITS = 12     # the register block takes 4 KiB


def _address_channel(config: Config, prefix: str) -> dict[str, wiring.Member]:
    return {
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
        f"{prefix}id": Out(ID_BITS),
        f"{prefix}addr": Out(config.axi_addr_bits),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
    }


def axi_read_members(config: Config) -> dict[str, wiring.Member]:
    """The read channels of an AXI4 master, without a prefix: arvalid, araddr, ..., rready."""
    return _address_channel(config, "ar") | {
        "rvalid": In(1),
        "rready": Out(1),
        "rid": In(ID_BITS),
        "rdata": In(config.bus_bits),
        "rresp": In(2),
        "rlast": In(1),
    }


def axi_write_members(config: Config) -> dict[str, wiring.Member]:
    """The write channels of an AXI4 master, without a prefix: awvalid, awaddr, ..., bready."""
    return _address_channel(config, "aw") | {
        "wvalid": Out(1),
        "wready": In(1),
        "wdata": Out(config.bus_bits),
        "wstrb": Out(config.bus_bits // 8),
        "wlast": Out(1),
        "bvalid": In(1),
        "bready": Out(1),
        "bid": In(ID_BITS),
        "bresp": In(2),
    }


def axi_read_signature(config: Config) -> wiring.Signature:
    """AXI4, read channels, as the master sees them."""
    return wiring.Signature(axi_read_members(config))


def axi_write_signature(config: Config) -> wiring.Signature:
    """AXI4, write channels, as the master sees them."""
    return wiring.Signature(axi_write_members(config))


def lite_members() -> dict[str, wiring.Member]:
    """AXI4-Lite with 32 bits of data, as the master sees it, without a prefix."""
    return {
        "awvalid": Out(1),
        "awready": In(1),
        "awaddr": Out(LITE_ADDR_BITS),
        "awprot": Out(3),
        "wvalid": Out(1),
        "wready": In(1),
        "wdata": Out(32),
        "wstrb": Out(4),
        "bvalid": In(1),
        "bready": Out(1),
        "bresp": In(2),
        "arvalid": Out(1),
        "arready": In(1),
        "araddr": Out(LITE_ADDR_BITS),
        "arprot": Out(3),
        "rvalid": In(1),
        "rready": Out(1),
        "rdata": In(32),
        "rresp": In(2),
    }


def lite_signature() -> wiring.Signature:
    """AXI4-Lite with 32 bits of data, as the master sees it."""
    return wiring.Signature(lite_members())
