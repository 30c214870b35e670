"""The demo draws on the RTL what the golden model draws, and notices if it does not. Small arrays, 16 channels."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from golden.workload.layers import Workload
from golden.workload.sample import step_program
from golden.workload.sampler import initial_noise
from hw.config import preset
from hw.gen import convert
from sim.accelerator import SimBackend
from sim.baseline import dense_cycles
from sim.demo import demo, main
from sim.drawing import Job
from sim.fast import FastSim
from sim.speedup import _speedup, ratios
from sim.speedup import main as speedup
from sqdm import Device
from sqdm.golden_backend import GoldenBackend
from sqdm.registers import Register
from sqdm.sampling import DeviceNetwork

BUILD = Path(__file__).parent.parent / "build"
# 4 x 4 lanes, and memories that are large enough for the network of 16 channels.
CONFIG = replace(preset("tiny"), name="small", act_nibbles=1 << 14, weight_depth=512, scale_depth=128, param_depth=1024,
                 table_depth=256, list_depth=256, label_depth=512, label_slots=32, samples=32)
JOB = Job(CONFIG, Workload(model="digits16", steps=3, sigma_max=10.0), (4, 7), 5, "heun")

converted = cache(convert)      # seconds each


@pytest.fixture(autouse=True)
def verilog_once(monkeypatch):
    monkeypatch.setattr("sim.demo.convert", converted)


def test_images_of_rtl_and_golden_model_are_equal(tmp_path, capsys):
    assert demo(JOB, tmp_path, BUILD) == 0
    out = capsys.readouterr().out
    assert "5 of 5 evaluations exact, outputs and labels; images of RTL and golden model equal bit for bit" in out
    assert "DIFFER" not in out
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"demo.json", "samples.npz", "samples.png", "sqdm.json", "sqdm.v", "zeros.png", "zeros.md",
                       "labels.png", "labels.csv"}
    for name in ("samples.png", "zeros.png", "labels.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["classes"].tolist() == [4, 7]
        assert archive["rtl"].shape == archive["float"].shape == (2, 8, 8)
        np.testing.assert_array_equal(archive["rtl"], archive["golden"])
        assert archive["rtl"].std() > 1

    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["configuration"]["parameters"]["rows"] == 4
    assert report["verilog_sha256"] == json.loads((tmp_path / "sqdm.json").read_text())["sha256"]
    assert [done["step"] for done in report["evaluations"]] == [0, 1, 1, 2, 2]
    assert report["cycles"] == sum(done["counters"]["run"] for done in report["evaluations"])
    assert report["dense_cycles"] % 5 == 0
    assert report["speedup"] == round(report["dense_cycles"] / report["cycles"], 3)
    assert (report["exact"], report["images_equal"], len(report["psnr_db"])) == (True, True, 2)
    for done in report["evaluations"]:
        assert done["counters"]["layers"] > 16
        assert 0.3 < done["zeros"]["u1.conv0"] < 1
        assert sum(done["labels"]["h0"].values()) == 16
        assert min(done["labels"]["h0"]["dense"], done["labels"]["h0"]["sparse"]) > 0


    zeros = (tmp_path / "zeros.md").read_text().splitlines()
    assert zeros[0] == "| zeros, % | 0 | 1 | 2 | mean |"
    assert [line.split(" | ")[0] for line in zeros[2:]] == [f"| {name}" for name in (*report["evaluations"][0]["zeros"],
                                                                                    "mean")]
    shares = [report["evaluations"][number]["zeros"]["up"] for number in (0, 1, 3)]
    up = "| up | " + " | ".join(f"{100 * share:.0f}" for share in (*shares, sum(shares) / 3)) + " |"
    assert up in zeros
    first = report["evaluations"][0]["labels"]["h0"]
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    assert labels[0] == "step,tensor,dense,sparse,dead"
    assert f"0,h0,{first['dense']},{first['sparse']},{first['dead']}" in labels


def test_a_batch_of_two_time_steps_is_the_same_on_the_rtl() -> None:
    mixed = step_program((2, 0), JOB.labels, CONFIG, JOB.workload)
    x = initial_noise(2, 1.0, seed=3)
    emitted = converted("accelerator", CONFIG)
    verilog = emitted.write(BUILD / "mixed")[0]
    with FastSim.build(verilog, emitted.top, BUILD) as sim:
        found, expected = (DeviceNetwork(Device.open(backend), [mixed], config_hash=CONFIG.config_hash)(x, 0)
                           for backend in (SimBackend(sim), GoldenBackend(CONFIG, config_hash=CONFIG.config_hash)))
    np.testing.assert_array_equal(found, expected)
    alone = step_program(2, JOB.labels[:1], CONFIG, JOB.workload)
    single = DeviceNetwork(Device.open(GoldenBackend(CONFIG)), [alone])(x[:, :1], 0)
    np.testing.assert_array_equal(found[:, :1], single)


@pytest.mark.soak
def test_speedup_is_that_of_both_machines_counters(tmp_path, capsys) -> None:
    assert _speedup(JOB, tmp_path, BUILD) == 0
    report = json.loads((tmp_path / "speedup.json").read_text())
    ours, dense = report["heterogeneous"], report["dense"]
    for side in (ours, dense):
        assert side["exact"]
        assert side["cycles"] == sum(counters["run"] for counters in side["counters"])
    assert len(ours["counters"]) == len(dense["counters"]) == 5
    assert report["speedup"] == dense["cycles"] / ours["cycles"]
    # On dense arrays no step is faster than another, and the cycle model knows how long they take.
    predicted = dense_cycles(CONFIG, JOB.labels, JOB.workload)
    for counters in dense["counters"]:
        assert counters["run"] == pytest.approx(predicted, rel=0.01)
    assert "exact" in capsys.readouterr().out


def test_ratios_count_multipliers_of_both_sides() -> None:
    assert ratios(100, 1024, 150, 1536) == (1.5, 2.25)


def test_speedup_refuses_wrong_arguments(capsys) -> None:
    for arguments, message in ((["--preset", "huge"], "preset=huge is not legal"),
                               (["--quantised", "none.npz"], "none.npz: No such file"),
                               (["--steps", "99"], "steps must be at most 64, not 99")):
        assert speedup(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.soak
def test_digits_of_16x16_pixels_are_exact_on_the_default_preset(tmp_path) -> None:
    """Two digits, three steps; the activation memory holds all tensors of a few samples only."""
    job = Job(preset("default"), Workload(model="digits16_16x16", steps=3, sigma_max=10.0), (3, 8), 2, "euler")
    assert demo(job, tmp_path, BUILD) == 0


def test_a_wrong_output_is_reported_and_so_are_the_images(tmp_path, capsys, monkeypatch):
    reads = []

    def corrupted(self, address, size, read=SimBackend.read_memory):
        reads.append(address)
        data = bytearray(read(self, address, size))
        data[len(data) // 2 + 14] ^= 4 if len(reads) == 2 else 0    # high plane, middle of the image: 64 more or less
        return bytes(data)

    monkeypatch.setattr(SimBackend, "read_memory", corrupted)
    assert demo(JOB, tmp_path, BUILD) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT: step 1: 1 of the output's values, 0 labels\n" in out
    assert "of the input's, from steps before" in out       # of the evaluation after it
    assert "evaluations exact, outputs and labels; images of RTL and golden model DIFFER" in out
    report = json.loads((tmp_path / "demo.json").read_text())
    assert (report["exact"], report["images_equal"]) == (False, False)
    assert [done["exact"] for done in report["evaluations"]][:3] == [True, False, False]


def test_wrong_labels_are_reported(tmp_path, capsys, monkeypatch):
    read = []

    def corrupted(self, offset, read32=SimBackend.read32):
        if offset == Register.LABEL_DATA:
            read.append(offset)
            return read32(self, offset) ^ (len(read) == 40)
        return read32(self, offset)

    monkeypatch.setattr(SimBackend, "read32", corrupted)
    assert demo(JOB, tmp_path, BUILD) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT: step 0: 0 of the output's values, 1 labels\n" in out
    assert "4 of 5 evaluations exact, outputs and labels; images of RTL and golden model equal" in out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--preset", "huge"], "preset=huge is not legal: it must be one of default, tiny"),
    (["--classes", "3", "10"], "there are the classes 0 to 9, not 10"),
    (["--steps", "1"], "steps must be at least 2, not 1"),
    (["--steps", "65"], "steps must be at most 64, not 65"),
    (["--sigma-max", "0.001"], "sigma_max must be above 0.002, not 0.001"),
    (["--model", "digits8"], "model=digits8 is not legal: it must be one of digits16"),
    (["--seed", "-1"], "seed must not be negative, as -1 is"),
])
def test_wrong_arguments_are_refused_before_anything_is_built(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_cannot_run_the_network_is_named_at_once(tmp_path, capsys):
    assert main(["--preset", "tiny", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sim.demo: preset tiny cannot run the model digits32 for 10 digits: layer ")
    assert not (tmp_path / "out").exists()


def test_demo_says_that_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo(JOB, tmp_path / "file", BUILD) == 1
    assert "sim.demo: cannot write to " in capsys.readouterr().err
