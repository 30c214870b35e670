"""A time step of the trained U-Net as one program, on the functional simulator."""

import numpy as np
import pytest

from golden.detector import Detection, balance_detection
from golden.formats import Tensor
from golden.layout import space_to_depth
from golden.program.descriptor import BYTES, Opcode, decode
from golden.program.network import Conv
from golden.program.simulator import Simulator
from golden.program.tiler import tile
from golden.workload.layers import Workload, real_layer
from golden.workload.network import NetworkStep, step_network
from golden.workload.unet import NETWORK
from hw.config import preset
from sim.stimulus_network import Case, reference

CONFIG = preset("default")
WORKLOAD = Workload(model="digits16")


def detect(pixels: int) -> Detection:
    return balance_detection(pixels, CONFIG.dense, CONFIG.sparse, CONFIG.dense_taps)


def step_of(step: int, samples: int = 10) -> NetworkStep:
    return step_network(step, Workload(model="digits16", samples=max(samples, 10)), detect, samples)


@pytest.mark.parametrize(("step", "samples"), [(0, 10), (9, 1), (17, 16)])
def test_a_time_step_is_exact(step: int, samples: int) -> None:
    made = step_of(step, samples)
    program = tile(made.network, CONFIG)
    simulator = Simulator(CONFIG, program.code, program.data(made.inputs, made.sample_block))
    outcome = simulator.run(program.count, step)
    assert outcome.error is None, outcome
    tensors = reference(CONFIG, Case(made.network, made.inputs), made.sample_block, step, {})
    np.testing.assert_array_equal(program.tensor(simulator.data, "F").values, tensors["F"].values)
    np.testing.assert_array_equal(tensors["h1 strided"].values, space_to_depth(tensors["h1"]).values)
    # All on chip: the input comes, the result goes.
    codes = [decode(program.code[BYTES * number:BYTES * (number + 1)]).opcode for number in range(program.count)]
    assert (codes.count(Opcode.LOAD), codes.count(Opcode.STORE), codes.count(Opcode.ELEMENTWISE)) == (1, 1, 1)
    # Labels of every layer's output: dead is the truth.
    for name, labels in program.labels.items():
        zero = ~tensors[name].values.reshape(len(labels), -1).any(axis=1)
        assert [simulator.labels.read(*label)[1] for label in labels] == zero.tolist(), name


def test_layers_are_those_of_the_workload() -> None:
    """A layer that reads real activations makes what the workload's layer makes of them; `down` reads by stride."""
    made = step_of(9)
    nodes = {node.name: node for node in made.network.nodes}
    assert set(nodes) == {node.name for node in NETWORK} | {"e1.conv1 strided"}
    assert [name for name, node in nodes.items() if isinstance(node, Conv) and node.upsampled] == ["up"]
    names = list(nodes)
    assert names.index("u1.conv1") == names.index("u1.skip") + 1 == names.index("u1.conv0") + 2
    for name in ("conv_in", "down", "u3.conv1"):
        layer = real_layer(name, 9, WORKLOAD).layer
        np.testing.assert_array_equal(nodes[name].weights, layer.weights)
        np.testing.assert_array_equal(nodes[name].post.M[made.sample_block if len(nodes[name].post.M) > 1 else 0],
                                      layer.post.M[layer.post.sample_block if len(layer.post.M) > 1 else 0])
    x = real_layer("conv_in", 9, WORKLOAD).layer.inputs[0]
    assert isinstance(x, Tensor)
    np.testing.assert_array_equal(made.inputs["x"].values, x.values)


def test_there_are_only_the_workloads_samples() -> None:
    with pytest.raises(ValueError, match="samples=11 is not legal: the workload has 10"):
        step_network(0, WORKLOAD, samples=11)
