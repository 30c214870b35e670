"""Listings: readable, exact both ways, and clear about what is wrong."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.program.__main__ import main
from golden.program.assembler import AssemblyError, assemble, disassemble
from golden.program.bundle import Program
from golden.program.descriptor import BYTES, Opcode, encode
from golden.program.document import markdown
from golden.program.pack import Packing
from golden.program.tiler import tile
from hw.config import preset
from sim.stimulus_network import random_case

TINY = replace(preset("tiny"), table_depth=128, act_nibbles=1 << 14)
PACKING = Packing.of(TINY)


def program(seed: int) -> Program:
    rng = np.random.default_rng([seed, 5])
    return tile(random_case(rng, TINY, (2, 4, 6), 5, masks=True).network, TINY)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("packing", [None, PACKING], ids=["bytes", "machine"])
def test_round_trip(seed: int, packing: Packing | None) -> None:
    code = program(seed).code
    assert assemble(disassemble(code, packing=packing)) == code, f"seed {seed}"


@given(st.lists(st.one_of(st.binary(max_size=300), st.builds(bytes, st.integers(0, 300)),
                          st.sampled_from(Opcode).map(encode),
                          st.binary(min_size=BYTES - 1, max_size=BYTES - 1).map(lambda raw: b"\5" + raw))),
       st.one_of(st.none(), st.integers(0, 10)), st.sampled_from([None, PACKING]))
def test_any_bytes_make_a_round_trip(parts: list[bytes], count: int | None, packing: Packing | None) -> None:
    code = b"".join(parts)
    assert assemble(disassemble(code, count, packing)) == code


def test_a_program_is_readable() -> None:
    """No bytes but weights: tables, parameters of all blocks and descriptors are text."""
    made = program(0)
    text = disassemble(made.code, packing=PACKING)
    lines = text.splitlines()
    assert sum(line.split()[0] in [opcode.name.lower() for opcode in Opcode] for line in lines) == made.count
    place = ""
    for line in lines:
        place = line if line.startswith("at ") else place
        if line.startswith("bytes"):
            assert "weights and codes" in place, line
    assert lines[0].startswith("machine cols=4 ")
    assert all(len(line) <= 140 for line in lines)


def test_a_small_listing() -> None:
    text = """; comment
machine cols=4 lanes_per_scale=4 acc_bits=24 act_nibbles=8192 weight_depth=128 scale_depth=32
    label_depth=128 label_slots=4 bus_bits=64
load wait offset=0x10 runs=1        ; comment
    beats=2 steps=0,2-3
conv detect transform=upsample one_tap width=0x3
end steps=none
at 0x180
entry base=1 taps=100_000_001 last
param -1 2 -3
zeros 2
bytes 0102 03
"""
    expected = encode(Opcode.LOAD, wait=1, offset=16, runs=1, beats=2, mask=0b1101)
    expected += encode(Opcode.CONV, detect=1, transform=1, one_tap=1, width=3) + encode(Opcode.END, mask=0)
    expected += (1 | 0x101 << 25 | 1 << 38).to_bytes(8, "little")
    expected += (0xFFFF | 2 << 16 | ((1 << 40) - 3) << 32).to_bytes(16, "little") + bytes([0, 0, 1, 2, 3])
    assert assemble(text) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("bogus 1", "line 1: 'bogus' is no statement; there are end, batch, load, store, conv, elementwise, machine, at"),
    ("\n\nconv widht=3", "line 3: CONV has no field widht; it has mask, detect"),
    ("conv width=4096", "line 1: CONV width=4096 is not legal: it must be from 0 to 4095"),
    ("conv\n    width=3\n    width=4", "line 1: width is given twice"),
    ("conv width=x", "line 1: 'x' is no number"),
    ("conv width=", "line 1: name=value expected, not 'width='"),
    ("conv opcode=3", "line 1: CONV has no field opcode"),
    ("load steps=3-1", "line 1: steps=3-1 is not legal: steps are from 0 to 63"),
    ("load steps=64", "line 1: steps=64 is not legal"),
    ("  width=3", "line 1: an indented line goes on with a statement, and there is none yet"),
    ("end\nat 0x10", "line 2: at 0x10 lies before 0x80, where the listing is already"),
    ("entry base=1", "line 1: entry needs a machine statement before it"),
    ("machine cols=3", "line 1: .*missing 8 required positional arguments"),
    ("bytes 123", "line 1: "),
    ("zeros -1", r"line 1: -1 is not from 0 to 2\*\*32 - 1"),
    ("zeros 1 2", "line 1: one number expected, not 2"),
])
def test_what_cannot_be_assembled(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text)


def test_entries_and_parameters_that_do_not_fit() -> None:
    machine = disassemble(b"", packing=PACKING)
    for text, message in (("entry base=16384", "line 2: table entry: base=16384 does not fit 14 bits"),
                          ("entry bias=1", "line 2: an entry has no bias; it has base"),
                          ("entry taps=2", "line 2: "), ("param 1 2", "line 2: param takes M, R and B, not 2 numbers"),
                          ("param 1 2 99999999999999", "line 2: parameter B=")):
        with pytest.raises(AssemblyError, match=message):
            assemble(machine + text)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = program(1)
    binary, listing, back = tmp_path / "step.bin", tmp_path / "step.txt", tmp_path / "back.bin"
    manifest = tmp_path / "sqdm.json"
    binary.write_bytes(made.code)
    manifest.write_text(json.dumps(TINY.to_json()))
    assert main(["listing", str(binary), "--manifest", str(manifest)]) == 0
    text = capsys.readouterr().out
    assert text == disassemble(made.code, packing=PACKING)
    listing.write_text(text)
    assert main(["assemble", str(listing), "--out", str(back)]) == 0
    assert back.read_bytes() == made.code
    assert main(["fields"]) == 0
    assert capsys.readouterr().out == markdown()
    listing.write_text("end\nconv width=9999\n")
    assert main(["assemble", str(listing), "--out", str(back)]) == 2
    assert capsys.readouterr().err.startswith(f"golden.program: {listing}, line 2: CONV width=9999 is not legal")
    assert main(["listing", str(tmp_path / "none")]) == 2
    assert "none: No such file" in capsys.readouterr().err
    manifest.write_text("{}")
    assert main(["listing", str(binary), "--manifest", str(manifest)]) == 2
    assert "parameters" in capsys.readouterr().err


def test_a_manifest_has_what_the_packing_needs() -> None:
    parameters = TINY.to_json()["parameters"]
    assert Packing(**{item.name: parameters[item.name] for item in fields(Packing)}) == PACKING
