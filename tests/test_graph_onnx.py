"""Import from ONNX, against ONNX's own reference evaluator."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from golden.graph.forward import run
from golden.graph.from_onnx import RESIZE_MODES, from_onnx, load_onnx
from golden.graph.graph import GraphError
from hw.config import preset
from sqdm.compile import compile_graph, load_program, main


def model(nodes, constants, channels=2, outputs=("y",), inputs=("x",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
                       for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list("NKHW")) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random(rng, *shape) -> np.ndarray:
    return rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)


def compare(made: onnx.ModelProto, x: np.ndarray) -> tuple:
    """The imported network gives what the evaluator gives; x is [n, C, H, W]."""
    graph, weights = from_onnx(made)
    found = run(graph, weights, {"x": x.swapaxes(0, 1)})
    names = [output.name for output in made.graph.output]
    assert list(graph.outputs) == names
    for name, expected in zip(names, ReferenceEvaluator(made).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(found[name].swapaxes(0, 1), expected, atol=1e-5, err_msg=name)
    return graph, weights


def unet(rng) -> onnx.ModelProto:
    """A small U-Net as exporters write it: separate additions, ReLUs and resizes, unnamed nodes, Constant, Identity."""
    node = helper.make_node
    half = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="down", **half),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], auto_pad="SAME_UPPER"),
        node("Conv", ["r0", "w3"], ["c3"], strides=[2, 2]),
        node("Add", ["c3", "c2"], ["a2"]),
        node("Relu", ["a2"], ["r2"]),
        node("Constant", [], ["scales"], value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))),
        node("Resize", ["r2", "", "scales"], ["u2"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("Identity", ["r0"], ["again"]),
        node("Concat", ["u2", "again"], ["j"], axis=1),
        node("Conv", ["j", "w4", "b4"], ["c4"], pads=[0, 0, 0, 0], kernel_shape=[1, 1]),
        node("Add", ["c4", "again"], ["y"]),
        node("Identity", ["r2"], ["features"]),
    ]
    shapes = {"w0": (5, 2, 3, 3), "b0": (5,), "w1": (3, 5, 3, 3), "b1": (3,), "w2": (7, 3, 3, 3), "w3": (7, 5, 1, 1),
              "w4": (5, 12, 1, 1), "b4": (5,)}
    constants = {name: random(rng, *shape) for name, shape in shapes.items()}
    return model(nodes, constants, outputs=("y", "features"))


def test_a_network_is_imported_and_its_layers_joined() -> None:
    rng = np.random.default_rng(1)
    graph, weights = compare(unet(rng), rng.standard_normal((3, 2, 6, 10)).astype(np.float32))
    # The ReLU's tensor is an output by another name, and is upsampled: both stay layers of their own.
    assert [(node.name, node.residual, node.relu, node.upsample, node.stride) for node in graph.nodes] == [
        ("Conv0", None, True, False, 1), ("down", None, True, False, 2), ("Conv4", None, False, False, 1),
        ("Conv5", "c2", True, False, 2), ("Resize9", None, False, True, 1), ("Conv12", "r0", False, False, 1),
        ("features copied", None, False, False, 1)]
    assert [node.name for node in graph.nodes if node.kind == "elementwise"] == ["Resize9", "features copied"]
    assert graph.nodes[5].inputs == ("u2", "r0")
    assert set(weights) == {"Conv0.weight", "Conv0.bias", "down.weight", "down.bias", "Conv4.weight", "Conv5.weight",
                            "Conv12.weight", "Conv12.bias"}


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_what_the_reference_says(seed) -> None:
    """Layers in any order on tensors of two sizes, each read by any number of others."""
    rng = np.random.default_rng([7, seed])
    sizes, channels, nodes, constants = {"x": 1}, {"x": 2}, [], {}
    constants["twice"] = np.array([1, 1, 2, 2])
    for number in range(12):
        name = f"t{number}"
        source = list(sizes)[rng.integers(len(sizes))]
        alike = [other for other in sizes if sizes[other] == sizes[source] and other != source]
        same = [other for other in [source, *alike] if channels[other] == channels[source]]
        kind = rng.choice(["Conv", "Relu", "Add", "Resize", "Concat"])
        if kind == "Relu":
            nodes.append(helper.make_node("Relu", [source], [name]))
            channels[name], sizes[name] = channels[source], sizes[source]
        elif kind == "Add":
            nodes.append(helper.make_node("Add", [source, same[rng.integers(len(same))]], [name]))
            channels[name], sizes[name] = channels[source], sizes[source]
        elif kind == "Resize" and sizes[source] < 4:
            ways = RESIZE_MODES[rng.integers(len(RESIZE_MODES))]
            nodes.append(helper.make_node("Resize", [source, "", "twice"], [name], mode="nearest",
                                          coordinate_transformation_mode=ways[0], nearest_mode=ways[1]))
            channels[name], sizes[name] = channels[source], 2 * sizes[source]
        else:
            inputs, joined = source, channels[source]
            if kind == "Concat" and alike:
                other = alike[rng.integers(len(alike))]
                inputs, joined = f"{name} joined", joined + channels[other]
                nodes.append(helper.make_node("Concat", [source, other], [inputs], axis=int(rng.choice([1, -3]))))
            size, stride = int(rng.choice([1, 3])), int(rng.integers(1, 3)) if sizes[source] > 1 else 1
            outputs = int(rng.integers(1, 4))
            constants[f"w{number}"] = random(rng, outputs, joined, size, size)
            extra = []
            if rng.random() < 0.5:
                constants[f"b{number}"], extra = random(rng, outputs), [f"b{number}"]
            nodes.append(helper.make_node("Conv", [inputs, f"w{number}", *extra], [name], strides=[stride] * 2,
                                          pads=[size // 2] * 4, name=f"layer {number}" if rng.random() < 0.5 else ""))
            channels[name], sizes[name] = outputs, sizes[source] // stride
    made = model(nodes, constants, outputs=tuple(name for name in sizes if name != "x" and
                                                 (rng.random() < 0.3 or name == "t11")))
    x = rng.standard_normal((2, 2, 3, 5)).astype(np.float32)
    graph, weights = compare(made, x)
    compiled = compile_graph(graph, weights, {"x": x.swapaxes(0, 1)}, preset("default"), 2)
    assert compiled.exact, seed


def test_the_command_compiles_an_onnx_file(tmp_path, capsys) -> None:
    rng = np.random.default_rng(3)
    (tmp_path / "net.onnx").write_bytes(unet(rng).SerializeToString())
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((3, 2, 6, 10)))
    arguments = [str(tmp_path / "net.onnx"), "--calibration", str(tmp_path / "x.npz"), "--preset", "tiny", "--out",
                 str(tmp_path / "out")]
    assert main([*arguments, "--eight-bits", "Conv0", "Conv12"]) == 1
    assert "net.onnx cannot run on tiny: layer 'Conv12': table_count is 38; the conf" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--eight-bits", "Conv0"]) == 0
    assert "agree bit for bit" in capsys.readouterr().out
    assert set(load_program(tmp_path / "out").layers.values()) >= {"Conv0", "down", "Conv12"}
    assert main([*arguments, "--eight-bits", "Conv1"]) == 2
    assert "there is no convolution 'Conv1', only Conv0, down" in capsys.readouterr().err
    (tmp_path / "net.onnx").write_bytes(b"no model")
    assert main(arguments) == 2
    assert "net.onnx: not an ONNX model" in capsys.readouterr().err


def single(operator, *, weight=(3, 2, 3, 3), inputs=("x", "w"), more=(), **attributes) -> onnx.ModelProto:
    node = helper.make_node(operator, list(inputs), ["y"], name="it", **attributes)
    constants = {"w": np.ones(weight), "s": np.array([1, 1, 2, 2]), "s3": np.array([1, 1, 3, 3])}
    return model([*more, node], constants)


JOIN = helper.make_node("Concat", ["x", "z"], ["j"], axis=1)
SPLIT = helper.make_node("Conv", ["x", "w"], ["z"], name="first", pads=[1] * 4)


@pytest.mark.parametrize(("made", "message"), [
    (single("Sigmoid", inputs=("x",)), r"node 'it' \(Sigmoid\): the operator must be one of Conv, Add, Concat, Resize"),
    (single("MaxPool", inputs=("x",), kernel_shape=[2, 2]), r"node 'it' \(MaxPool\): the operator must be"),
    (single("Conv", weight=(3, 2, 5, 5)), r"node 'it' \(Conv\): the kernel must be 1 x 1 or 3 x 3, not 5 x 5"),
    (single("Conv", weight=(3, 2, 1, 3)), "not 1 x 3"),
    (single("Conv", strides=[3, 3], pads=[1] * 4), r"strides=\(3, 3\) is not legal: it must be \(1, 1\) or \(2, 2\)"),
    (single("Conv", strides=[1, 2], pads=[1] * 4), r"strides=\(1, 2\)"),
    (single("Conv"), r"pads=\(0, 0, 0, 0\) is not legal: it must be \(1, 1, 1, 1\)"),
    (single("Conv", pads=[0, 0, 1, 1]), r"pads=\(0, 0, 1, 1\)"),
    (single("Conv", auto_pad="SAME_UPPER", strides=[2, 2]), "auto_pad=SAME_UPPER with strides .* pads one side more"),
    (single("Conv", dilations=[2, 2], pads=[1] * 4), r"dilations=\(2, 2\)"),
    (single("Conv", weight=(4, 1, 3, 3), group=2, pads=[1] * 4), "group=2 is not legal: it must be 1"),
    (single("Conv", weight=(3, 3, 3, 3), pads=[1] * 4), r"node 'it': it.weight must have the shape \[K, 2, 1, 1\]"),
    (single("Conv", inputs=("x", "x"), pads=[1] * 4), r"node 'it' \(Conv\): 'x' must be a constant"),
    (single("Add"), r"node 'it' \(Add\) reads the constant 'w'; only tensors"),
    (single("Concat", inputs=("x", "z"), axis=2, more=[SPLIT]), "axis=2 is not legal: it must be 1, the channels"),
    (single("Concat", inputs=("x", "z", "z"), axis=1, more=[SPLIT]), "x, z, z is not legal: it must be two different"),
    (single("Relu", inputs=("j",), more=[SPLIT, JOIN]), "reads 'j', which a Concat makes; only a Conv can"),
    (single("Resize", inputs=("x", "", "s"), mode="linear"), "mode=linear, half_pixel, .* is not legal"),
    (single("Resize", inputs=("x", "", "s"), coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
     "mode=nearest, asymmetric, ceil is not legal"),
    (single("Resize", inputs=("x", "", "s3")), r"scales \(1.0, 1.0, 3.0, 3.0\) are not legal"),
    (single("Resize", inputs=("x", "", "", "s")), "it must have constant scales"),
    (model([helper.make_node("Relu", ["z"], ["y"])], {}), "not a valid model"),
    (model([SPLIT, JOIN], {"w": np.ones((3, 2, 3, 3))}, outputs=("j",)), "output 'j' reads 'j', which a Concat makes"),
    (model([helper.make_node("Relu", ["x"], ["y"])], {}, channels="c"), r"input 'x' must have the shape \[N, C, H,"),
], ids=range(24))
def test_everything_else_is_refused_by_name(made, message) -> None:
    with pytest.raises(GraphError, match=message):
        from_onnx(made)


def test_a_residual_of_another_size_is_named(tmp_path) -> None:
    made = model([helper.make_node("Conv", ["x", "w"], ["c"], name="c1"), helper.make_node("Add", ["c", "x"], ["y"])],
                 {"w": np.ones((1, 2, 1, 1))})
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    graph, weights = load_onnx(tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="node 'c1': its residual 'x' is 2 x 4 x 6"):
        run(graph, weights, {"x": np.ones((2, 1, 4, 6), np.float32)})
