"""The generator: deterministic, atomic, clean under lint, for any block and odd sizes."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hw.config import PRESETS
from hw.gen import BLOCKS, convert, emit, main
from sim.engine import FastEngine
from sim.fast import FastSim
from sim.lint import lint
from sim.measure import measure
from sim.speed import plain_layer

ROOT = Path(__file__).parent.parent
TINY = PRESETS["tiny"]


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        subprocess.run([sys.executable, "-m", "hw.gen", "--preset", "tiny", "--out", str(out)], cwd=ROOT, check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {"sqdm.v", "sqdm.json", "sqdm_regs.h", "sqdm_regs.md", "sqdm_regs.xml"}
    assert written[0] == written[1]


def test_the_manifest_describes_the_verilog(tmp_path: Path) -> None:
    path = emit(TINY, out=tmp_path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["parameters"]["rows"] == TINY.rows
    assert manifest["peak_macs_per_cycle"] == 4 * 4 * (3 + 1)
    assert manifest["memories"]["activations"]["bits"] == 4 * TINY.act_nibbles * TINY.read_ports
    text = path.read_text()
    for port in manifest["ports"]:
        vector = f"[{port['width'] - 1}:0] " if port["width"] > 1 else ""
        assert f"  {port['dir']} {vector}{port['name']};\n" in text


@pytest.mark.parametrize(("rows", "cols", "dense", "sparse", "taps"), [
    (3, 5, 1, 1, 3), (7, 2, 2, 0, 1), (4, 4, 0, 2, 3), (5, 3, 1, 2, 3),
])
def test_odd_sizes_lint_clean(tmp_path: Path, rows: int, cols: int, dense: int, sparse: int, taps: int) -> None:
    config = replace(TINY, rows=rows, cols=cols, dense=dense, sparse=sparse, dense_taps=taps,
                     lanes_per_scale=min(cols, 4))
    lint(emit(config, out=tmp_path), "sqdm")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block != "accelerator"])
def test_every_block_lints_clean_alone(tmp_path: Path, block: str) -> None:
    lint(emit(TINY, block, tmp_path), f"sqdm_{block}")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.soak) if name == "edm" else name for name in PRESETS])
def test_presets_lint_clean(tmp_path: Path, name: str) -> None:
    lint(emit(PRESETS[name], out=tmp_path), "sqdm")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.soak) if name != "tiny" else name for name in PRESETS])
def test_presets_simulate(tmp_path: Path, name: str) -> None:
    """A layer with more k-tiles than one, in the fast lane."""
    config = PRESETS[name]
    sim = FastSim.build(emit(config, "engine", tmp_path), "sqdm_engine", ROOT / "build")
    sim.reset()
    layer = plain_layer(2 * config.group, config.cols + 1, min(32, 2 * config.rows), config, zeros=0.5)
    assert measure(FastEngine(config, sim), layer).exact


def test_illegal_values_end_with_a_message_and_write_nothing(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "1", "--out", str(tmp_path / "out")]) == 2
    assert "rows=1 is not legal: it must be from 2 to 128" in capsys.readouterr().err
    assert main(["--block", "gpu", "--out", str(tmp_path / "out")]) == 2
    assert "block=gpu is not legal: it must be one of accelerator, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_registers_as_a_web_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):      # the second takes the place of the first
        assert main(["--preset", "tiny", "--html", "--out", str(tmp_path)]) == 0
    assert "sqdm" in (tmp_path / "sqdm_regs" / "index.html").read_text()
    assert not list(tmp_path.glob(".writing*"))
    assert main(["--block", "dense", "--html", "--out", str(tmp_path)]) == 2
    assert "--html is for the block accelerator" in capsys.readouterr().err


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--block", "readout", "--preset", "tiny", "--out", str(tmp_path / "file")]) == 1
    assert "hw.gen: cannot write to" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = emit(TINY, "readout", tmp_path)
    old = path.read_bytes()
    emitted = convert("readout", replace(TINY, fetch_depth=8))
    real = Path.write_text

    def fail_on_json(self: Path, text: str) -> int:
        if self.suffix == ".json":
            raise OSError(28, "No space left on device")
        return real(self, text)

    monkeypatch.setattr(Path, "write_text", fail_on_json)
    with pytest.raises(OSError, match="No space left"):
        emitted.write(tmp_path)
    assert path.read_bytes() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sqdm_readout.json", "sqdm_readout.v"]
