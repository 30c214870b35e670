"""Measurements: how fast each simulation lane is, and how near each kind of array comes to its ideal.

Four tables, each from the RTL's own counters or the simulator's own clock, and all results compared with the golden
model: simulated cycles per CPU second of the default preset in every lane; the dense array's cycles for 3x3 layers
against ceil(pixels / rows) * ceil(K / cols) * C * taps / dense_taps; with one tap per cycle, two layers that the STONNE
simulator ran on a dense array of as many multipliers; and the sparse array's cycles on random zeros against nonzeros /
rows * ceil(K / cols), beside those of SIGMA, a sparse array of as many multipliers in STONNE. The numbers also go to
speed.json. The exit code is 0 if all is exact, else 1.

examples:
  python -m sim.speed
  python -m sim.speed --out build/bench --build build
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden.cycles import predict
from golden.formats import S4, U4, ScaleFormat, Tensor
from golden.layer import Layer, compile_layer, initial_memory, place, run
from golden.ppu import PostParams
from golden.report import Table, announced, write_whole
from hw.config import Config, preset
from hw.gen import convert
from hw.interfaces import layer_layout

from . import runner
from .beats import image_beats, ktile_beats, layer_word, memory_beats
from .bench_speed import TIMES
from .engine import FastEngine
from .fast import FastSim, Hang
from .folders import add_folders
from .measure import STALLS, Measured, measure
from .toolchain import ToolError, icarus
from .words import Words, to_words

__all__ = ["main", "plain_layer"]

GROUP = 8
IDEAL_SHAPES = [(channels, 64, size) for size in (8, 16, 32) for channels in (32, 64, 128)]
STONNE = {(32, 32, 16): 9_296, (64, 64, 8): 9_536}  # C, K, pixels a side: cycles of MAERI, dense, 256 multipliers
SPARSE_TABLE = Table({"C -> K": -10, "map": -7, "zeros": 5, "ideal": 6, "loaded": 6, "eff.": 6, "SIGMA": 6, "gain": 5,
                      "port": 6, "weights": 7, "exact": 5})
CYCLE_COLUMNS = {"C -> K": -10, "map": -7, "cycles": 6, "ideal": 6, "eff.": 7, "beyond": 6,
                 **{cause: max(5, len(cause)) for cause in (*STALLS, "ends")}, "exact": 5}
ZEROS = (0.0, 0.3, 0.5, 0.65, 0.8, 0.9)
SIGMA = {   # C, K, pixels a side: cycles of SIGMA, 256 multipliers at full bandwidth, for each share of zeros
    (32, 32, 16): (22_016, 11_723, 11_401, 5_889, 3_138, 1_795),
    (64, 64, 8): (14_528, 9_806, 9_594, 4_995, 2_737, 1_308),
    (128, 128, 8): (44_800, 35_758, 26_857, 18_022, 9_274, 4_564),
}
FAST_REPEAT = 20


@dataclass(frozen=True)
class Lane:
    """Simulated cycles and CPU seconds of one lane in one use."""

    lane: str
    use: str
    cycles: int
    seconds: float

    @property
    def rate(self) -> float:
        """Cycles per CPU second."""
        return self.cycles / self.seconds


def plain_layer(channels: int, outputs: int, size: int, config: Config, zeros: float = 0.0, seed: int = 1) -> Layer:
    """A 3x3 layer C -> K on one map of size x size pixels: random weights, random activations, ReLU.

    `zeros` is the probability that an activation is zero.
    """
    rng = np.random.default_rng(seed)
    scale = ScaleFormat(config.scale_exp_bits, config.scale_man_bits)
    values = rng.integers(1, 16, (channels, 1, size, size))
    values[np.random.default_rng([seed, 1]).random(values.shape) < zeros] = 0
    weights = rng.integers(1, 8, (outputs, channels, 3, 3)) * rng.choice([-1, 1], (outputs, channels, 3, 3))
    codes = rng.integers(1, min(16, scale.max_code + 1), (outputs, -(-channels // GROUP))).astype(np.uint8)
    post = PostParams(M=rng.integers(-100, 100, (1, outputs)), R=np.zeros((1, outputs), np.int64),
                      B=rng.integers(-50_000, 50_000, (1, outputs)), shift=12, dead_zone=0,
                      sample_block=np.zeros(1, np.int64))
    return Layer(f"{channels} -> {outputs}, {size}x{size}", (Tensor(values, U4),), weights, S4, codes, GROUP, post, U4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements and return the exit code."""
    parser = argparse.ArgumentParser("python -m sim.speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, "bench", "Verilog and speed.json")
    options = parser.parse_args(arguments)
    try:
        return _measure(options.out, options.build)
    except (ToolError, Hang, AssertionError) as error:
        print(f"sim.speed: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sim.speed: cannot write to {options.out}: {error.strerror}", file=sys.stderr)
    return 1


def _measure(out: Path, build: Path) -> int:
    default = preset("default")
    lanes, skipped = _lanes(default, out, build)
    print(f"\nSimulated cycles per CPU second, preset default ({default.peak_macs} multipliers):\n")
    table = Table({"lane": -22, "what Python does": -34, "cycles": 9, "CPU s": 7, "cycles/s": 10})
    print(table.head())
    for lane in lanes:
        print(table.line([lane.lane, lane.use, f"{lane.cycles:,}", f"{lane.seconds:.2f}", f"{lane.rate:,.0f}"]))
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")

    dense = replace(default, name="one dense array", sparse=0)
    print("\nDense array against its ideal, 3x3, preset default without sparse array:")
    ideal = _cycles(dense, IDEAL_SHAPES, out / "dense", build)
    print("The cycles beyond the ideal do not grow with the layer: fetch is the way of the first window to the array,\n"
          "ends the last tile's drain, post-processing and writes."
          if len({measured.cycles - measured.ideal for measured in ideal}) == 1 else
          "beyond = cycles - ideal = the stalls (cycles in which the array waited) + ends (beginning and end).")

    single = replace(default, name="one dense array with one tap", sparse=0, dense_taps=1)
    print(f"\nOne tap per cycle ({single.peak_macs} multipliers), for scale against MAERI in the STONNE simulator:")
    stonne = _cycles(single, list(STONNE), out / "one-tap", build)
    for measured, cycles in zip(stonne, STONNE.values(), strict=True):
        print(f"{measured.layer.name}: {measured.cycles:,} cycles here, {cycles:,} there "
              f"({100 * (1 - measured.cycles / cycles):.1f} % fewer)")

    lone = replace(default, name="one sparse array", dense=0)
    print(f"\nSparse array ({lone.peak_macs} multipliers) on random zeros, against its ideal and SIGMA in STONNE:")
    sigma = _sparse(lone, out / "sparse", build)

    write_whole(out / "speed.json", json.dumps({
        "lanes": [vars(lane) | {"cycles_per_second": round(lane.rate)} for lane in lanes], "skipped": skipped,
        "ideal": {"configuration": dense.to_json(), "layers": [measured.to_json() for measured in ideal]},
        "stonne": {"configuration": single.to_json(), "maeri_cycles": list(STONNE.values()),
                   "layers": [measured.to_json() for measured in stonne]},
        "sigma": {"configuration": lone.to_json(), "layers": [
            measured.to_json() | {"loaded_cycles": loaded, "sigma_cycles": there}
            for measured, loaded, there in sigma]},
    }, indent=2) + "\n")
    print(f"\nwritten: {out / 'speed.json'}")
    return 0 if all(measured.exact for measured in (*ideal, *stonne, *(measured for measured, _, _ in sigma))) else 1


def _engine(config: Config, out: Path, build: Path) -> FastEngine:
    verilog = convert("engine", config).write(out)[0]
    with announced(f"compiling {config.name} for the fast lane"):
        sim = FastSim.build(verilog, verilog.stem, build)
    sim.reset()
    return FastEngine(config, sim)


def _cycles(config: Config, shapes: Sequence[tuple[int, int, int]], out: Path, build: Path) -> list[Measured]:
    """Run layers, print their table and return what was measured."""
    engine = _engine(config, out, build)
    table = Table(CYCLE_COLUMNS)
    print("\n" + table.head())
    found = []
    for channels, outputs, size in shapes:
        measured = measure(engine, plain_layer(channels, outputs, size, config))
        found.append(measured)
        print(table.line([f"{channels} -> {outputs}", f"{size} x {size}", measured.cycles, measured.ideal,
                          f"{100 * measured.efficiency:.2f} %", measured.cycles - measured.ideal,
                          *(f"{measured.causes[cause]:.0f}" for cause in (*STALLS, "ends")),
                          "yes" if measured.exact else "NO"]), flush=True)
    return found


def _sparse(config: Config, out: Path, build: Path) -> list[tuple[Measured, int, int]]:
    """Run layers with random zeros; return what was measured, the cycles with all weights loaded, and SIGMA's."""
    engine = _engine(config, out, build)
    print("\n" + SPARSE_TABLE.head())
    found = []
    for (channels, outputs, size), cycles in SIGMA.items():
        for zeros, there in zip(ZEROS, cycles, strict=True):
            measured = measure(engine, plain_layer(channels, outputs, size, config, zeros))
            loaded = predict(config, replace(measured.work, ktile_beats=None)).cycles
            found.append((measured, loaded, there))
            print(SPARSE_TABLE.line([
                f"{channels} -> {outputs}", f"{size} x {size}", f"{100 * zeros:.0f} %", measured.ideal, loaded,
                f"{100 * measured.ideal / loaded:.1f} %", there, f"{there / loaded:.2f}", measured.cycles,
                measured.counters.array[0]["weights"], "yes" if measured.exact else "NO"]), flush=True)
    print("loaded = with all weights loaded before, by the cycle model; port = measured, k-tiles from "
          "the third on loaded\nthrough the port while the layer runs; weights = cycles in which they were waited for")
    return found


def _lanes(config: Config, out: Path, build: Path) -> tuple[list[Lane], dict[str, str]]:
    """Take the time of every lane; return the lanes, and those skipped with the reason."""
    engine = _engine(config, out, build)
    layer = plain_layer(64, 16, 32, config)
    placement = place(layer, config)
    image = compile_layer(layer, config, placement)
    memory = initial_memory(layer, placement, np.zeros(config.act_nibbles, np.uint8))
    engine.fill(memory)
    cycles, seconds = engine.sim.cycle, time.process_time()
    for _ in range(FAST_REPEAT):
        engine.run(image)
    seconds, cycles = time.process_time() - seconds, engine.sim.cycle - cycles
    if (engine.read() != run(layer, config, placement, memory)).any():
        raise AssertionError("the fast lane's result differs from the golden model's")
    lanes, skipped = [Lane("fast", "loads and runs whole layers", cycles, seconds)], {}

    lanes += _functional("verilator", layer, config, 8, out, build)
    try:
        icarus()
    except ToolError as error:
        skipped["functional, icarus"] = str(error)
    else:
        lanes += _functional("icarus", plain_layer(32, 16, 8, config), config, 1, out, build)
    return lanes, skipped


def _functional(simulator: str, layer: Layer, config: Config, repeat: int, out: Path, build: Path) -> list[Lane]:
    """Time of the functional lane; `repeat` is how often the layer runs."""
    times = out.resolve() / f"times-{simulator}.json"
    with announced(f"compiling for {simulator} and running {layer.name} under cocotb"):
        runner.run("sim.bench_speed", out / "sqdm_engine.v", "sqdm_engine", seed=1, name="speed", simulator=simulator,
                   vectors=_vectors(layer, config, repeat), env={TIMES: str(times)}, build_dir=build).require()
    found = json.loads(times.read_text())
    uses = {"streams": "serves a stream every cycle", "waiting": "waits for done"}
    return [Lane(f"functional, {simulator}", use, round(found[part]["cycles"]), found[part]["seconds"])
            for part, use in uses.items()]


def _vectors(layer: Layer, config: Config, repeat: int) -> dict[str, Any]:
    """What `sim.bench_speed` sends, and the beats of the output that it expects."""
    placement = place(layer, config)
    image = compile_layer(layer, config, placement)
    memory = initial_memory(layer, placement, np.zeros(config.act_nibbles, np.uint8))
    expected: Words = memory_beats(config, run(layer, config, placement, memory))[:, :config.bus_bits // 64]
    used = -(-placement.end // config.bus_nibbles)
    first = -(-placement.out // config.bus_nibbles)
    return {
        "repeat": repeat,
        "memories": np.concatenate([memory_beats(config, memory)[:used], image_beats(config, image)]),
        "weights": np.concatenate(ktile_beats(config, image)),
        "layer": to_words([layer_word(config, image)], layer_layout(config).size),
        "addresses": np.arange(first, used, dtype=np.uint64)[:, None],
        "beats": expected[first:used],
    }


if __name__ == "__main__":
    sys.exit(main())
