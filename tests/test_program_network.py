"""Whole networks: what the simulator makes of a tiler's program is what the golden model computes layer by layer."""

from dataclasses import replace

import numpy as np
import pytest

from golden.conv import AccumulatorOverflow
from golden.detector import RefreshPolicy, threshold_detection
from golden.formats import S4, S8, U4, Tensor
from golden.layer import Layer, LayerError, initial_memory, place, run
from golden.layout import load
from golden.program.descriptor import ALL_STEPS, BYTES, Opcode, decode
from golden.program.network import Conv, Elementwise, Input, Network, Parameters
from golden.program.simulator import Simulator
from golden.program.tiler import tile
from hw.config import Config, preset
from sim.stimulus import random_layer, random_tensor
from sim.stimulus_network import BLOCKS, STEPS, Case, conv_node, random_case, reference

TINY = replace(preset("tiny"), table_depth=128)      # 64 entries a layer
SEEDS = 25
CONFIGS = {
    "tiny": TINY,
    "wide bus": replace(TINY, rows=3, cols=5, dense=2, sparse=0, lanes_per_scale=2, bus_bits=128, scale_exp_bits=4,
                        acc_bits=36, param_depth=128),
    "many arrays": replace(TINY, rows=7, cols=2, dense=1, sparse=2, lanes_per_scale=2, scale_exp_bits=1),
}


def opcodes(code: bytes, count: int) -> list[Opcode]:
    return [decode(code[BYTES * number:BYTES * (number + 1)]).opcode for number in range(count)]


