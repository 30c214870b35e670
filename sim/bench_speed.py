"""Bench of the layer engine that takes the time: how many cycles a second does a cocotb simulation reach?

While memories are loaded and read, Python serves a stream in every cycle; while a layer runs it only waits for done.
"""

import json
import os
from pathlib import Path
from time import process_time
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge
from cocotb.utils import get_sim_time

from .streams import CLOCK_NS, StreamBench, vectors
from .words import from_words

__all__ = ["TIMES", "runs_a_layer_and_takes_the_time"]

TIMES = "SQDM_TIMES"  # environment variable with the path of the file of times
LIMIT = 20_000


@cocotb.test()
async def runs_a_layer_and_takes_the_time(dut: Any) -> None:
    """Load a layer, run it some times over, read its output and compare; write cycles and CPU seconds of each."""
    data = vectors()
    bench = StreamBench(dut)
    for name in ("load", "layer", "addresses"):
        bench.send(name, [])        # inputs must be known from the reset on
    dut.beats__ready.value = 0      # a monitor, made later, would wake Python in every cycle
    await bench.reset()
    times = {part: {"cycles": 0.0, "seconds": 0.0} for part in ("streams", "waiting")}
    began = 0.0, 0.0

    def start() -> None:
        nonlocal began
        began = get_sim_time("ns"), process_time()

    def stop(part: str) -> None:
        times[part]["cycles"] += (get_sim_time("ns") - began[0]) / CLOCK_NS
        times[part]["seconds"] += process_time() - began[1]

    start()
    bench.send("load", from_words(data["memories"]))
    for _ in range(int(data["repeat"])):
        bench.send("load", from_words(data["weights"]))
        await bench.finish(LIMIT)
        stop("streams")
        start()
        bench.send("layer", from_words(data["layer"]))
        await RisingEdge(dut.done)
        stop("waiting")
        start()
    bench.send("addresses", from_words(data["addresses"]))
    bench.expect("beats", from_words(data["beats"]))
    await bench.finish(LIMIT)
    stop("streams")
    Path(os.environ[TIMES]).write_text(json.dumps(times))
