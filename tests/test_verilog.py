"""Text of the emitted Verilog: identical modules shared, memories cleared by loops."""

import re

import pytest

from hw.config import PRESETS
from hw.gen import convert
from hw.verilog import clear_memories, mend_names, share_modules

TWICE = r"""
module top (clk, \a$1 , \b$2 , y);
  input clk;
  \top.u0  u0 (
    .clk(clk),
    .\x$7 (\a$1 ),
    .y(\y$3 )
  );
  \top.u1  u1 (
    .clk(clk),
    .\x$9 (\b$2 ),
    .y(y)
  );
endmodule

module \top.u0 (clk, \x$7 , y);
  input \x$7 ;
  assign y = \x$7 ;
endmodule

module \top.u1 (clk, \x$9 , y);
  input \x$9 ;
  assign y = \x$9 ;
endmodule
"""


def test_modules_that_differ_in_running_numbers_only_become_one() -> None:
    shared = share_modules(TWICE)
    assert re.findall(r"^module (\S+)", shared, re.MULTILINE) == ["top", "top_u"]
    assert len(re.findall(r"^  top_u u[01] \($", shared, re.MULTILINE)) == 2
    port = re.search(r"^module top_u \(clk, (\S+) , y\)", shared, re.MULTILINE)
    assert port is not None
    assert shared.count(f".{port[1]} (") == 2


def test_modules_that_differ_stay_apart() -> None:
    shared = share_modules(TWICE.replace(r"assign y = \x$9 ;", r"assign y = ~\x$9 ;"))
    assert re.findall(r"^module (\S+)", shared, re.MULTILINE) == ["top", "top_u_2", "top_u"]


@pytest.mark.parametrize("block", ["engine", "sparse", "dense"])
def test_every_row_is_an_instance_of_one_module(block: str) -> None:
    text = convert(block, PRESETS["tiny"]).verilog
    modules = re.findall(r"^module (\S+)", text, re.MULTILINE)
    assert len(modules) == len(set(modules))
    assert sum(name.endswith("_row") for name in modules if "pe_row" not in name) == (2 if block == "engine" else 1)
    instances = re.findall(r"^  (\w+) row\d+ \($", text, re.MULTILINE)
    assert len(instances) == PRESETS["tiny"].rows * (2 if block == "engine" else 1)
    assert set(instances) <= set(modules)


def test_memories_are_cleared_by_a_loop() -> None:
    text = "  reg [7:0] words [15:0];\n  reg [3:0] table [1:0];\n  initial begin\n    table[0] = 4'h1;\n  end\n"
    cleared = clear_memories(text)
    assert "for (words_word = 0; words_word <= 15; words_word = words_word + 1) words[words_word] = 0;" in cleared
    assert "table_word" not in cleared


def test_every_memory_of_the_engine_has_a_value_before_the_reset() -> None:
    text = convert("engine", PRESETS["tiny"]).verilog
    memories = re.findall(r"^  reg [^;=]*\[\d+:0\];$", text, re.MULTILINE)
    assert len(memories) > 10
    assert text.count("  initial for (") == len(memories)


def test_elements_of_an_array_are_no_bits_of_it() -> None:
    assert mend_names(r"  assign \a.b[3].c[0]  = x[7:0];") == r"  assign \a.b.3.c.0  = x[7:0];"
    text = convert("sparse", PRESETS["tiny"]).verilog
    assert not re.search(r"\\\S+\[", text)


def test_combinational_blocks_start_at_time_zero_by_an_event() -> None:
    text = convert("detector", PRESETS["tiny"]).verilog
    assert "  = 0;" not in text
    assert re.search(r"^  initial (\\\S+) <= 0;$", text, re.MULTILINE)
