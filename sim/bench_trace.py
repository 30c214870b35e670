"""Bench of a block whose contract is a matter of cycles: plays the trace that was prepared for it."""

from typing import Any

import cocotb

from .streams import vectors
from .trace import play

__all__ = ["answers_as_traced"]


@cocotb.test()
async def answers_as_traced(dut: Any) -> None:
    """Every answer comes in its cycle, with every bit that the contract fixes."""
    await play(dut, vectors())
