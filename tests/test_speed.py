"""The measurements measure what they say, and a wrong result does not pass for a fast one. Tiny preset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hw.config import PRESETS, Config
from hw.gen import emit
from sim import measure, speed
from sim.speed import plain_layer

BUILD = Path(__file__).parent.parent / "build"
TINY = PRESETS["tiny"]
DENSE = replace(TINY, sparse=0)


def test_plain_layer_has_no_zero_that_could_be_skipped():
    layer = plain_layer(16, 5, 6, TINY)
    assert layer.in_shape == (16, 1, 6, 6)
    assert layer.weights.shape == (5, 16, 3, 3)
    assert (layer.inputs[0].values != 0).all()
    assert (layer.weights != 0).all()


def test_cycles_are_the_counters_and_all_that_is_beyond_the_ideal_has_a_cause(tmp_path, capsys):
    (measured,) = speed._cycles(DENSE, [(16, 8, 8)], tmp_path, BUILD)
    assert measured.exact
    assert measured.ideal == 64 // 4 * 8 // 4 * 16 * 3
    assert sum(measured.causes.values()) == measured.cycles
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("16 -> 8"))
    assert line.split()[6:8] == [str(measured.cycles), str(measured.ideal)]
    assert line.endswith("yes")


def test_sparse_array_is_measured_on_the_zeros_that_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SIGMA", {(8, 12, 8): (1000,)})
    monkeypatch.setattr(speed, "ZEROS", (0.8,))
    ((measured, loaded, there),) = speed._sparse(replace(TINY, dense=0), tmp_path, BUILD)
    assert measured.exact
    assert 0.7 < measured.zeros < 0.9
    assert measured.ideal < loaded <= measured.cycles == measured.predicted.cycles
    assert there == 1000


def test_functional_lane_is_timed_on_a_result_that_is_compared(tmp_path):
    layer = plain_layer(4, 4, 8, TINY)
    emit(TINY, "engine", out=tmp_path)
    streams, waiting = speed._functional("verilator", layer, TINY, 2, tmp_path, BUILD)
    image_cycles = 64 // 4 * 4 * 3
    assert 2 * image_cycles < waiting.cycles < 4 * image_cycles
    assert streams.cycles > 0
    assert waiting.rate == waiting.cycles / waiting.seconds

    vectors = speed._vectors(layer, TINY, 1)
    assert not np.array_equal(vectors["beats"], np.zeros_like(vectors["beats"]))


def test_functional_lane_fails_on_a_wrong_result(tmp_path, monkeypatch):
    vectors = speed._vectors

    def corrupted(*arguments):
        made = vectors(*arguments)
        made["beats"] = made["beats"] ^ np.uint64(1)
        return made

    monkeypatch.setattr(speed, "_vectors", corrupted)
    emit(TINY, "engine", out=tmp_path)
    with pytest.raises(AssertionError, match="bench failed: speed on verilator"):
        speed._functional("verilator", plain_layer(4, 4, 8, TINY), TINY, 1, tmp_path, BUILD)


@pytest.mark.parametrize("wrong", [False, True])
def test_measurements_end_with_1_when_a_result_differs(wrong, tmp_path, monkeypatch, capsys):
    def corrupted(layer, config, placement, memory, golden=measure.run):
        expected = golden(layer, config, placement, memory)
        expected[0] ^= wrong
        return expected

    monkeypatch.setattr(measure, "run", corrupted)
    monkeypatch.setattr(speed, "_lanes", lambda *_: ([speed.Lane("fast", "runs", 10, 0.5)], {"icarus": "absent"}))
    monkeypatch.setattr(speed, "replace", lambda old, **new: TINY if isinstance(old, Config) else replace(old, **new))
    monkeypatch.setattr(speed, "SIGMA", {(8, 4, 4): (1000,)})
    monkeypatch.setattr(speed, "ZEROS", (0.5,))
    monkeypatch.setattr(speed, "IDEAL_SHAPES", [(8, 4, 4)])
    monkeypatch.setattr(speed, "STONNE", {(8, 4, 8): 1000})
    assert speed.main(["--out", str(tmp_path), "--build", str(BUILD)]) == int(wrong)
    out = capsys.readouterr().out
    assert "skipped: icarus: absent" in out
    assert (tmp_path / "speed.json").exists()
