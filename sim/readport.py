"""The memory's side of a read port, for benches of the blocks that read."""

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.actmem import READ_CYCLES

__all__ = ["ReadPort"]


class ReadPort:
    """Answers the reads that a block makes of the activation memory, in order, `READ_CYCLES` after each.

    A read of an address other than the next expected one fails the test. Between the answers the data are random.

    Parameters
    ----------
    dut : handle
    name : str
        The port's name.
    addresses, answers : sequences of int
        The expected reads, and what to answer.
    stall : float
        Probability that the port is not ready in a cycle.

    Attributes
    ----------
    taken : int
        Number of reads taken so far.
    """

    def __init__(self, dut: Any, name: str, addresses: Sequence[int], answers: Sequence[int], stall: float) -> None:
        self._clk = dut.clk
        self._en, self._addr, self._ready, self._valid, self._data = (
            dut[f"{name}__{part}"] for part in ("en", "addr", "ready", "valid", "data"))
        self._name = name
        self._addresses, self._answers = addresses, answers
        self._stall = stall
        self._random = random.Random(f"{cocotb.RANDOM_SEED}/{name}")
        self._due: deque[int | None] = deque([None] * (READ_CYCLES - 1))    # reads under way, the oldest first
        self.taken = 0
        for handle in (self._ready, self._valid, self._data):
            handle.value = 0

    async def run(self) -> None:
        """Answer forever; start this after the reset."""
        while True:
            self._ready.value = int(self._random.random() >= self._stall)
            await RisingEdge(self._clk)
            due = self._due.popleft()
            taken = self._en.value == 1 and self._ready.value == 1
            self._due.append(self._take() if taken else None)
            if self._en.value not in (0, 1):
                raise AssertionError(f"{self._name}__en is {self._en.value}")
            self._valid.value = int(due is not None)
            self._data.value = self._random.getrandbits(len(self._data)) if due is None else self._answers[due]

    def _take(self) -> int:
        if self.taken == len(self._addresses):
            raise AssertionError(f"read {self.taken} of {self._name} is one more than expected")
        if self._addr.value != self._addresses[self.taken]:
            raise AssertionError(f"read {self.taken} of {self._name} is of address {self._addr.value}, "
                                 f"expected {self._addresses[self.taken]:#x}")
        self.taken += 1
        return self.taken - 1
