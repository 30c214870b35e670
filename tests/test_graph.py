"""Networks of real numbers: legal and illegal ones, their files, their programs. Odd sizes."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.signal import correlate2d

from golden.formats import S8, U4, U8, Tensor
from golden.graph.file import FORMAT, load_graph, read_arrays, save_graph
from golden.graph.forward import Weights, run, stored
from golden.graph.fuse import fused
from golden.graph.graph import Graph, GraphError, Node, Source
from golden.graph.integer import Quantisation, integer_network, late_residuals, parameters, selected
from golden.workload.unet import GRAPH, load
from hw.config import preset
from sqdm import Device
from sqdm.compile import compile_graph, load_program, main
from sqdm.golden_backend import GoldenBackend

TINY = preset("tiny")
DEFAULT = preset("default")
# All that a node can be: strides of 1x1 and 3x3, two readers of a strided tensor, modulation, concatenation of tensors
# of 4 and 8 bits, residuals, upsampling with and without, element-wise scale and shift; odd numbers of channels.
NODES = (
    Node("first", ("x",), "a", relu=True, modulation="time", weight_bits=8),
    Node("small", ("a",), "b", relu=True, stride=2),
    Node("shortcut", ("a",), "s", stride=2),
    Node("middle", ("b",), "m", residual="s", relu=True, upsample=True),
    Node("join", ("m", "a"), "j", residual="a", relu=True, bits=8),
    Node("affine", ("j",), "e", kind="elementwise", relu=True, modulation="late"),
    Node("half", ("x",), "h", stride=2, relu=True),
    Node("wide", ("h",), "w", residual="h", upsample=True),
    Node("last", ("e",), "y", residual="w"),
)
NET = Graph((Source("x", 2),), NODES, ("y", "m"))


def weights_of(graph: Graph, kernels: dict[str, tuple[int, int]], blocks: int = 3, seed: int = 0) -> Weights:
    """Random arrays, from K and kernel size of each convolution."""
    rng, found = np.random.default_rng(seed), {}
    channels = {source.name: source.channels for source in graph.inputs}
    for node in graph.nodes:
        inputs = outputs = sum(channels[name] for name in node.inputs)
        if node.kind == "convolution":
            outputs, size = kernels[node.name]
            found[f"{node.name}.weight"] = rng.normal(0, (inputs * size * size) ** -0.5, (outputs, inputs, size, size))
            found[f"{node.name}.bias"] = rng.normal(0, 0.1, outputs)
        else:
            found[f"{node.name}.scale"], found[f"{node.name}.shift"] = rng.uniform(0.5, 1.5, (2, outputs))
        if node.modulation is not None:
            found[f"{node.modulation}.factor"] = rng.uniform(0.5, 1.5, (blocks, outputs))
            found[f"{node.modulation}.shift"] = rng.normal(0, 0.2, (blocks, outputs))
        channels[node.output] = outputs
    return {name: array.astype(np.float32) for name, array in found.items()}


KERNELS = {"first": (5, 3), "small": (3, 3), "shortcut": (3, 1), "middle": (3, 3), "join": (5, 1), "half": (5, 3),
           "wide": (5, 3), "last": (5, 3)}
WEIGHTS = weights_of(NET, KERNELS)


def inputs(samples: int, height: int = 6, width: int = 10, seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((2, samples, height, width)).astype(np.float32)}


def convolution(name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """By scipy, with bias."""
    kernel, bias = WEIGHTS[f"{name}.weight"].astype(np.float64), WEIGHTS[f"{name}.bias"]
    mode = "same" if kernel.shape[2] > 1 else "full"
    return np.stack([np.stack([sum(correlate2d(x[c, n], kernel[k, c], mode=mode) for c in range(len(x))) + bias[k]
                               for n in range(x.shape[1])]) for k in range(len(kernel))])[..., ::stride, ::stride]


def test_the_float_network_is_what_its_description_says() -> None:
    blocks = [2, 0]
    x = inputs(2)["x"].astype(np.float64)
    t = run(NET, WEIGHTS, inputs(2), stored(WEIGHTS, blocks))

    def modulated(name, value):
        factor, shift = (WEIGHTS[f"{name}.{part}"][blocks].T[:, :, None, None] for part in ("factor", "shift"))
        return value * factor + shift

    def relu(value):
        return np.maximum(value, 0)

    def double(value):
        return np.kron(value, np.ones((2, 2)))

    a = relu(modulated("time", convolution("first", x)))
    m = double(relu(convolution("middle", relu(convolution("small", a, 2))) + convolution("shortcut", a, 2)))
    j = relu(convolution("join", np.concatenate([m, a])) + a)
    scale, shift = (WEIGHTS[f"affine.{part}"][:, None, None, None] for part in ("scale", "shift"))
    e = relu(modulated("late", j * scale + shift))
    h = relu(convolution("half", x, 2))
    y = convolution("last", e) + double(convolution("wide", h) + h)
    for name, expected in (("a", a), ("m", m), ("j", j), ("e", e), ("y", y)):
        np.testing.assert_allclose(t[name], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("config", "samples"), [(DEFAULT, 3), (TINY, 1)], ids=["default", "tiny"])
def test_a_compiled_network_comes_close_to_the_float_one(config, samples) -> None:
    made = compile_graph(NET, WEIGHTS, inputs(6), config, samples, 4, sample_block=[0, 2, 1, 1, 0, 2])
    assert made.exact
    assert made.sample_block == (0, 2, 1)[:samples]
    assert min(made.sqnr.values()) > 16, made.sqnr      # measured 18.5 to 20.5 dB
    assert made.program.layers[min(made.program.layers)] == "x strided"
    tensors = made.network.tensors
    assert [tensors[name].fmt for name in ("x", "a", "s", "m", "j", "y")] == [S8, U4, S8, U4, U8, S8]
    # A sample's result does not depend on its batch.
    alone = compile_graph(NET, WEIGHTS, inputs(6), config, 1, 4, sample_block=[0, 2, 1, 1, 0, 2])
    for name in NET.outputs:
        first = [output(item, name).values[:, 0] for item in (made, alone)]
        np.testing.assert_array_equal(*first)


def output(made, name: str) -> Tensor:
    """What the program computes on the device."""
    device = Device.open(GoldenBackend(made.config))
    device.load_program(made.program)
    for source, tensor in made.inputs.items():
        device.write_data(source, tensor)
    device.set_batch(made.sample_block)
    device.run_step(0)
    return device.read_data(name)


def test_the_unet_is_such_a_network_and_survives_a_file(tmp_path) -> None:
    weights = load("digits16")
    rng = np.random.default_rng(4)
    modulations = {}
    for node in GRAPH.nodes:
        if node.modulation is not None:
            outputs = len(weights[f"{node.name}.bias"])
            for part in ("factor", "shift"):
                modulations[f"{node.modulation}.{part}"] = rng.uniform(0.5, 1, (2, outputs)).astype(np.float32)
    save_graph(tmp_path / "unet.json", GRAPH, {**weights, **modulations})
    graph, arrays = load_graph(tmp_path / "unet.json")
    assert graph == GRAPH
    assert "freqs" not in arrays
    x = {"x": rng.standard_normal((1, 2, 8, 8)).astype(np.float32)}
    made = compile_graph(graph, arrays, x, DEFAULT, 2, sample_block=[1, 0])
    assert made.exact
    assert made.sqnr["F"] > 12
    expected = run(GRAPH, {**weights, **modulations}, x, stored(modulations, [1, 0]))["F"]
    np.testing.assert_allclose(run(graph, arrays, x, stored(arrays, [1, 0]))["F"], expected, atol=1e-6)


def test_parameters_are_the_same_in_every_selection_of_blocks() -> None:
    """S is that of the block with the largest factor, also where that block is not selected."""
    node = Node("n", ("x",), "y", kind="elementwise")
    ones = np.ones((3, 2))
    quantisation = Quantisation({}, {"x": S8, "y": S8}, {"x": np.array([1.0, 1.0, 8.0]), "y": np.ones(3)},
                                {"n": ones}, {"n": 0.5 * ones})
    post = parameters(node, quantisation)
    assert post.shift == 11     # 8 * 2**11 fits 16 bits, 8 * 2**12 does not
    assert post.M.tolist() == [[2048, 2048], [2048, 2048], [16384, 16384]]
    assert post.B.tolist() == [[1024, 1024]] * 3
    assert selected(post, [0, 1]).M.tolist() == [[2048, 2048]]
    assert selected(post, [2, 0]).M.tolist() == [[16384, 16384], [2048, 2048]]


def test_scales_that_leave_no_room_for_a_factor_name_the_layer() -> None:
    node, ones = Node("n", ("x",), "y", kind="elementwise"), np.ones((1, 2))

    def quantisation(scale):
        return Quantisation({}, {}, {"x": np.array([scale]), "y": np.ones(1), "r": np.array([1e4])}, {"n": ones},
                            {"n": ones})

    with pytest.raises(ValueError, match=r"layer 'n': a factor of 1e\+05 between its scales is more than 32767"):
        parameters(node, quantisation(1e5))
    with pytest.raises(ValueError, match=r"layer 'n': at S = 1, the most that R allows, no \|M\| is above 2"):
        parameters(replace(node, residual="r"), quantisation(1.0))


def test_what_only_makes_a_residual_runs_right_before_its_reader() -> None:
    order = [node.name for node in late_residuals(NET)]
    assert order == ["first", "small", "shortcut", "middle", "join", "affine", "half", "wide", "last"]
    early = Graph(NET.inputs, (NODES[0], NODES[6], NODES[7], *NODES[1:6], NODES[8]), NET.outputs)
    assert [node.name for node in late_residuals(early)] == ["first", "half", "small", "shortcut", "middle", "join",
                                                             "affine", "wide", "last"]


def test_tensors_that_are_joined_share_a_scale_over_any_number_of_concatenations() -> None:
    nodes = (Node("a", ("x",), "a"), Node("b", ("x",), "b"), Node("c", ("a", "b"), "c"), Node("d", ("b", "x"), "d"))
    sharing = {frozenset(names) for names in Graph((Source("x", 1),), nodes, ("c", "d")).sharing()}
    assert sharing == {frozenset("xab"), frozenset("c"), frozenset("d")}


def test_layers_are_joined_where_the_hardware_can() -> None:
    def element(name, source, **more):
        return Node(name, (source,), name, kind="elementwise", **more)

    source = Source("x", 2)
    conv, other = Node("c", ("x",), "c"), Node("o", ("x",), "o")
    joined = fused(Graph((source,), (conv, other, element("add", "c", residual="o"), element("relu", "add", relu=True),
                                     element("up", "relu", upsample=True)), ("up",)), {})
    assert joined.nodes == (conv, Node("o", ("x",), "up", residual="c", relu=True, upsample=True))
    # Not over a second reader, an output, a ReLU before an addition, an upsampling before another, or arrays.
    for nodes, outputs, weights in (
            ((conv, element("r", "c", relu=True), element("s", "c", relu=True)), ("r", "s"), {}),
            ((conv, element("r", "c", relu=True)), ("r", "c"), {}),
            ((replace(conv, relu=True), element("a", "c", residual="x")), ("a",), {}),
            ((replace(conv, upsample=True), element("u", "c", upsample=True)), ("u",), {}),
            ((replace(conv, bits=4), element("r", "c", relu=True)), ("r",), {}),
            ((conv, element("r", "c", residual="c")), ("r",), {}),
            ((conv, element("r", "c", relu=True)), ("r",), {"r.scale": np.ones(2, np.float32)})):
        assert fused(Graph((source,), nodes, outputs), weights).nodes == nodes


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "pool"}, "node 'n': kind='pool' is not legal: it must be one of convolution, elementwise"),
    ({"inputs": ("x", "x2", "x3")}, "node 'n': 3 inputs is not legal: it must be 1 to 2"),
    ({"inputs": ("x", "x")}, "node 'n': inputs x, x is not legal: it must be different tensors"),
    ({"stride": 3}, "node 'n': stride=3 is not legal: it must be 1 or 2"),
    ({"kind": "elementwise", "stride": 2}, "node 'n': stride=2 is not legal: it must be 1$"),
    ({"bits": 6}, "node 'n': bits=6 is not legal: it must be 4 or 8"),
    ({"weight_bits": 2}, "node 'n': weight_bits=2 is not legal"),
    ({"inputs": ("z",)}, "node 'n' reads 'z', which nothing has made before it; there are 'x'"),
    ({"residual": "y"}, "node 'n' reads 'y', which nothing has made before it"),
    ({"output": "x"}, "there are two tensors called 'x'"),
    ({"output": "q"}, "no node makes the outputs 'y'"),
])
def test_illegal_nodes_are_named(change, message) -> None:
    with pytest.raises(GraphError, match=message):
        Graph((Source("x", 1),), (replace(Node("n", ("x",), "y"), **change),), ("y",))


@pytest.mark.parametrize(("change", "message"), [
    ({"last.weight": None}, "node 'last': there is no array last.weight"),
    ({"last.weight": np.ones((5, 4, 3, 3))}, r"shape \[K, 5, 1, 1\] or \[K, 5, 3, 3\], not \[5, 4, 3, 3\]"),
    ({"last.weight": np.ones((5, 5, 5, 5))}, r"not \[5, 5, 5, 5\]"),
    ({"last.bias": np.ones(4)}, r"node 'last': last.bias must have the shape \[5\], not \[4\]"),
    ({"last.bias": np.full(5, np.nan)}, "last.bias must be finite"),
    ({"affine.scale": np.ones(4)}, r"node 'affine': affine.scale must have the shape \[5\]"),
    ({"late.shift": None}, r"node 'affine': late.shift must be there with the shape \[blocks, 5\]$"),
    ({"late.shift": np.ones((3, 4))}, r"with the shape \[blocks, 5\], not \[3, 4\]"),
    ({"late.shift": np.ones((2, 5))}, "as many blocks each, not .*late.factor 3, late.shift 2"),
])
def test_illegal_arrays_are_named(change, message) -> None:
    arrays = {name: array for name, array in {**WEIGHTS, **change}.items() if array is not None}
    with pytest.raises(GraphError, match=message):
        compile_graph(NET, arrays, inputs(1), DEFAULT)


@pytest.mark.parametrize(("given", "message"), [
    ({}, "input 'x' must be there with 2 channels"),
    ({"x": np.ones((3, 1, 4, 4))}, r"input 'x' must be there with 2 channels, \[C, N, H, W\], not \[3, 1, 4, 4\]"),
    ({"x": np.ones((2, 1, 5, 4))}, "node 'small': stride 2 needs an even height and width, not 5 x 4"),
])
def test_illegal_inputs_are_named(given, message) -> None:
    with pytest.raises(GraphError, match=message):
        run(NET, WEIGHTS, given)


def test_sizes_that_do_not_agree_are_named() -> None:
    half = Node("half", ("x",), "h", stride=2)
    for node, message in ((Node("j", ("h", "x"), "y"), "node 'j' concatenates tensors of different sizes: 'h' 2 x 3, "
                                                       "'x' 4 x 6"),
                          (Node("j", ("x",), "y", residual="h"), r"node 'j': its residual 'h' is 3 x 2 x 3 \(C x H x "
                                                                 r"W\), its result 3 x 4 x 6")):
        with pytest.raises(GraphError, match=message):
            Graph((Source("x", 3),), (half, node), ("y",)).shapes({"x": (4, 6)}, {"half": 3, "j": 3})


def test_a_network_that_does_not_fit_names_layer_and_limit(capsys, tmp_path) -> None:
    save_graph(tmp_path / "net.json", NET, WEIGHTS)
    np.savez(tmp_path / "x.npz", x=inputs(1, 6, 10)["x"].swapaxes(0, 1))
    dense = tmp_path / "sqdm.json"
    dense.write_text(json.dumps({"parameters": asdict(replace(DEFAULT, name="dense", dense=2, sparse=0))}))
    arguments = [str(tmp_path / "net.json"), "--calibration", str(tmp_path / "x.npz"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--manifest", str(dense)]) == 1
    error = capsys.readouterr().err
    assert "net.json cannot run on dense: layer 'first'" in error
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_program_that_the_driver_runs(tmp_path, capsys) -> None:
    save_graph(tmp_path / "net.json", NET, WEIGHTS)
    np.savez(tmp_path / "x.npz", x=inputs(4)["x"].swapaxes(0, 1), block=[1, 2, 0, 0])
    out = tmp_path / "out"
    assert main([str(tmp_path / "net.json"), "--calibration", str(tmp_path / "x.npz"), "--preset", "tiny", "--samples",
                 "2", "--group", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "functional simulator and golden model agree bit for bit" in printed
    assert re.search(r"^y: \d+\.\d dB signal to quantisation noise", printed, re.MULTILINE)
    assert "machine cols=4" in (out / "program.txt").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    made = compile_graph(NET, WEIGHTS, inputs(4), TINY, 2, 4, sample_block=[1, 2, 0, 0])
    assert vars(load_program(out)) == vars(made.program)
    assert manifest["check"]["exact"]
    assert manifest["scales"]["y"] == made.quantisation.scales["y"].tolist()
    place = next(item for item in manifest["places"] if item["layer"] == "join")
    assert 0 <= place["in0_base"] < place["in0_end"] <= TINY.act_nibbles
    assert {item["layer"] for item in manifest["places"]} == {node.name for node in made.network.nodes}
    (out / "program.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="the program has 0 bytes, not"):
        load_program(out)


def description(**change) -> dict:
    made = {"format": FORMAT, "weights": "w.npz", "inputs": [{"name": "x", "channels": 1}],
            "nodes": [{"name": "n", "inputs": ["x"], "output": "y"}], "outputs": ["y"]}
    return made | change


def node(**change) -> dict:
    return description(nodes=[{"name": "n", "inputs": ["x"], "output": "y"} | change])


@pytest.mark.parametrize(("text", "message"), [
    ("{", "net.json: not JSON"),
    ("[]", r"net.json: the description must be an object, not \[\]"),
    (description(format="x"), "format='x' is not legal: it must be 'sqdm-graph-1'"),
    (description(extra=1), "the description: 'extra' is not legal: it must be one of format, weights, inputs"),
    (description(inputs=[{"name": "x"}]), "input 'x': 'channels' is missing"),
    (description(inputs=[{"name": "x", "channels": 1, "bits": 5}]), "input 'x': bits=5 is not legal: it must be 4 or"),
    (node(input="x"), "node 'n': 'input' is not legal: it must be one of name, inputs, output"),
    (node(inputs="x"), "node 'n': inputs='x' is not legal: it must be a list of names"),
    (node(relu=1), "node 'n': relu=1 is not legal: it must be bool"),
    (node(stride=True), "node 'n': stride=True is not legal: it must be int"),
    (node(residual=1), "node 'n': residual=1 is not legal: it must be str or null"),
    (description(nodes=[{"inputs": ["x"], "output": "y"}]), "node 0: 'name' is missing"),
    (description(outputs=[]), r"outputs=\[\] is not legal: it must be a list of names"),
])
def test_illegal_files_are_named(text, message, tmp_path) -> None:
    path = tmp_path / "net.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    np.savez(tmp_path / "w.npz", **{"n.weight": np.ones((1, 1, 3, 3))})
    with pytest.raises(GraphError, match=message):
        load_graph(path)


def test_illegal_files_of_arrays_are_named(tmp_path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(description()))
    with pytest.raises(OSError):
        load_graph(path)
    (tmp_path / "w.npz").write_bytes(b"no")
    with pytest.raises(GraphError, match=r"w\.npz: not an npz file of arrays"):
        load_graph(path)
    np.savez(tmp_path / "w.npz", **{"n.weight": np.ones((1, 1, 3, 3)), "m.weight": np.ones(2)})
    with pytest.raises(GraphError, match=r"w\.npz: no node uses the arrays m\.weight"):
        load_graph(path)
    np.savez(tmp_path / "w.npz", text=np.array(["a"]))
    with pytest.raises(GraphError, match="text must be numbers"):
        read_arrays(tmp_path / "w.npz")


@pytest.mark.parametrize(("arguments", "message"), [
    (["none.json"], "none.json: No such file"),
    (["none.onnx"], "none.onnx: No such file"),
    (["net.json", "--preset", "huge"], "preset=huge is not legal"),
    (["net.json", "--preset", "tiny", "--manifest", "x.npz"], "give one"),
    (["net.json", "--manifest", "net.json"], "not a manifest of hw.gen"),
    (["net.json", "--samples", "0"], "samples=0 is not legal"),
    (["net.json", "--eight-bits", "up"], "there is no convolution 'up', only first, small"),
])
def test_wrong_arguments_are_refused(arguments, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_graph(tmp_path / "net.json", NET, WEIGHTS)
    np.savez(tmp_path / "x.npz", x=inputs(1)["x"].swapaxes(0, 1))
    assert main([*arguments, "--calibration", "x.npz"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_integer_networks_have_the_weights_of_stride_2_rewritten() -> None:
    made = compile_graph(NET, WEIGHTS, inputs(2), DEFAULT, 1, 4).network
    nodes = {node.name: node for node in made.nodes}
    assert nodes["small"].weights.shape == (3, 20, 3, 3)
    assert nodes["shortcut"].weights.shape == (3, 20, 1, 1)
    assert nodes["small"].inputs == ("a strided",)
    assert [nodes[name].transform for name in ("wide", "middle", "middle upsampled")] == ["upsample", "none",
                                                                                          "upsample"]
    with pytest.raises(GraphError, match="node 'small': stride 2 needs"):
        integer_network(NET, Quantisation({}, {}, {}, {name: np.ones((1, k)) for name, (k, _) in KERNELS.items()}
                                          | {"affine": np.ones((1, 5))}, {}), {"x": (3, 2)}, 1)