def check_order(config: Config, code: bytes, count: int) -> None:
    """No LOAD may overtake what still uses its place, or writes what it reads, unless it waits."""
    def meet(first: tuple[int, int], second: tuple[int, int]) -> bool:
        return first[0] < second[1] and second[0] < first[1]

    beat = config.bus_bits // 4
    chip: list[tuple[int, int]] = []        # nibbles that layers and stores before use
    host: list[tuple[int, int]] = []        # bytes that stores before write
    for number in range(count):
        item = decode(code[BYTES * number:BYTES * (number + 1)])
        if item.opcode in (Opcode.LOAD, Opcode.STORE):
            on_chip = (item["chip_first"] * beat,
                       (item["chip_first"] + (item["runs"] - 1) * item["chip_stride"] + item["beats"]) * beat)
            off_chip = (item["offset"], item["offset"] + (item["runs"] - 1) * item["stride"]
                        + item["beats"] * config.bus_bits // 8)
        if item.opcode is Opcode.LOAD:
            if item["wait"]:
                if item["mask"] == ALL_STEPS:
                    chip, host = [], []
            else:
                assert not any(meet(on_chip, other) for other in chip), f"descriptor {number} overtakes its place's use"
                assert not any(meet(off_chip, other) for other in host), f"descriptor {number} overtakes its store"
        elif item.opcode is Opcode.STORE:
            chip.append(on_chip)
            host.append(off_chip)
        elif item.opcode in (Opcode.CONV, Opcode.ELEMENTWISE):
            chip += [(item["out_base"], item["out_end"]), (item["res_base"], item["res_end"]),
                     (item["in0_base"], item["in0_end"]), (item.get("in1_base"), item.get("in1_end"))]


def check(config: Config, case: Case, rng: np.random.Generator, where: str, steps: int = 1) -> list[Opcode]:
    """Tile and run; every output is the reference's in every time step. The program's opcodes."""
    program = tile(case.network, config)
    check_order(config, program.code, program.count)
    simulator = Simulator(config, program.code, b"")
    simulator.policy = RefreshPolicy("every_n", n=2)
    simulator.memory[:] = rng.integers(0, 16, config.act_nibbles)
    simulator.data = bytearray(rng.bytes(program.data_size))
    tensors: dict[str, Tensor] = {}
    for step in range(steps):
        numbers = rng.integers(0, case.network.blocks, program.blocks)
        sample_block = numbers[rng.integers(0, program.blocks, case.network.samples)].tolist()
        fresh = program.data(case.inputs, sample_block)
        table = program.tensors[next(iter(case.inputs))].offset
        simulator.data[:table] = fresh[:table]
        for name in case.inputs:
            place_ = program.tensors[name]
            end = place_.offset + -(-place_.tensor.nibbles // 2)
            simulator.data[place_.offset:end] = fresh[place_.offset:end]
        outcome = simulator.run(program.count, step)
        assert outcome.error is None, f"{where}, step {step}: {outcome}"
        tensors = reference(config, case, sample_block, step, tensors)
        for name in case.network.outputs:
            np.testing.assert_array_equal(program.tensor(simulator.data, name).values, tensors[name].values,
                                          f"{where}, step {step}, tensor {name}")
    return opcodes(program.code, program.count)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_layer_is_that_of_golden_run(name: str, seed: int) -> None:
    config, rng = CONFIGS[name], np.random.default_rng([seed, 1])
    layer: Layer = random_layer(rng, config)
    names = tuple(f"x{number}" for number in range(len(layer.inputs)))
    tensors = dict(zip(names, layer.inputs, strict=True))
    if layer.residual is not None:
        tensors["r"] = layer.residual
    post = layer.post
    node = Conv(name="layer", inputs=names, output="y", weights=layer.weights, w_fmt=layer.w_fmt, codes=layer.codes,
                group=layer.group, post=Parameters(post.M, post.R, post.B, post.shift, post.dead_zone),
                out_fmt=layer.out_fmt, residual="r" if "r" in tensors else None, transform=layer.transform,
                upsampled=layer.upsampled)
    inputs = tuple(Input(key, tensor.shape, tensor.fmt) for key, tensor in tensors.items())
    program = tile(Network(inputs, (node,), ("y",)), config)
    simulator = Simulator(config, program.code, program.data(tensors, post.sample_block.tolist()))
    outcome = simulator.run(program.count)
    assert outcome.error is None, outcome
    where = place(layer, config)
    memory = run(layer, config, where, initial_memory(layer, where, np.zeros(config.act_nibbles, np.uint8)))
    np.testing.assert_array_equal(program.tensor(simulator.data, "y").values,
                                  load(memory, where.out, layer.out_fmt, layer.out_shape).values, f"seed {seed}")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_networks_over_time_steps(name: str, seed: int) -> None:
    """Concatenation, residuals, 8 bits, transforms, parameter blocks, masks; tensors whole, on chip and spilled."""
    rng = np.random.default_rng([seed, 2])
    config = replace(CONFIGS[name], label_slots=int(rng.choice([2, 4])))
    shape = int(rng.integers(1, 4)), int(rng.integers(1, 7)), int(rng.integers(1, 7))
    case = random_case(rng, config, shape, int(rng.integers(2, 8)), masks=bool(rng.random() < 0.5))
    # The smallest memory on which it runs makes spills, a large one none.
    for bits in (*range(8, 14), 14):
        try:
            check(replace(config, act_nibbles=1 << bits), case, rng, f"seed {seed}", STEPS)
        except LayerError as error:
            assert bits < 14 and "layer 'layer" in str(error)
        else:
            break
    codes = check(replace(config, act_nibbles=1 << 14), case, rng, f"seed {seed}, large memory", STEPS)
    assert codes.count(Opcode.LOAD) <= len(case.inputs)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_bands_are_exact(name: str, seed: int) -> None:
    """Maps of whole aligned lines, on memories that hold a few lines of them."""
    rng = np.random.default_rng([seed, 3])
    config = replace(CONFIGS[name], act_nibbles=1 << int(rng.integers(11, 13)), dim_bits=int(rng.choice([5, 6])))
    width, height = [(16, 16), (8, 40), (32, 8), (32, 24)][rng.integers(4)]
    if width > (1 << config.dim_bits) - 1:
        config = replace(config, dim_bits=6)
    case = random_case(rng, config, (int(rng.integers(1, 3)), height, width), int(rng.integers(1, 4)),
                       masks=bool(rng.random() < 0.3))
    try:
        check(config, case, rng, f"seed {seed}", STEPS)
    except LayerError as error:
        assert "layer 'layer" in str(error)


def image(rng: np.random.Generator, shape: tuple[int, int, int, int] = (4, 1, 32, 32), **fixed) -> Case:
    x = random_tensor(rng, shape, U4)
    node = conv_node(rng, TINY, "big", {"x": x}, ("x",), "y",
                     **({"outputs": 4, "kernel": 3, "transform": "none", "out_fmt": U4, "w_fmt": S4} | fixed))
    return Case(Network((Input("x", x.shape, U4),), (node,), ("y",)), {"x": x})


@pytest.mark.parametrize("transform", ["none", "upsample", "space_to_depth"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_large_map_runs_in_bands(transform: str, kernel: int) -> None:
    """More than the memory holds at once: bands, with and without halo."""
    rng = np.random.default_rng(7)
    config = replace(TINY, act_nibbles=1 << 12)
    case = image(rng, transform=transform, kernel=kernel, outputs=2)
    codes = check(config, case, rng, transform)
    assert codes.count(Opcode.CONV) > 1
    assert codes.count(Opcode.LOAD) == codes.count(Opcode.STORE) == codes.count(Opcode.CONV)
    whole = check(replace(config, act_nibbles=1 << 15), case, rng, transform)
    assert whole.count(Opcode.CONV) == 1


def test_a_map_higher_than_dim_bits_allow_runs_in_bands() -> None:
    rng = np.random.default_rng(8)
    case = image(rng, (1, 2, 80, 16), outputs=1)
    config = replace(TINY, act_nibbles=1 << 15)
    assert check(config, case, rng, "high").count(Opcode.CONV) == 2


@pytest.mark.parametrize(("shape", "changes", "fixed", "message"), [
    ((4, 1, 30, 30), {"act_nibbles": 1 << 12}, {},
     r"layer 'big' does not fit 4096 nibbles of activation memory, and bands of it would have a multiple of 16 lines, "
     r"for their ends to lie at multiples of 16 bytes; the map has 30 lines of 30 pixels"),
    ((4, 1, 32, 32), {"act_nibbles": 1 << 9}, {}, r"layer 'big' does not fit 512 nibbles .* not even in bands of 1 "),
    ((4, 1, 4, 80), {}, {}, r"layer 'big': width is 80; the configuration allows 1 to 63 \(2\^dim_bits - 1\)"),
    ((5, 1, 4, 4), {"table_depth": 8}, {"group": 5, "weights": np.ones((4, 5, 3, 3), int)},
     r"layer 'big': table_count is 5; the configuration allows 1 to 4 \(min\(table_depth/2, list_depth\)\)"),
    ((5, 1, 4, 4), {"weight_depth": 8}, {"weights": np.ones((4, 5, 3, 3), int)}, "'big': a k-tile has 15 kernel"),
    ((5, 1, 4, 4), {"param_depth": 4}, {}, r"'big': 1 parameter blocks of one k-tile of 4 channels; param_depth/2=2"),
    ((5, 5, 4, 4), {}, {}, r"layer 'big': a batch of 5 samples; samples/2=4"),
])
def test_refusals_name_the_layer_and_the_limit(shape, changes, fixed, message) -> None:
    rng = np.random.default_rng(9)
    with pytest.raises(LayerError, match=message):
        tile(image(rng, shape, **fixed).network, replace(TINY, **changes))


def test_an_overflow_names_the_layer() -> None:
    case = image(np.random.default_rng(9), (4, 1, 4, 4), group=4)
    node = replace(case.network.nodes[0], weights=np.full((4, 4, 3, 3), 7), codes=np.full((4, 1), 31, np.uint8))
    with pytest.raises(AccumulatorOverflow, match="layer 'big': psum needs 13 bits"):
        tile(replace(case.network, nodes=(node,)), replace(TINY, group=1, acc_bits=18))


def test_many_outputs_are_split_by_k_tiles() -> None:
    """13 outputs of two blocks, 32 words in a half of the parameter memory; labels of the parts are read back."""
    rng = np.random.default_rng(10)
    config = replace(TINY, act_nibbles=1 << 14)
    x = random_tensor(rng, (3, 2, 4, 6), U4)
    first = conv_node(rng, config, "wide", {"x": x}, ("x",), "a", blocks=2, outputs=22, kernel=3, transform="none",
                      out_fmt=U4, w_fmt=S4)
    first = replace(first, detection=threshold_detection(48))
    a = random_tensor(rng, (22, 2, 4, 6), U4)
    second = conv_node(rng, config, "next", {"a": a}, ("a",), "y", residual="a", outputs=22, kernel=1,
                       transform="none", out_fmt=S8, w_fmt=S4)
    case = Case(Network((Input("x", x.shape, U4),), (first, second), ("y",)), {"x": x})
    codes = check(config, case, rng, "parts")
    assert codes.count(Opcode.CONV) == 3     # the second has one block
    labels = tile(case.network, config).labels["a"]
    assert [slot for _, slot in labels] == [0] * 12 + [1] * 10     # six k-tiles of 4, shared out evenly
    assert len(set(labels)) == 22


EVEN = 0x5555555555555555


def chain(rng: np.random.Generator, *nodes: tuple[str, tuple[str, ...], int, int]) -> Case:
    """3x3 layers on maps of 4 x 4, a beat for each channel: (output, inputs, channels, mask); x has 2 channels."""
    x = random_tensor(rng, (2, 1, 4, 4), U4)
    tensors, made = {"x": x}, []
    for output, inputs, channels, mask in nodes:
        node = conv_node(rng, TINY, f"layer {output}", tensors, inputs, output, outputs=channels, kernel=3,
                         transform="none", out_fmt=U4, w_fmt=S4)
        made.append(replace(node, mask=mask))
        tensors[output] = random_tensor(rng, (channels, 1, 4, 4), U4)
    return Case(Network((Input("x", x.shape, U4),), tuple(made), (made[-1].output,)), {"x": x})


def test_a_cached_block_keeps_its_place() -> None:
    """Made in even steps only, read in all: it never moves."""
    rng = np.random.default_rng(11)
    case = chain(rng, ("d", ("x",), 2, EVEN), ("y", ("x", "d"), 2, ALL_STEPS))
    codes = check(TINY, case, rng, "cached", 4)
    assert codes.count(Opcode.LOAD) == codes.count(Opcode.STORE) == 1


def test_a_cached_block_stays_where_others_are_spilled() -> None:
    """8 beats of memory, of which d keeps 2: x goes and comes back when a, b and c are all there is room for."""
    rng = np.random.default_rng(12)
    case = chain(rng, ("d", ("x",), 2, EVEN), ("a", ("x",), 2, ALL_STEPS), ("b", ("a",), 2, ALL_STEPS),
                 ("c", ("a", "b"), 2, ALL_STEPS), ("e", ("c", "x"), 2, ALL_STEPS), ("y", ("e", "d"), 2, ALL_STEPS))
    codes = check(replace(TINY, act_nibbles=128), case, rng, "spilled", 4)
    assert codes.count(Opcode.LOAD) == 2 and codes.count(Opcode.STORE) == 1


def test_a_cached_block_without_room_goes_through_the_data_region() -> None:
    """x and p need 7 of 8 beats, so d has no place of its own: it is stored when made, and loaded when read."""
    rng = np.random.default_rng(13)
    case = chain(rng, ("p", ("x",), 5, ALL_STEPS), ("q", ("p",), 2, ALL_STEPS), ("d", ("q",), 2, EVEN),
                 ("y", ("q", "d"), 2, ALL_STEPS))
    codes = check(replace(TINY, act_nibbles=128), case, rng, "homed", 4)
    assert codes.count(Opcode.LOAD) == 2 and codes.count(Opcode.STORE) == 2


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda net: replace(net, outputs=("z",)), ValueError, "no node makes the outputs z"),
    (lambda net: replace(net, nodes=()), ValueError, "a network has at least one node"),
    (lambda net: replace(net, nodes=(net.nodes[0], net.nodes[0])), ValueError, "two tensors called y"),
    (lambda net: replace(net, nodes=(replace(net.nodes[0], inputs=("q",)),)), LayerError, "'big': it reads 'q'"),
    (lambda net: replace(net, nodes=(replace(net.nodes[0], inputs=("x", "x", "x")),)), LayerError, "it has 3 inputs"),
    (lambda net: replace(net, nodes=(replace(net.nodes[0], inputs=("x", "x")),)), LayerError, "for 8 input channels"),
    (lambda net: replace(net, nodes=(replace(net.nodes[0], mask=1 << 64),)), LayerError, "is not one of 64 bits"),
])
def test_networks_that_make_no_sense(change, error, message) -> None:
    network = image(np.random.default_rng(12), (4, 1, 4, 4)).network
    with pytest.raises(error, match=message):
        change(network)


def test_data_and_batches_are_checked() -> None:
    case = image(np.random.default_rng(13), (4, 2, 4, 4))
    program = tile(case.network, TINY)
    with pytest.raises(ValueError, match="3 samples of 1 different blocks; the program has 2 samples of at most 1"):
        program.batch_table([0, 0, 0])
    with pytest.raises(ValueError, match=r"'z' is u4 .* the program has no such tensor in the data region"):
        program.data({"z": case.inputs["x"]}, [0, 0])
    with pytest.raises(ValueError, match=r"'y' is u4 \(1, 1, 1, 1\); the program has a tensor TensorShape"):
        program.data({"y": Tensor(np.ones((1, 1, 1, 1), int), U4)}, [0, 0])
    with pytest.raises(ValueError, match=r"blocks=3 is not legal: a batch of 2 samples mixes 1 to 2"):
        tile(case.network, TINY, blocks=3)


def test_a_node_without_weights_that_count_writes_its_bias() -> None:
    rng = np.random.default_rng(14)
    case = image(rng, (4, 1, 4, 4), weights=np.zeros((4, 4, 3, 3), int))
    check(TINY, case, rng, "zero weights")


def test_elementwise_splits_and_transforms() -> None:
    rng = np.random.default_rng(15)
    x = random_tensor(rng, (9, 2, 4, 6), S8)
    post = Parameters(*(rng.integers(-99, 99, (BLOCKS, 9)) for _ in range(3)), shift=6)
    node = Elementwise(name="relu", inputs=("x",), output="y", post=post, out_fmt=U4, residual="x",
                       transform="space_to_depth")
    case = Case(Network((Input("x", x.shape, S8),), (node,), ("y",)), {"x": x})
    codes = check(replace(TINY, param_depth=16), case, rng, "elementwise")
    assert codes.count(Opcode.ELEMENTWISE) == 3
