"""The accelerator's registers: their description for a configuration, the block, and the files for software."""

import re
import tempfile
from pathlib import Path

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_ipxact import IPXACTExporter
from peakrdl_markdown import MarkdownExporter
from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode

from .axi import lite_signature
from .config import Config
from .csr import RegisterBlock
from .interfaces import STEP_BITS, label_layout, policy_layout

__all__ = ["COUNTERS", "DESCRIPTOR_BITS", "ERROR_BITS", "Registers", "compile_registers", "label_write_layout",
           "register_files", "write_html"]

COUNTERS = 128  # 6, and 7 for each of at most 16 arrays
ERROR_BITS = 8
DESCRIPTOR_BITS = 24
SIZE_BITS = 32
FILES = "sqdm_regs"
REGION_BITS = 12    # regions begin at multiples of 4 KiB
DESCRIPTION = Path(__file__).with_name("sqdm.rdl")


def compile_registers(config: Config) -> AddrmapNode:
    """The registers of a configuration: `hw/sqdm.rdl` with its parameters filled in.

    A parameter has the name of a property of Config, or that and `_log2`.
    """
    compiler = RDLCompiler()
    compiler.compile_file(str(DESCRIPTION))
    values = {}
    for name in re.findall(r"longint unsigned (\w+)", DESCRIPTION.read_text()):
        value = getattr(config, name.removesuffix("_log2"))
        values[name] = value.bit_length() - 1 if name.endswith("_log2") else value
    top = compiler.elaborate(parameters=values).top
    assert isinstance(top, AddrmapNode)
    return top


def label_write_layout(config: Config) -> data.StructLayout:
    """A label that software writes.

    Members
    -------
    label : label_layout
    index, slot : label_bits, slot_bits
    """
    return data.StructLayout({"label": label_layout(), "index": config.label_bits, "slot": config.slot_bits})


def register_files(config: Config) -> dict[str, str]:
    """What software needs to know of the registers, as texts by file name.

    Returns
    -------
    dict of str to str
        `sqdm_regs.h`, a C header with addresses, masks and the names of errors; `sqdm_regs.md`, the documentation;
        `sqdm_regs.xml`, IP-XACT (IEEE 1685-2014).
    """
    top = compile_registers(config)
    with tempfile.TemporaryDirectory() as folder:
        header, markdown, ipxact = (Path(folder) / f"{FILES}.{suffix}" for suffix in ("h", "md", "xml"))
        CHeaderExporter().export(top, str(header), reuse_typedefs=False)
        MarkdownExporter().export(top, str(markdown))
        IPXACTExporter(vendor="sqdm", library="sqdm", version="1.0").export(top, str(ipxact))
        texts = {path.name: path.read_text(encoding="utf-8") for path in (header, markdown, ipxact)}
    # The exporter leaves out the names of a field's values.
    head, include, rest = texts[header.name].partition("#include <assert.h>\n")
    texts[header.name] = head + include + _value_names(top) + rest
    return texts


def _value_names(top: AddrmapNode) -> str:
    """C definitions of the names of values, for the fields that have such names."""
    lines = []
    for register in top.registers(unroll=False):
        for field in register.fields():
            for value in field.get_property("encode") or ():
                name = f"{top.inst_name}__{register.inst_name}__{field.inst_name}__{value.name}".upper()
                lines.append(f"#define {name} {value.value}\n")
    return "".join(["\n// Values of fields\n", *lines])


def write_html(config: Config, folder: Path | str) -> None:
    """Write the documentation of the registers as a web page into a folder; needs `peakrdl-html`."""
    from peakrdl_html import HTMLExporter  # an optional dependency
    # The time of the build would make every one differ.
    HTMLExporter(user_context={"build_ts": 0}).export(compile_registers(config), str(folder))


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

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        m.submodules.block = block = RegisterBlock(compile_registers(self.config))
        connect(m, flipped(self.axi), block.axi)
        labels = self.labels.payload
        m.d.comb += [
            self.irq.eq(block.irq),
            self.start.eq(block.control_start & self.ready & ~block.control_soft_reset),
            self.soft_reset.eq(block.control_soft_reset),
            self.clear_counters.eq(block.control_clear_counters),
            self.program_base.eq(block.program_base_address << REGION_BITS),
            self.data_base.eq(block.data_base_address << REGION_BITS),
            self.program_size.eq(block.program_size),
            self.data_size.eq(block.data_size),
            self.program_count.eq(block.program_count),
            self.time_step.eq(block.time_step),
            self.watchdog.eq(block.watchdog),
            self.policy.refresh.eq(block.policy_refresh),
            self.policy.n.eq(block.policy_n),
            self.policy.mask.eq(block.policy_mask),

            block.status_busy.eq(self.busy),
            block.status_ready.eq(self.ready),
            block.status_label_pending.eq(self.labels.valid),
            block.irq_status_start_ignored_set.eq(block.control_start & ~self.start),
            block.error_code.eq(self.error_code),
            block.error_descriptor.eq(self.error_descriptor),
            block.error_address.eq(self.error_address),
            block.error_address_we.eq(self.error),
            block.error_address_clear.eq(self.start),

            self.label_index.eq(block.label_address_index),
            self.label_slot.eq(block.label_address_slot),
            block.label_data_data.eq(self.label),
            block.label_data_refuse.eq(self.labels.valid),
            self.counter_index.eq(block.counter_index),
            block.counter_data.eq(self.counter),
        ]
        for name, happened in (("done", self.done), ("error", self.error)):
            m.d.comb += [
                getattr(block, f"status_{name}_set").eq(happened),
                getattr(block, f"status_{name}_clear").eq(self.start | self.soft_reset),
                getattr(block, f"irq_status_{name}_set").eq(happened),
            ]
        for name in ("code", "descriptor"):
            m.d.comb += [
                getattr(block, f"error_{name}_we").eq(self.error),
                getattr(block, f"error_{name}_clear").eq(self.start),
            ]

        # A label keeps the address that it was written for.
        with m.If(block.label_data_write):
            m.d.sync += [
                self.labels.valid.eq(1),
                labels.label.eq(block.label_data_write_data),
                labels.index.eq(self.label_index),
                labels.slot.eq(self.label_slot),
            ]
        with m.Elif(self.labels.ready):
            m.d.sync += self.labels.valid.eq(0)
        return m
