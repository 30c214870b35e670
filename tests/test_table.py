"""The table of the presets' costs: what is done is kept, what fails is noted, and the figures come out as they are."""

import json
from types import SimpleNamespace

import pytest

from hw.config import PRESETS
from hw.gen import convert
from synth import area as area_module
from synth import table
from synth.area import AreaError, figures
from synth.table import Results, device_for, main, markdown
from synth.targets import PLAIN, TARGETS, target
from tests.test_synth import LIBRARY

TINY = PRESETS["tiny"]


def test_figures_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    emitted = convert("weight_halves", TINY)
    runs = []
    synthesise = area_module.synthesise
    monkeypatch.setattr(area_module, "synthesise", lambda *arguments: runs.append(1) or synthesise(*arguments))

    def get(kind=TARGETS["ecp5"]):
        return figures(emitted, "weight_halves", TINY, kind, tmp_path, PLAIN)

    first = get()
    assert get() == first and len(runs) == 1
    assert (first["counts"]["FF"], first["multipliers"], first["lost"]) == (5, 0, {})

    (path,) = tmp_path.glob("*.json")
    for key in ("tool", "verilog", "script"):       # of something else, though the name is the same
        path.write_text(json.dumps(first | {key: "other", "counts": {}}))
        assert get() == first
    path.write_text("{")
    assert get() == first and len(runs) == 5

    library = tmp_path / "toy.lib"
    library.write_text(LIBRARY)
    assert get(target("liberty", [library]))["area"] == get(target("liberty", [library]))["area"] > 40
    assert len(runs) == 6
    library.write_text(LIBRARY.replace("area : 8", "area : 80"))
    assert get(target("liberty", [library]))["area"] > 400

    path.write_text(json.dumps(first | {"lost": {"x.memory": 5000}}))
    with pytest.raises(AreaError, match=r"became flip-flops: x.memory \(5000 bits\)"):
        get()


def entry(preset, block, kind="ecp5", **changes):
    found = {"preset": preset, "block": block, "target": kind, "library": None, "tool": "Yosys 1", "multipliers": 100,
             "counts": {"LUT4": 3000, "DP16KD": 5}, "lut_equivalents": 4000, "per_mac": 40.0}
    return found | changes


def test_the_smallest_device_is_taken():
    assert device_for(entry("tiny", "accelerator", lut_equivalents=24288)) == "25"
    assert device_for(entry("tiny", "accelerator", lut_equivalents=24289)) == "45"
    assert device_for(entry("tiny", "accelerator", counts={"DP16KD": 109})) == "85"
    assert device_for(entry("tiny", "accelerator", counts={"DP16KD": 209})) is None
    assert device_for(None) == "85"


def test_the_tables_say_what_was_found():
    results = Results([entry("ecp5", "dense"), entry("ecp5", "sparse", per_mac=80.0),
                       entry("ecp5", "fp16", per_mac=900.0),
                       entry("ecp5", "sparse", "liberty", library="toy.lib", area=1234.5, per_mac=12.3)],
                      [{"preset": "ecp5", "device": "85", "speed": "6", "fmax": {"1": 81.26, "2": 79.0, "3": 80.0},
                        "utilisation": {"TRELLIS_COMB": (70000, 83640)}},
                       {"preset": "edm", "reason": "not tried: it is large"}])
    lines = list(markdown(results))
    assert "| ecp5 | ecp5 | 40.0 | 80.0 | 900.0 | 22.50 | 11.25 |" in lines
    assert "| liberty | ecp5 |  | 12.3 |  |  |  |" in lines
    assert "**liberty**, Yosys 1, toy.lib, hierarchy kept, no DSPs" in lines
    assert "| ecp5 | sparse | 100 | 1,234 | 12.3 | 3,000 | 5 |" in lines
    assert "| ecp5 | 85F, speed grade 6 | **81.3**, 79.0, 80.0 | 70,000 of 83,640 |  |" in lines
    assert "| edm |  | not tried: it is large |  |  |" in lines
    assert "| dense array of `ecp5` | INT4 | ECP5 | 40.0 | 81.3 MHz, whole design |" in lines


