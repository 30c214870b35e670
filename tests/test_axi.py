"""DMAs, registers and counters: their benches pass and turn red on faults, and the files agree with the registers."""

import gc
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hw import registers
from hw.axi import LITE_ADDR_BITS
from hw.config import PRESETS, ConfigError
from hw.counters import Counters
from hw.registers import COUNTERS, compile_registers, register_files, write_html
from sim.benches import BENCHES, Bench
from sim.toolchain import fast_compiler
from tests.fifo import BUILD
from tests.test_mutations import Mutant, check_turns_red

SEED = 1
TINY = PRESETS["tiny"]
BLOCKS = ("counters", "dma_read", "dma_write", "registers")
QUICK = "icarus" if shutil.which("iverilog") else "verilator"
# One simulator each, to save time; `make sim` runs all. Icarus, where it is meant to run, knows unknown values.
RUNS = [pytest.param(bench, QUICK if QUICK in bench.simulators else "verilator", id=bench.name)
        for bench in BENCHES if bench.block in BLOCKS]


@dataclass(frozen=True)
class Fault(Mutant):
    """A fault, and the bench's test that must fail."""

    test: str


def _fault(test: str, bench: str, module: str, what: str, old: str, new: str) -> Fault:
    return Fault(what, bench, module, old, new, test)


FAULTS = [
    _fault("beats_in_order.*0.0.*0.0", "dma_read-64", "bursts", "a burst crosses 4 KiB",
           "Mux(final, end, config.axi_burst - 1) - address[:block_bits]", "Mux(final, end, config.axi_burst - 1)"),
    _fault("the_longest", "dma_read-64", "bursts", "the longest command is cut off",
           "some.eq(command.beats != 0)", "some.eq(command.beats[:-1] != 0)"),
    _fault("flush", "dma_read-64", "bursts", "a flush keeps the rest of a command",
           "m.d.sync += [waits.eq(0), busy.eq(0)]", "m.d.sync += waits.eq(0)"),
    _fault("flush", "dma_read-64", "dma_read", "a flush withdraws a request",
           "with m.If(free):", "with m.If(free | self.flush):"),
    _fault("beats_in_order.*0.0.*0.0", "dma_read-64", "dma_read", "one burst too many is outstanding",
           "depth=config.axi_outstanding)", "depth=config.axi_outstanding + 1)"),
    _fault("beats_in_order.*0.0.*0.0", "dma_read-64", "dma_read", "every burst ends its command",
           "axi.rlast & head.final", "axi.rlast"),
    _fault("outputs_depend", "dma_read-64", "dma_read", "rready depends on rvalid",
           "axi.rready.eq(buffer.w_rdy)", "axi.rready.eq(buffer.w_rdy & axi.rvalid)"),
    _fault("one_beat.*30", "dma_read-64", "dma_read", "requests do not run ahead",
           "free & outstanding.w_rdy", "free & ~outstanding.r_rdy"),

    _fault("flush", "dma_write-64", "dma_write", "a flush writes what was announced",
           "Mux(self.flush, 0, ~0)", "~0"),
    _fault("flush", "dma_write-64", "dma_write", "a flush waits for data",
           "(self.beats.valid | self.flush)", "self.beats.valid"),
    _fault("beats_land.*0.0.*0.5", "dma_write-64", "dma_write", "writing is over before its responses",
           "splitter.idle & ~outstanding.r_rdy", "splitter.idle & ~lengths.r_rdy"),
    _fault("a_failed", "dma_write-64", "dma_write", "a decoding error of a write passes",
           "axi.bresp != OKAY", "axi.bresp == 2"),
    _fault("data_do_not", "dma_write-64", "dma_write", "data wait for the address",
           "send = wfree & lengths.r_rdy", "send = wfree & ~axi.awvalid & lengths.r_rdy"),
    _fault("beats_land.*0.5.*0.5", "dma_write-64", "dma_write", "a beat changes before it is taken",
           "with m.If(send):", "with m.If(send | self.beats.valid):"),

    _fault("words_keep", "registers-32", "csr", "strobes are ignored",
           "strobe.replicate(8) for strobe in strobes", "(strobe | 1).replicate(8) for strobe in strobes"),
    _fault("settings_cannot", "registers-32", "csr", "a refused write happens",
           "with m.If(hit & ~refuse):", "with m.If(hit):"),
    _fault("a_wide", "registers-32", "csr", "the high word is not kept",
           "Mux(word[0], high, value[:WORD_BITS])", "value.word_select(word[0], WORD_BITS)"),
    _fault("a_start", "registers-32", "registers", "a start is taken while not ready",
           "block.control_start & self.ready &", "block.control_start &"),
    _fault("labels", "registers-32", "registers", "a pending label is overwritten",
           "block.label_data_refuse.eq(self.labels.valid)", "block.label_data_refuse.eq(0)"),
    _fault("an_error", "registers-32", "registers", "the address of an error is not kept",
           "block.error_address_we.eq(self.error)", "block.error_address_we.eq(1)"),

    _fault("every_event", "counters", "counters", "an accumulator overflows",
           "range(round_cycles * most + 1)", "range(round_cycles * most)"),
    _fault("every_event", "counters", "counters", "a clear leaves the memory", "left.eq(round_cycles)", "left.eq(0)"),
    _fault("every_event", "counters", "counters", "it settles a cycle too early", "(added == 0) & ", ""),
    _fault("reset_clears", "counters", "counters", "a reset leaves the memory", "init=round_cycles)", "init=0)"),
]


