"""What several test files share: the accelerator, compiled once for the fast lane."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hw.config import preset
from hw.gen import convert
from sim.fast import FastSim

BUILD = Path(__file__).parents[1] / "build"
ACCELERATOR = replace(preset("tiny"), table_depth=128, act_nibbles=1 << 14, axi_addr_bits=40)


@pytest.fixture(scope="session")
def accelerator() -> Callable[[], FastSim]:
    """Makes a simulation of the accelerator, of the configuration `ACCELERATOR`."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    verilog = convert("accelerator", ACCELERATOR).write(BUILD / "tests" / f"accelerator-{worker}")[0]
    return lambda: FastSim.build(verilog, verilog.stem, BUILD)