def test_arrays_are_read_out_of_the_accelerator(tmp_path, monkeypatch, capsys):
    asked = []
    levels = [{"name": name, "instances": 2, "counts": {"LUT4": 2000, "DP16KD": 4}, "lut_equivalents": 2400}
              for name in ("sqdm_engine_dense", "sqdm_engine_dense_row")]

    def found(emitted, block, config, kind, build, effort):
        asked.append(block)
        return entry(config.name, block, kind.name) | {"hierarchy": levels}

    monkeypatch.setattr(table, "figures", found)
    monkeypatch.setattr(table, "convert", lambda *arguments: None)
    arguments = ["--presets", "tiny", "--targets", "ecp5", "--seeds", "0", "--build", str(tmp_path)]
    assert main([*arguments, "--blocks", "accelerator", "dense", "sparse"]) == 0
    assert asked == ["accelerator", "sparse"]       # in these levels is no sparse array
    dense = json.loads((tmp_path / "table.json").read_text())["areas"][1]
    assert dense == entry("tiny", "dense") | {"multipliers": 48, "counts": {"LUT4": 1000, "DP16KD": 2},
                                              "lut_equivalents": 1200, "per_mac": 25.0}
    assert main([*arguments, "--blocks", "dense"]) == 0 and asked[2:] == ["dense"]


@pytest.mark.soak
def test_an_array_costs_the_same_alone_and_in_the_accelerator(tmp_path):
    arguments = ["--presets", "tiny", "--targets", "xc7", "--seeds", "0", "--build", str(tmp_path), "--blocks"]
    assert main([*arguments, "accelerator", "dense", "sparse"]) == 0
    inside = json.loads((tmp_path / "table.json").read_text())["areas"][1:]
    assert main([*arguments, "dense", "sparse"]) == 0
    for array, alone in zip(inside, json.loads((tmp_path / "table.json").read_text())["areas"], strict=True):
        assert array.keys() == alone.keys() and array["block"] == alone["block"]
        assert array["lut_equivalents"] == pytest.approx(alone["lut_equivalents"], rel=0.01)
        assert array["counts"]["FF"] == alone["counts"]["FF"]


def test_a_failure_is_noted_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    asked = []

    def found(emitted, block, config, kind, build, effort):
        asked.append((config.name, block, kind.name))
        if block == "sparse":
            raise AreaError("memories became flip-flops")
        return entry(config.name, block, kind.name) | {"cells": {}, "hierarchy": []}

    monkeypatch.setattr(table, "figures", found)
    monkeypatch.setattr(table, "convert", lambda *arguments: None)
    monkeypatch.setattr(table.pnr, "place_and_route", lambda *arguments, device, seeds: SimpleNamespace(
        to_json=lambda: {"device": device, "speed": "6", "fmax": dict.fromkeys(seeds, 50.0), "utilisation": {}}))
    assert main(["--presets", "ecp5", "tiny", "--targets", "xc7", "ecp5", "--build", str(tmp_path)]) == 1
    assert asked[:3] == [("tiny", "accelerator", "xc7"), ("tiny", "accelerator", "ecp5"), ("tiny", "dense", "xc7")]
    assert ("tiny", "fp16", "ecp5") in asked and ("tiny", "fp16", "xc7") not in asked
    assert "failed: sparse of ecp5 for ecp5: memories became flip-flops" in capsys.readouterr().err
    written = json.loads((tmp_path / "table.json").read_text())
    assert len(written["areas"]) == 10 and len(written["failed"]) == 4
    assert written["clocks"][0] == {"preset": "tiny", "device": "25", "speed": "6", "utilisation": {},
                                    "fmax": {"1": 50.0, "2": 50.0, "3": 50.0}}
    assert "cells" not in written["areas"][0]
    assert (tmp_path / "table.md").read_text().startswith("**xc7**, Yosys 1, hierarchy kept, no DSPs\n")

    assert main(["--seeds", "-1", "--build", str(tmp_path)]) == 2
    assert main(["--targets", "liberty", "--build", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "seeds=-1 is not legal: it must be 0 or more" in errors and "target=liberty needs --liberty FILE" in errors