@pytest.mark.parametrize(("bench", "simulator"), RUNS)
def test_bench_passes(bench: Bench, simulator: str) -> None:
    bench.run(SEED, simulator, build_dir=BUILD).require()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what.replace(" ", "-"))
def test_fault_turns_its_bench_red(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    check_turns_red(fault, fault.test, monkeypatch)


def test_the_bench_turns_red_on_a_wrong_description(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = registers.DESCRIPTION.read_text()
    assert text.count("value[23:0] = 0;") == 1
    wrong = tmp_path / "sqdm.rdl"
    wrong.write_text(text.replace("value[23:0] = 0;", "value[22:0] = 0;"))
    monkeypatch.setattr(registers, "DESCRIPTION", wrong)
    bench = next(bench for bench in BENCHES if bench.name == "registers-64")
    outcome = replace(bench, name="registers-64-wrong").run(SEED, QUICK, build_dir=BUILD)
    assert any("word 0x78" in reason for reason in outcome.failed.values()), outcome.failed


@pytest.mark.parametrize("name", PRESETS)
def test_the_description_holds_every_preset(name: str) -> None:
    top = compile_registers(PRESETS[name])
    words = {register.inst_name: register for register in top.registers(unroll=False)}
    fields = [field for register in words.values() for field in register.fields()]
    resets = {field.get_path(): field.get_property("reset") for field in fields}
    assert top.size <= 1 << LITE_ADDR_BITS
    assert resets["sqdm.CONFIG_HASH.value"] == PRESETS[name].config_hash
    assert resets["sqdm.CONFIG2.act_nibbles_log2"] == PRESETS[name].addr_bits
    assert words["COUNTER"].n_elements == COUNTERS
    for register in words.values():
        assert register.get_property("desc") and register.get_property("name")
    for field in fields:
        assert field.get_property("desc"), f"{field.get_path()} is not described"


def test_configurations_differ_in_their_hash_and_names_do_not_count() -> None:
    assert replace(TINY, name="other").config_hash == TINY.config_hash
    changed = [replace(TINY, rows=5), replace(TINY, axi_burst=32), replace(TINY, samples=16), PRESETS["default"]]
    assert len({config.config_hash for config in [TINY, *changed]}) == 1 + len(changed)
    assert TINY.to_json()["config_hash"] == TINY.config_hash


def test_the_files_are_the_same_every_time_and_well_formed(tmp_path: Path) -> None:
    files = register_files(TINY)
    assert list(files) == ["sqdm_regs.h", "sqdm_regs.md", "sqdm_regs.xml"]
    program = "from hw.config import PRESETS; from hw.registers import *; import sys\n" \
              "sys.stdout.write(''.join(register_files(PRESETS['tiny']).values()))"
    root = Path(__file__).parents[1]
    again = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert again.stdout == "".join(files.values())
    assert "/tmp" not in again.stdout and str(root) not in again.stdout

    space = {"x": "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"}
    found = {register.findtext("x:name", namespaces=space): register.findtext("x:addressOffset", namespaces=space)
             for register in ElementTree.fromstring(files["sqdm_regs.xml"]).iter(f"{{{space['x']}}}register")}
    assert found["STATUS"] == "'h44" and found["COUNTER"] == "'h400"
    for word in ("### PROGRAM_BASE register", "#### soft_reset field", "start_ignored"):
        assert word in files["sqdm_regs.md"]


def test_the_header_compiles_and_has_the_addresses(tmp_path: Path) -> None:
    (tmp_path / "sqdm_regs.h").write_text(register_files(TINY)["sqdm_regs.h"])
    source = tmp_path / "main.cpp"
    source.write_text("""
        #include <cstddef>
        #include <cstdio>
        #include "sqdm_regs.h"
        int main() {
            std::printf("%x %zx %zx %zx %d", SQDM__ID__VALUE_reset, offsetof(sqdm_t, CONTROL),
                        offsetof(sqdm_t, PROGRAM_BASE), offsetof(sqdm_t, COUNTER), SQDM__ERROR__CODE__WATCHDOG);
        }""")
    subprocess.run([*fast_compiler().command, "-Wall", "-Werror", source, "-o", tmp_path / "main"], check=True)
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    assert printed == "5351444d 40 60 400 11"


def test_the_web_page_is_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("peakrdl_html")
    for name in ("one", "two"):
        write_html(TINY, tmp_path / name)
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file())
             for name in ("one", "two")]
    assert files[0] == files[1] and Path("index.html") in files[0]
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files[0])


@pytest.mark.parametrize(("changes", "message"), [
    ({"axi_addr_bits": 31}, r"axi_addr_bits=31 is not legal: it must be from 32 to 64"),
    ({"axi_burst": 48}, r"axi_burst=48 is not legal: it must be a power of two from 1 to 256"),
    ({"axi_burst": 512}, r"axi_burst=512 is not legal: it must be a power of two from 1 to 256"),
    ({"axi_outstanding": 0}, r"axi_outstanding=0 is not legal: it must be from 1 to 16"),
])
def test_illegal_ports_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_illegal_counters_are_refused() -> None:
    with pytest.raises(ValueError, match="33 counters are not legal: there must be from 1 to 32"):
        Counters({f"event{number}": 1 for number in range(33)})
    with pytest.raises(ValueError, match="nothing=0 is not legal: a counter must count at least 1"):
        Counters({"nothing": 0})
    gc.collect()    # while the warning of hardware that is not used is off
