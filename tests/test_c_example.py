"""The C example: compiled with all warnings against the generated header, and run over registers in plain memory."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hw.config import preset
from hw.registers import register_files

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "examples/c/sqdm.c", ROOT / "examples/c/example.c", ROOT / "tests/fake_registers.c"]
FLAGS = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion"]
CONFIG = preset("tiny")
READY, ERROR = 8, 4


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler: install gcc or clang")
    folder = tmp_path_factory.mktemp("c")
    (folder / "sqdm_regs.h").write_text(register_files(CONFIG)["sqdm_regs.h"])
    command = [compiler, *FLAGS, f"-I{folder}", f"-I{ROOT / 'examples/c'}", *map(str, SOURCES), "-o",
               str(folder / "example")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "example"


def run(program: Path, status: int, error: int = 0, config_hash: int = CONFIG.config_hash) -> tuple[list[str], int]:
    """The lines that it prints, and the example's result."""
    done = subprocess.run([program, str(status), str(error), str(config_hash)], capture_output=True, text=True,
                          check=True, timeout=60)
    found = re.search(r"result (\d+)", done.stdout)
    assert found
    return done.stdout.splitlines(), int(found[1])


def test_a_run(program: Path) -> None:
    lines, result = run(program, READY | 2)
    assert result == 0
    names = ["run", "idle", "layer", "layers", "read", "written"]
    assert [line.split() for line in lines[:-1]] == [[name, str((number << 32) + 100 + number)]
                                                     for number, name in enumerate(names)]
    assert lines[-1] == "result 0 control 1 step 9 count 21 sizes 4096 8192 bases 123456000 923457000"


def test_what_can_go_wrong(program: Path) -> None:
    lines, result = run(program, READY | ERROR, 4 | 17 << 8)
    assert (lines[0], result) == ("error 4 at descriptor 17, address 0x876543210", 5)
    assert run(program, 1)[1] == 4                      # never ready
    lines, result = run(program, READY, config_hash=1)  # for another configuration: not started
    assert result == 2 and "control 2 step 0" in lines[-1]
