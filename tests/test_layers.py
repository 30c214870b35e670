"""Single layers: exact runs, a difference that is found, arguments that are refused. Tiny preset."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden.detector import Labels
from golden.formats import S4, U4, Tensor
from golden.layer import LabelPlace, Layer, compile_layer, initial_memory, place
from golden.ppu import PostParams
from golden.report import to_csv, write_whole
from golden.workload.layers import Workload, real_layer
from hw.config import PRESETS
from sim import layers, measure
from sim.measure import Labelled, count_macs, deal, ideal_cycles
from sim.network import LabelTable

BUILD = Path(__file__).parent.parent / "build"
TINY = ["--preset", "tiny", "--model", "digits16", "--samples", "2", "--steps", "9", "--build", str(BUILD)]


def run_layers(out, *arguments):
    return layers.main([*TINY, "--out", str(out), *arguments])


def test_run_runs_a_layer_exactly_and_writes_its_files(tmp_path, capsys):
    assert run_layers(tmp_path, "--layers", "e1.conv0") == 0
    out = capsys.readouterr().out
    assert "1 of 1 layers exact" in out
    assert "DIFFERENT" not in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "layers.csv", "layers.json", "layers.png", "sqdm_engine.json", "sqdm_engine.v"]
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")

    report = json.loads((tmp_path / "layers.json").read_text())
    assert report["configuration"]["parameters"]["rows"] == 4
    assert report["verilog_sha256"] == json.loads((tmp_path / "sqdm_engine.json").read_text())["sha256"]
    (row,) = report["layers"]
    assert (row["layer"], row["step"], row["exact"], row["wrong_nibbles"]) == ("e1.conv0", 9, True, 0)
    assert row["dense_channels"] + row["sparse_channels"] + row["dead_channels"] == 16
    assert min(row["dense_channels"], row["sparse_channels"]) > 0
    assert (row["labels"], row["wrong_labels"]) == ("host", 0)
    assert row["ideal_cycles"] < row["cycles"] == row["predicted_cycles"]
    assert 1 < row["dense_cycles"] / (2 * 64 // 4 * 16 // 4 * 16 * 3 // 2) < 1.1
    causes = ("busy", "fetch", "weights", "drain", "post", "write", "ends")
    assert sum(row[cause] for cause in causes) == row["cycles"]
    assert row["macs"] == 2 * 64 * 16 * 16 * 9
    with open(tmp_path / "layers.csv") as file:
        assert [line["cycles"] for line in csv.DictReader(file)] == [str(row["cycles"])]


def test_run_hands_the_detectors_labels_from_layer_to_layer(tmp_path, capsys):
    assert run_layers(tmp_path, "--layers", "e1.conv1", "e1.conv0") == 0       # in the network's order all the same
    assert "2 of 2 layers exact, memory and labels" in capsys.readouterr().out
    rows = json.loads((tmp_path / "layers.json").read_text())["layers"]
    assert [(row["layer"], row["labels"]) for row in rows] == [("e1.conv0", "host"), ("e1.conv1", "detector")]


def test_run_reports_wrong_labels(tmp_path, capsys, monkeypatch):
    def mislabelled(nonzeros, detection, golden=measure.classify):
        labels = golden(nonzeros, detection)
        labels.sparse[[0, 5]] ^= True
        return labels

    monkeypatch.setattr(measure, "classify", mislabelled)
    assert run_layers(tmp_path, "--layers", "e1.conv0") == 1
    assert "DIFFERENT: e1.conv0 at step 9: 0 of 8192 nibbles; 2 of 16 labels" in capsys.readouterr().out


def test_run_reports_a_difference_and_where_it_is(tmp_path, capsys, monkeypatch):
    def corrupted(layer, config, placement, memory, golden=measure.run):
        expected = golden(layer, config, placement, memory)
        expected[-3] ^= 4          # far behind the output: the whole memory counts
        expected[-1] ^= 1
        return expected

    monkeypatch.setattr(measure, "run", corrupted)
    assert run_layers(tmp_path, "--layers", "e1.conv0") == 1
    out = capsys.readouterr().out
    assert "DIFFERENT: e1.conv0 at step 9: 2 of 8192 nibbles, the first at address 8189; 0 of 16 labels" in out
    assert "0 of 1 layers exact" in out
    (row,) = json.loads((tmp_path / "layers.json").read_text())["layers"]
    assert (row["exact"], row["wrong_nibbles"], row["first_wrong"]) == (False, 2, 8189)


def test_run_names_the_layers_that_cannot_run_and_runs_the_others(tmp_path, capsys):
    assert run_layers(tmp_path, "--layers", "u3.conv0", "u1.skip") == 0
    assert "not run: u3.conv0: a k-tile has 192 kernel lines; weight_depth=128" in capsys.readouterr().out
    assert "u3.conv0" in json.loads((tmp_path / "layers.json").read_text())["refused"]


def test_run_fails_when_no_layer_can_run(tmp_path, capsys):
    assert run_layers(tmp_path, "--layers", "u3.conv0") == 1
    assert "no layer could run: try --preset default" in capsys.readouterr().out
    assert not (tmp_path / "layers.json").exists()


def test_run_says_that_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_layers(tmp_path / "file", "--layers", "e1.conv0") == 1
    assert "sim.layers: cannot write to " in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--preset", "huge"], "preset=huge is not legal: it must be one of default, tiny"),
    (["--layers", "e2.conv0"], "no layer 'e2.conv0', only conv_in, e1.conv0"),
    (["--steps", "18"], r"step must be in [0, 17], not 18"),
    (["--model", "digits8"], "model=digits8 is not legal: it must be one of digits16"),
    (["--samples", "0"], "samples must be at least 1, not 0"),
])
def test_wrong_arguments_are_refused_before_anything_is_built(arguments, message, tmp_path, capsys):
    assert run_layers(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def layer_of(weights, values):
    outputs, channels = weights.shape[:2]
    post = PostParams(M=np.ones((1, outputs), int), R=np.zeros((1, outputs), int), B=np.zeros((1, outputs), int),
                      shift=0, dead_zone=0, sample_block=np.zeros(values.shape[1], int))
    codes = np.ones((outputs, channels), np.uint8)
    return Layer("made", (Tensor(values, U4),), weights, S4, codes, 1, post, U4)


def test_macs_count_the_taps_that_are_used_and_nonzero_macs_what_they_meet():
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 8, (5, 3, 3, 3))
    weights[:, 1, 0, :] = 0                                      # one kernel line of one channel is unused
    values = rng.integers(0, 3, (3, 2, 4, 5))
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
    met = [padded[c, n, y + r, x + s] != 0 for c in range(3) for n in range(2) for y in range(4) for x in range(5)
           for r in range(3) for s in range(3) if (c, r) != (1, 0)]
    assert count_macs(layer_of(weights, values)) == (5 * len(met), 5 * sum(met))


def work_of(layer, config, sparse=()):
    """What arrays have to do when these channels are labelled sparse."""
    channels = layer.in_shape[0]
    labels = Labels(np.isin(np.arange(channels), sparse), np.zeros(channels, bool), np.zeros(channels, int))
    placement = place(layer, config)
    image = compile_layer(layer, config, placement)
    memory = initial_memory(layer, placement, np.zeros(config.act_nibbles, np.uint8))
    return deal(config, layer, image, memory, [Labelled(LabelPlace(0, 0), labels)])


@pytest.mark.parametrize(("dense_taps", "arrays", "cycles"), [
    (3, 1, [3 * 3 - 1]), (1, 1, [9 * 3 - 4]), (3, 2, [3, 2 + 3])])
def test_ideal_cycles_of_dense_arrays_count_the_lines_or_taps_of_their_lists(dense_taps, arrays, cycles):
    config = replace(PRESETS["tiny"], dense_taps=dense_taps, dense=arrays, sparse=0)
    weights = np.ones((5, 3, 3, 3), np.int64)
    weights[:, 1, 0, :] = 0
    weights[:, 1, 1, 2] = 0
    layer = layer_of(weights, np.zeros((3, 2, 4, 5), np.int64))
    assert ideal_cycles(config, work_of(layer, config)) == [2 * 4 * 5 // 4 * 2 * lines for lines in cycles]


def test_ideal_cycles_of_a_sparse_array_count_its_nonzeros_inside_the_image():
    config = PRESETS["tiny"]
    values = np.zeros((3, 1, 4, 5), np.int64)
    values[1, 0, 0, 0] = 3      # a corner: four taps
    values[1, 0, 1, 2] = 1      # nine
    values[2] = 7               # on the dense array
    layer = layer_of(np.ones((5, 3, 3, 3), np.int64), values)
    assert ideal_cycles(config, work_of(layer, config, [0, 1])) == [4 * 5 // 4 * 2 * 3, 4 * 2]


def test_ideal_cycles_of_a_1x1_layer_are_one_per_channel():
    config = replace(PRESETS["tiny"], sparse=0)
    layer = real_layer("u1.skip", 9, Workload(model="digits16", samples=1)).layer
    placement = place(layer, config)
    inputs = [Labelled(LabelPlace(16 * number, 0), Labels.all_dense(16)) for number in range(2)]
    image = compile_layer(layer, config, placement, in_labels=[item.place for item in inputs])
    memory = initial_memory(layer, placement, np.zeros(config.act_nibbles, np.uint8))
    assert ideal_cycles(config, deal(config, layer, image, memory, inputs)) == [64 // 4 * 16 // 4 * 32]


def test_label_table_begins_anew_when_it_is_full():
    table = LabelTable(replace(PRESETS["tiny"], label_depth=64, label_slots=4))
    assert table.place({"a": 16, "b": 32}) == [LabelPlace(0, 0), LabelPlace(16, 1)]
    assert table.place({"b": 32, "c": 16}) == [LabelPlace(16, 1), LabelPlace(48, 2)]
    assert table.place({"c": 16, "d": 1}) == [LabelPlace(0, 0), LabelPlace(16, 1)]
    assert sorted(table.places) == ["c", "d"]


def test_a_file_is_replaced_whole_or_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "new" / "table.csv"
    write_whole(path, to_csv([{"a": 1, "b": "x,y"}]))
    assert path.read_text() == 'a,b\n1,"x,y"\n'

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("golden.report.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "other")
    assert path.read_text() == 'a,b\n1,"x,y"\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]
