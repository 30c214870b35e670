"""The accelerator's registers: their description for a configuration, the block, and the files for software."""

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode

from .axi import lite_signature
from .config import Config
from .csr import RegisterBlock
from .interfaces import STEP_BITS, label_layout, policy_layout

__all__ = ["COUNTERS", "DESCRIPTOR_BITS", "ERROR_BITS", "Registers", "compile_registers", "label_write_layout"]

COUNTERS = 32
ERROR_BITS = 8
DESCRIPTOR_BITS = 24
SIZE_BITS = 32


def label_write_layout(config: Config) -> data.StructLayout:
    """A label that software writes.

    Members
    -------
    label : label_layout
    index, slot : label_bits, slot_bits
    """
    return data.StructLayout({"label": label_layout(), "index": config.label_bits, "slot": config.slot_bits})


class Registers(wiring.Component):
    """The accelerator's registers; `hw/sqdm.rdl` says what each is for.

    Members
    -------
    axi : In(lite_signature)
    irq : Out(1)
        Level.
    start, soft_reset, clear_counters : Out(1)
        One cycle each. `start` comes only while `ready`, and never beside `soft_reset`.
    program_base, data_base : Out(axi_addr_bits)
        Byte addresses, multiples of 4 KiB. They and the settings below do not change while `busy`.
    program_size, data_size : Out(32)
        Bytes.
    program_count : Out(24)
        Descriptors.
    time_step : Out(6)
    watchdog : Out(32)
        Cycles without progress; 0 means off.
    policy : Out(policy_layout)
    busy : In(1)
        A run is under way or being ended. To be high from the cycle after `start` on.
    ready : In(1)
        A start would be taken. To be low from the cycle after `start` on.
    done : In(1)
        One cycle: the run reached its END.
    error : In(1)
        One cycle: the run ended with an error, which the next three tell in that cycle.
    error_code : In(8), error_descriptor : In(24), error_address : In(axi_addr_bits)
    label_index, label_slot : Out(label_bits, slot_bits), label : In(label_layout)
        The label asked for in the last cycle, as the engine gives it.
    labels : Out(stream of label_write_layout)
        Labels that software writes.
    counter_index : Out(5), counter : In(64)
        The counter asked for in the last cycle.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "axi": In(lite_signature()),
            "irq": Out(1),
            "start": Out(1),
            "soft_reset": Out(1),
            "clear_counters": Out(1),
            "program_base": Out(config.axi_addr_bits),
            "data_base": Out(config.axi_addr_bits),
            "program_size": Out(SIZE_BITS),
            "data_size": Out(SIZE_BITS),
            "program_count": Out(DESCRIPTOR_BITS),
            "time_step": Out(STEP_BITS),
            "watchdog": Out(32),
            "policy": Out(policy_layout()),
            "busy": In(1),
            "ready": In(1),
            "done": In(1),
            "error": In(1),
            "error_code": In(ERROR_BITS),
            "error_descriptor": In(DESCRIPTOR_BITS),
            "error_address": In(config.axi_addr_bits),
            "label_index": Out(config.label_bits),
            "label_slot": Out(config.slot_bits),
            "label": In(label_layout()),
            "labels": Out(stream.Signature(label_write_layout(config))),
            "counter_index": Out(range(COUNTERS)),
            "counter": In(64),
        })
