"""Networks are fitted to what a configuration can read, and mean the same afterwards."""

from dataclasses import replace

import numpy as np
import pytest

from golden.formats import S8, U4
from golden.layer import LayerError
from golden.program.descriptor import BYTES, Descriptor, Opcode, decode
from golden.program.lower import lower
from golden.program.network import Conv, Elementwise, Input, Network, Parameters
from golden.program.reference import run_network
from golden.program.simulator import Simulator
from golden.program.tiler import tile
from hw.config import Config, preset
from sim.stimulus import random_tensor
from sim.stimulus_network import conv_node

TINY = replace(preset("tiny"), act_nibbles=1 << 14, table_depth=128, param_depth=256)      # 4 rows
assert TINY.upsampled_widths == TINY.strided_widths == (2, 4)
ODD = replace(TINY, rows=3)     # reads nothing but runs as they are


def case(width: int, height: int = 4, seed: int = 3) -> tuple[Network, dict]:
    """x, of which one node makes the space-to-depth form, and another reads it upsampled."""
    rng = np.random.default_rng(seed)
    x = random_tensor(rng, (5, 2, height, width), S8)
    post = Parameters(*(rng.integers(-99, 99, (1, 5)) for _ in range(3)), shift=6)
    parts = Elementwise(name="parts", inputs=("x",), output="y", post=post, out_fmt=U4, transform="space_to_depth")
    grown = conv_node(rng, TINY, "grown", {"x": x}, ("x",), "z", outputs=6, kernel=3, transform="none", out_fmt=S8,
                      upsampled=True)
    return Network((Input("x", x.shape, S8),), (parts, grown), ("y", "z")), {"x": x}


def layers(config: Config, width: int, height: int = 4) -> list[Descriptor]:
    """The layers of the network's program, which gives what the network is."""
    network, inputs = case(width, height)
    program = tile(network, config)
    simulator = Simulator(config, program.code, program.data(inputs, [0, 0]))
    outcome = simulator.run(program.count)
    assert outcome.error is None, outcome
    expected = run_network(config, network, inputs, [0, 0])
    for name in ("y", "z"):
        np.testing.assert_array_equal(program.tensor(simulator.data, name).values, expected[name].values, name)
    items = [decode(program.code[BYTES * number:BYTES * (number + 1)]) for number in range(program.count)]
    return [item for item in items if item.opcode in (Opcode.CONV, Opcode.ELEMENTWISE)]


def test_reads_rearrange_where_they_can() -> None:
    """Width 4 is strided to 2, but not read upsampled to 8; width 2 the other way round."""
    assert [item.get("x_strided") for item in layers(TINY, 4)] == [1, 0, 0]     # the second writes x upsampled
    assert [item.get("upsampled") for item in layers(TINY, 2)] == [0, 1]
    assert [item["transform"] for item in layers(TINY, 2)] == [2, 0]


@pytest.mark.parametrize("width", [2, 4, 8])
def test_what_cannot_be_read_is_written(width: int) -> None:
    assert not any(item.get("x_strided") or item.get("upsampled") for item in layers(ODD, width))


def test_bands_read_plainly() -> None:
    """Of a map that does not fit, a copy is upsampled in bands, and read so."""
    items = layers(replace(TINY, act_nibbles=1 << 13, dim_bits=8), 2, 48)
    assert [item.opcode for item in items] == [Opcode.ELEMENTWISE] * 3 + [Opcode.CONV] * 4
    assert not any(item.get("upsampled") for item in items)


def test_nodes_may_be_read_plainly() -> None:
    network, _ = case(4)
    parts, grown = lower(network, replace(TINY, window_width=8)).nodes
    assert isinstance(parts, Elementwise) and parts.strided and parts.outputs == 20
    assert isinstance(grown, Conv) and grown.upsampled
    nodes = lower(network, replace(TINY, window_width=8), {"parts", "grown"}).nodes
    assert [node.name for node in nodes] == ["parts", "grown (x upsampled)", "grown"]
    assert isinstance(nodes[0], Elementwise) and not nodes[0].strided
    assert isinstance(nodes[2], Conv) and not nodes[2].upsampled


def test_a_stride_that_cannot_be_read_is_refused() -> None:
    rng = np.random.default_rng(1)
    x = random_tensor(rng, (1, 1, 4, 12), U4)
    post = Parameters(*(np.ones((1, 4), np.int64) for _ in range(3)), shift=0)
    node = Elementwise(name="parts", inputs=("x",), output="y", post=post, out_fmt=U4, strided=True)
    with pytest.raises(LayerError, match=r"'parts': a result 6 pixels wide cannot be read with a stride; .* 2, 4"):
        tile(Network((Input("x", x.shape, U4),), (node,), ("y",)), TINY)
