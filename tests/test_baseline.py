"""The dense baseline computes the same network, and takes what two arrays take that know no zeros."""

from dataclasses import replace

import numpy as np
import pytest

from golden.formats import S4, ScaleFormat, Tensor
from golden.layer import LayerError
from golden.program.network import Conv
from golden.program.reference import run_network
from golden.workload.layers import Workload
from golden.workload.network import batch_network
from golden.workload.sample import INPUT
from hw.config import preset
from sim.baseline import DenseStep, dense_config, dense_cycles, dense_network, dense_step

CONFIG = preset("default")
WORKLOAD = Workload(model="digits16", steps=3, sigma_max=10.0)
SCALE = ScaleFormat(3, 3)
LABELS = (3, 8)


def sources(step: DenseStep) -> tuple[Tensor, dict[str, Tensor]]:
    rng = np.random.default_rng(2)
    x = Tensor(rng.integers(-128, 128, (1, len(LABELS), 8, 8)), step.in_fmt)
    return x, step.sources(x)


def test_the_dense_network_has_the_same_result_but_for_the_largest_weights() -> None:
    step = dense_step(1, LABELS, dense_config(CONFIG), WORKLOAD)
    network = batch_network(1, LABELS, WORKLOAD).network
    limited = replace(network, nodes=tuple(
        replace(node, weights=np.minimum(node.weights, 119)) if isinstance(node, Conv) else node
        for node in network.nodes))
    assert any((node.weights > 119).any() for node in network.nodes if isinstance(node, Conv))
    x, planes = sources(step)
    expected = run_network(CONFIG, limited, {INPUT: x}, step.sample_block)
    found = run_network(dense_config(CONFIG), step.network, planes, step.sample_block)
    for node in step.network.nodes:
        np.testing.assert_array_equal(found[node.output].values, expected[node.output].values, err_msg=node.name)
    assert {node.w_fmt for node in step.network.nodes if isinstance(node, Conv)} == {S4}


def test_baseline_is_what_two_arrays_that_know_no_zeros_take() -> None:
    labels = tuple(range(10))
    assert dense_config(CONFIG).param_beats == CONFIG.param_beats
    network = batch_network(0, labels, WORKLOAD).network
    cycles = dense_cycles(CONFIG, labels, WORKLOAD)
    # A kernel line of a channel per array and cycle, 8-bit layers in nibble passes; the rest is what programs add.
    ideal = 0
    for node in network.nodes:
        if isinstance(node, Conv):
            _, samples, height, width = network.tensors[node.inputs[0]].shape
            pixels = samples * height * width * (4 if node.upsampled else 1)
            passes = node.w_fmt.planes * max(network.tensors[name].fmt.planes for name in node.inputs)
            tiles = -(-pixels // 16) * -(-node.outputs // 16)
            ideal += tiles * -(-node.weights.shape[1] // 2) * node.kernel * passes
    assert ideal < cycles < 1.6 * ideal       # measured 1.43; of the model with 32 channels 1.28


def test_what_dense_arrays_cannot_run_is_named() -> None:
    network = batch_network(0, LABELS, WORKLOAD).network
    nodes = {node.name: node for node in network.nodes}
    last = nodes["conv_out"]
    double = replace(last, inputs=("v", "h1"), weights=last.weights.repeat(2, axis=1),
                     codes=last.codes.repeat(2, axis=1))
    for changed, message in ((replace(last, inputs=("u1.skip",)), "cannot read the 8-bit tensor 'u1.skip'"),
                             (double, "cannot run 8-bit weights on two inputs")):
        with pytest.raises(LayerError, match=f"layer 'conv_out': dense arrays {message}"):
            dense_network(replace(network, nodes=(*network.nodes[:-1], changed)), SCALE)
    with pytest.raises(LayerError, match="layer 'conv_in': there is no scale code of the value 16"):
        dense_network(network, ScaleFormat(1, 3))
