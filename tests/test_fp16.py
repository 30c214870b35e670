"""The FP16 baseline adds and multiplies as NumPy does, bit for bit, in FP32 with subnormal inputs taken for zero."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.config import PRESETS
from synth.fp16 import Fp16Array


def values(rng, shape, kind):
    """FP16 values: of any exponent, near each other so that sums cancel, or subnormal and zero."""
    if kind == "any":
        bits = rng.integers(0, 1 << 16, shape, np.uint16)
        return np.where(bits >> 10 & 31 == 31, bits & 0x83FF, bits).astype(np.uint16).view(np.float16)
    if kind == "near":
        return (rng.choice([-1, 1], shape) * rng.integers(1024, 2048, shape) / 1024).astype(np.float16)
    return (rng.integers(-1100, 1100, shape) * 2.0 ** -24).astype(np.float16)


def flushed(x):
    return np.where(np.abs(x) < np.finfo(np.float16).smallest_normal, 0, x).astype(np.float32)


@pytest.mark.parametrize(("rows", "cols", "taps", "seed"), [(3, 2, 1, 1), (2, 3, 3, 2)])
def test_sums_are_those_of_numpy(rows, cols, taps, seed):
    config = replace(PRESETS["tiny"], rows=rows, cols=cols, dense_taps=taps, lanes_per_scale=2)
    rng = np.random.default_rng(seed)
    steps = 150
    kinds = [str(kind) for kind in rng.choice(["any", "near", "small"], 2 * steps, p=[.4, .4, .2])]
    a = np.stack([values(rng, (rows, taps), kind) for kind in kinds[:steps]])
    w = np.stack([values(rng, (cols, taps), kind) for kind in kinds[steps:]])
    first = rng.random(steps) < 0.1
    first[0] = True
    expected = np.zeros((steps, rows, cols), np.float32)
    sums = np.zeros((rows, cols), np.float32)
    for step in range(steps):
        sums = np.zeros_like(sums) if first[step] else sums
        for tap in range(taps):
            sums = sums + flushed(a[step, :, None, tap]) * flushed(w[step, None, :, tap])
            assert sums.dtype == np.float32
        expected[step] = sums

    array = Fp16Array(config)

    def word(x):
        return int.from_bytes(np.ascontiguousarray(x).tobytes(), "little")

    async def bench(ctx):
        for step in range(steps):
            ctx.set(array.a.as_value(), word(a[step]))
            ctx.set(array.w.as_value(), word(w[step]))
            ctx.set(array.first, int(first[step]))
            ctx.set(array.en, 1)
            await ctx.tick()
            ctx.set(array.en, 0)
            await ctx.tick().repeat(2)
            for col in range(cols):
                ctx.set(array.lane, col)
                await ctx.tick()
                got = np.frombuffer(ctx.get(array.acc.as_value()).to_bytes(4 * rows, "little"), np.uint32)
                want = (expected[step, :, col] + np.float32(0)).view(np.uint32)     # -0 + 0 is 0
                np.testing.assert_array_equal(got, want, f"seed {seed}, step {step}, column {col}")

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
