"""The study reads its traces, compares what it runs, and counts the weights that travel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden.layer import compile_layer, place
from golden.study import TraceLayer, read_trace
from hw.config import PRESETS, preset
from sim import study
from sim.beats import ktile_beats

BUILD = Path(__file__).parent.parent / "build"


@pytest.mark.parametrize("trace", study.TRACES)
def test_traces_hold_all_layers_of_six_steps(trace):
    layers = list(read_trace(study.DATA / f"trace_{trace}.npz"))
    assert list(dict.fromkeys(layer.step for layer in layers)) == [0, 3, 7, 10, 14, 17]
    assert len({layer.name for layer in layers}) == 12 == len(layers) / 6
    zeros = 1 - np.average([layer.nonzero.mean() for layer in layers],
                           weights=[layer.nonzero.size * layer.outputs for layer in layers])
    assert 0.55 < zeros < 0.75
    (chosen,) = [layer for layer in read_trace(study.DATA / f"trace_{trace}.npz", [10]) if layer.name == "down"]
    assert (chosen.step, chosen.nonzero.shape, chosen.outputs) == (10, (128, 10, 4, 4), 64)


@pytest.mark.parametrize("shape", study.SHAPES)
def test_weight_beats_are_those_that_the_driver_sends(shape):
    config = replace(preset("default"), rows=shape[0], cols=shape[1])
    for layer in read_trace(study.DATA / "trace_pre.npz", [0]):
        if layer.name not in ("down", "u1.conv0"):
            continue
        real = study.trace_layer(replace(layer, nonzero=layer.nonzero[:, :1]))
        image = compile_layer(real, config, place(real, config))
        assert study.weight_beats(config, layer) == len(ktile_beats(config, image)[0])


def small_trace(path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((1, 4, 8, 4, 4)) < rng.random((8, 1, 1))
    for trace in study.TRACES:
        np.savez(path / f"trace_{trace}.npz", **{
            "steps": [5], "mask/e1.conv0": np.packbits(mask), "mask_shape/e1.conv0": mask.shape})


@pytest.mark.parametrize("wrong", [False, True])
def test_study_compares_what_it_runs(wrong, tmp_path, monkeypatch, capsys):
    def corrupted(layer, config, placement, memory, golden=study.run):
        expected = golden(layer, config, placement, memory)
        expected[-1] ^= wrong
        return expected

    small_trace(tmp_path)
    monkeypatch.setattr(study, "run", corrupted)
    monkeypatch.setattr(study, "SHAPES", [(4, 4)])
    monkeypatch.setattr(study, "SAMPLE", 0)
    code = study.main(["--preset", "tiny", "--data", str(tmp_path), "--anchor", "--steps", "5", "--out", str(tmp_path),
                       "--build", str(BUILD)])
    report = json.loads((tmp_path / "study.json").read_text())
    assert code == int(wrong)
    assert [row["exact"] for row in report["anchor"]] == [not wrong] * 8
    assert all(row["counters_equal"] and row["bound"] <= row["cycles"] for row in report["anchor"])
    assert {row["machine"] for row in report["anchor"]} == set(study.machines(PRESETS["tiny"]))
    assert len(report["model"]) == 2 * 3 * 4
    assert all(row["speedup"] == 1 for row in report["model"] if row["machine"] == study.BASELINE)
    assert ("WRONG" in capsys.readouterr().out) == wrong


def test_baseline_knows_no_zeros():
    nonzero = np.zeros((8, 1, 4, 4), bool)
    nonzero[:2] = True
    layer = TraceLayer("mostly dead", 0, nonzero, np.full(8, 0b111_111_111), 4)
    rows = {row["machine"]: row for row in
            study.model_rows("none", [layer], replace(PRESETS["tiny"], dense_taps=1), "borders")}
    assert rows[study.BASELINE]["bound"] == 4 * 4 // 4 * 8 * 9 // 2
    assert rows["2 sparse"]["bound"] == 10 * 10 // 4
