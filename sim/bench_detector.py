"""Bench of the sparsity detector: each layer's labels as the golden detector makes them, in time.

The bench plays the post-processor, which reports counts, and the host, which writes labels and reads them all the time:
they stay as they are until the detector is idle again.
"""

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from .streams import reset, start_clock, vectors
from .words import from_words

__all__ = ["labels_of_every_layer", "reset_forgets_a_layer"]

CLEARING = 100  # the most cycles that the detector may take after a reset
OVERHEAD = 53   # the most cycles that labels may take after a layer's last count, beside one per channel


class DetectorBench:
    """The post-processor, the host, and the label table as it must be."""

    def __init__(self, dut: Any, pause: float) -> None:
        self.dut = dut
        self.data = data = vectors()
        self.pause = pause
        self.random = random.Random(f"{cocotb.RANDOM_SEED}/detector")
        self.layers, self.policies, self.beats = (from_words(data[name]) for name in ("layers", "policies", "beats"))
        self.slots = data["slots"].tolist()
        self.table = [-1] * len(self.slots)     # by index, -1 where unknown
        self.asked: list[tuple[str, int, int]] = []     # port, index and label of the reads of the last cycle
        self.idle = False
        for name in ("layer", "start", "policy", "count", "count_en", "ktile_end", "layer_end", "load", "load_en",
                     "index", "slot", "host_index", "host_slot"):
            dut[name].value = 0
        start_clock(dut)

    async def reset(self) -> None:
        """Reset, and wait until the detector is ready; no label is known."""
        await reset(self.dut)
        self.table = [-1] * len(self.slots)
        self.asked = []
        for _ in range(CLEARING):
            await self.cycle()
            if self.idle:
                return
        raise AssertionError(f"the detector is not idle {CLEARING} cycles after a reset")

    async def cycle(self, write: int = -1, new_table: list[int] | None = None) -> None:
        """Let a cycle pass: read at random, compare what was asked for in the last one, note whether it is idle.

        Parameters
        ----------
        write : int
            Number of a beat from the host.
        new_table : list of int
            What the table is from the moment on in which the detector is idle.
        """
        dut = self.dut
        dut.load.value = self.beats[write] if write >= 0 else self.random.getrandbits(len(dut.load))
        dut.load_en.value = int(write >= 0)
        reads = []
        for prefix in ("", "host_"):
            index = self.random.randrange(len(self.table))
            dut[f"{prefix}index"].value, dut[f"{prefix}slot"].value = index, self.slots[index]
            reads.append((prefix, index))
        await RisingEdge(dut.clk)
        self.idle = dut.idle.value == 1
        for prefix, index, label in self.asked:
            if label >= 0 and dut[f"{prefix}label"].value != label:
                raise AssertionError(f"{prefix}label of channel {index} is {dut[f'{prefix}label'].value}, "
                                     f"expected {label:#b}")
        if self.idle and new_table is not None:
            self.table = new_table
        # The scheduler's port answers while idle; a read that meets a write answers either.
        index, label = self.data["writes"][write].tolist() if write >= 0 else (-1, 0)
        self.asked = [(prefix, read, self.table[read]) for prefix, read in reads
                      if read != index and (prefix or self.idle)]
        if index >= 0:
            self.table[index] = label

    async def write(self, part: int) -> None:
        """Write the host's labels; `part` is twice the layer, and one more while it runs."""
        for number in range(*self.data["write_starts"][part:part + 2].tolist()):
            await self.cycle(number)

    async def count(self, number: int, words: int) -> None:
        """Report a layer's first `words` words, while the host writes."""
        dut, detect = self.dut, self.data["detect"][number]
        writes = iter(range(*self.data["write_starts"][2 * number + 1:2 * number + 3].tolist()))
        first = self.data["word_starts"][number]
        for word in self.data["words"][first:first + words].tolist():
            while self.random.random() < self.pause:
                await self.cycle()
                dut.count.value = self.random.getrandbits(len(dut.count))
            dut.count_en.value, dut.ktile_end.value, dut.layer_end.value = word & 1, word >> 1 & 1, word >> 2 & 1
            dut.count.value = word >> 4
            await self.cycle(next(writes, -1))
            for name in ("count_en", "ktile_end", "layer_end"):
                dut[name].value = 0
            if self.idle == detect:
                raise AssertionError(f"idle is {self.idle} while layer {number} runs")

    async def start(self, number: int) -> None:
        """Write the host's labels, and start a layer."""
        dut = self.dut
        await self.write(2 * number)
        while self.random.random() < self.pause:
            await self.cycle()
        dut.layer.value, dut.policy.value, dut.start.value = self.layers[number], self.policies[number], 1
        await self.cycle()
        if not self.idle:
            raise AssertionError(f"idle is {dut.idle.value} before layer {number}")
        dut.start.value = 0
        dut.layer.value = self.random.getrandbits(len(dut.layer))

    async def run(self, number: int) -> int:
        """Run a layer; return the cycles from its end until it is labelled."""
        first, end = self.data["word_starts"][number:number + 2]
        await self.start(number)
        await self.count(number, end - first)
        if not self.data["detect"][number]:
            return 0
        limit = int(self.data["channels"][number]) + OVERHEAD
        for cycles in range(1, limit + 1):
            await self.cycle(new_table=self.data["after"][number].tolist())
            if self.idle:
                return cycles
        raise AssertionError(f"layer {number} is not labelled {limit} cycles after its last count")

    async def run_all(self, layers: int) -> None:
        """Run the first layers, with a reset between epochs, and report what labelling costs."""
        worst = 0
        for number in range(layers):
            if number == 0 or self.data["epochs"][number] != self.data["epochs"][number - 1]:
                await self.reset()
            cycles = await self.run(number)
            worst = max(worst, cycles - int(self.data["channels"][number]))
        for _ in range(3 * len(self.table)):
            await self.cycle()
        self.dut._log.info(f"labels are there at most channels + {worst} cycles after a layer's end")


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.3])
async def labels_of_every_layer(dut: Any, pause: float) -> None:
    """Every layer's labels, in time; until then those from before can be read."""
    bench = DetectorBench(dut, pause)
    await bench.run_all(len(bench.layers))


@cocotb.test()
async def reset_forgets_a_layer(dut: Any) -> None:
    """A reset in the middle of a layer leaves nothing behind."""
    bench = DetectorBench(dut, 0.0)
    await bench.reset()
    number = int(bench.data["detect"].argmax())
    await bench.start(number)
    await bench.count(number, int(bench.data["word_starts"][number + 1] - bench.data["word_starts"][number]) - 1)
    await bench.run_all(5)
