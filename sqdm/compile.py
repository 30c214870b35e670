"""Compile a network for the accelerator: quantise it, write its program, and check that against the float network.

The network is a JSON description beside an npz of arrays (docs/networks.md), or an ONNX file of Conv, Add, Concat,
Resize and Relu (needs the package onnx). It is calibrated on inputs from an npz: for each input of the network an array
[n, C, H, W] by its name, and `block` [n], the parameter block of each sample, if the network has several.

Written to --out: program.bin (the program region), program.txt (its listing), manifest.json (what the driver must know:
places in the data region, scales, labels; places of each layer in activation memory). Then the functional simulator
runs the program on the first inputs; its result must be that of the golden model bit for bit, and how close it comes
to the float network is printed. The exit code is 0 if all is well, 1 if the configuration cannot run the network or a
result differs, 2 if an argument or a file is wrong.

examples:
  python -m sqdm.compile net.json --calibration inputs.npz --preset tiny --out build/net
  python -m sqdm.compile net.onnx --calibration inputs.npz --samples 4 --eight-bits conv1 conv9
  python -m sqdm.compile net.onnx --calibration inputs.npz --manifest build/sqdm.json       for that hardware
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden.conv import AccumulatorOverflow
from golden.formats import ScaleFormat, Tensor
from golden.graph.calibrate import NARROW_SCALES, calibrated
from golden.graph.file import load_graph, read_arrays
from golden.graph.forward import Activations, Float32Array, Weights, modulation_blocks, run, stored
from golden.graph.graph import Graph, GraphError
from golden.graph.integer import Quantisation, balanced, integer_network
from golden.layer import LayerError
from golden.program.assembler import disassemble
from golden.program.bundle import Program
from golden.program.descriptor import BYTES, decode
from golden.program.network import Network
from golden.program.pack import Packing
from golden.program.reference import run_network
from golden.program.simulator import Simulator
from golden.program.tiler import tile
from golden.report import Table, announced, write_whole
from hw.config import PRESETS, Config, ConfigError, preset

__all__ = ["Compiled", "compile_graph", "load_program", "main"]

GROUP = 8
PLACES = ("in0_base", "in0_end", "in1_base", "in1_end", "res_base", "res_end", "out_base", "out_end")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network, its program and what they were checked with.

    Parameters
    ----------
    config : Config
    network : Network
    quantisation : Quantisation
        What the integers stand for.
    program : Program
    inputs : dict of str to Tensor
        The samples that it was checked on.
    sample_block : tuple of int
    sqnr : dict of str to float
        By output, signal to quantisation noise in dB against the float network.
    exact : bool
        Whether the functional simulator and the golden network agree bit for bit.
    """

    config: Config
    network: Network
    quantisation: Quantisation
    program: Program
    inputs: dict[str, Tensor]
    sample_block: tuple[int, ...]
    sqnr: dict[str, float]
    exact: bool


def compile_graph(graph: Graph, weights: Weights, calibration: dict[str, Float32Array], config: Config,
                  samples: int = 1, group: int = GROUP, sample_block: Sequence[int] | None = None) -> Compiled:
    """Quantise a network, write its program, and run it on the functional simulator.

    Parameters
    ----------
    graph, weights
        See `golden.graph`.
    calibration : dict of str to float32 [C, n, H, W]
        Inputs by name. The program is checked on the first ones, from the first again if there are too few.
    config : Config
    samples : int
        Batch of the program.
    group : int
        Input channels per scale code.
    sample_block : sequence of int [n], optional
        Parameter block of each sample of the calibration; by default 0.

    Raises
    ------
    GraphError
        If network and calibration do not go together.
    ValueError
        If the batch is not legal, or a layer has no room for a factor between its scales.
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run a layer; names it and the limit.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} is not legal: it must be at least 1")
    count = next(iter(calibration.values())).shape[1] if calibration else 0
    numbers = np.zeros(count, np.int64) if sample_block is None else np.array(sample_block, np.int64)
    blocks = modulation_blocks(graph, weights)
    if numbers.shape != (count,) or not ((numbers >= 0) & (numbers < blocks)).all():
        raise GraphError(f"block must be {count} numbers from 0 to {blocks - 1}, one for each sample")
    tensors = run(graph, weights, calibration, stored(weights, numbers.tolist()))
    window = ScaleFormat(min(NARROW_SCALES.exp_bits, config.scale_exp_bits), config.scale_man_bits)
    quantisation = calibrated(graph, weights, tensors, group, window)
    sizes = {name: (x.shape[2], x.shape[3]) for name, x in calibration.items()}
    network = integer_network(graph, quantisation, sizes, samples, range(blocks), balanced(config))
    program = tile(network, config)

    taken = np.arange(samples) % count
    inputs = {source.name: quantised(tensors, source.name, taken, numbers, quantisation) for source in graph.inputs}
    chosen = tuple(numbers[taken].tolist())
    simulator = Simulator(config, program.code, program.data(inputs, chosen))
    outcome = simulator.run(program.count)
    expected = run_network(config, network, inputs, chosen)
    exact, sqnr = outcome.error is None, {}
    for name in graph.outputs:
        found = program.tensor(simulator.data, name).values
        exact &= bool((found == expected[name].values).all())
        sqnr[name] = signal_to_noise(found * quantisation.scales[name][list(chosen)][:, None, None],
                                     tensors[name][:, taken])
    return Compiled(config, network, quantisation, program, inputs, chosen, sqnr, exact)


def quantised(tensors: Activations, name: str, taken: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any],
              quantisation: Quantisation) -> Tensor:
    """Some samples of a tensor in integers."""
    fmt, scale = quantisation.formats[name], quantisation.scales[name][numbers[taken]][:, None, None]
    values = np.clip(np.rint(tensors[name][:, taken] / scale), fmt.min, fmt.max)
    return Tensor(values.astype(np.int64), fmt)


def signal_to_noise(values: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """Power of the reference over that of the difference, in dB."""
    noise = float(np.square(values - reference).sum())
    return float(10 * np.log10(max(float(np.square(reference).sum()), 1e-30) / max(noise, 1e-30)))


def manifest(compiled: Compiled) -> dict[str, Any]:
    """What the driver must know, and where everything lies."""
    program, scales = compiled.program, compiled.quantisation.scales
    made = program.to_json()
    for name, place in made["tensors"].items():
        if name in scales:
            place["scale"] = scales[name].tolist()
    made["places"] = []
    for number, name in program.layers.items():
        descriptor = decode(program.code[BYTES * number:BYTES * (number + 1)])
        made["places"].append({"descriptor": number, "layer": name}
                              | {place: descriptor.get(place) for place in PLACES})
    return {"configuration": compiled.config.to_json()} | made | {
        "scales": {name: scale.tolist() for name, scale in scales.items()},
        "check": {"samples": len(compiled.sample_block), "blocks": list(compiled.sample_block), "exact": compiled.exact,
                  "sqnr_db": {name: round(value, 2) for name, value in compiled.sqnr.items()}}}


def load_program(folder: Path | str) -> Program:
    """The program that this command wrote to a folder, for `sqdm.Device.load_program`; raises OSError, ValueError."""
    folder = Path(folder)
    return Program.from_json((folder / "program.bin").read_bytes(), json.loads((folder / "manifest.json").read_text()))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sqdm.compile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="a .json description or an .onnx file")
    parser.add_argument("--calibration", type=Path, required=True, metavar="FILE",
                        help="npz with typical inputs [n, C, H, W] by name")
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--manifest", type=Path, metavar="FILE",
                        help="in the place of a preset: what hw.gen wrote beside the Verilog")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="batch of the program (default: 1)")
    parser.add_argument("--group", type=int, default=GROUP, metavar="G",
                        help=f"input channels per weight scale (default: {GROUP})")
    parser.add_argument("--eight-bits", nargs="+", default=[], metavar="NODE",
                        help="convolutions with 8-bit weights, beside those of the description")
    parser.add_argument("--out", type=Path, default=Path("build/network"), metavar="DIR",
                        help="for program and manifest (default: build/network)")
    return parser.parse_args(arguments)


def _config(options: argparse.Namespace) -> Config:
    if options.manifest is None:
        return preset(options.preset or "default")
    if options.preset is not None:
        raise ConfigError("--preset and --manifest are two ways to say the configuration: give one")
    try:
        return Config(**json.loads(options.manifest.read_text())["parameters"])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{options.manifest}: not a manifest of hw.gen: {error!r}") from None


def _network(path: Path, eight_bits: Sequence[str]) -> tuple[Graph, Weights]:
    if path.suffix == ".onnx":
        try:
            from golden.graph.from_onnx import load_onnx
        except ImportError as error:
            raise GraphError(f"{path}: the package {error.name} is missing: pip install -e .[onnx]") from None
        graph, weights = load_onnx(path)
    else:
        graph, weights = load_graph(path)
    convolutions = [node.name for node in graph.nodes if node.kind == "convolution"]
    if unknown := [name for name in eight_bits if name not in convolutions]:
        raise GraphError(f"{path}: there is no convolution {unknown[0]!r}, only {', '.join(convolutions)}")
    nodes = tuple(replace(node, weight_bits=8) if node.name in eight_bits else node for node in graph.nodes)
    return replace(graph, nodes=nodes), weights


def _calibration(path: Path) -> tuple[dict[str, Float32Array], list[int] | None]:
    arrays = read_arrays(path)
    block = arrays.pop("block", None)
    for name, array in arrays.items():
        if array.ndim != 4 or not array.size:
            raise GraphError(f"{path}: {name} must have the shape [n, C, H, W], not {list(array.shape)}")
    return ({name: array.swapaxes(0, 1) for name, array in arrays.items()},
            None if block is None else block.astype(np.int64).tolist())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _arguments(arguments)
    try:
        config = _config(options)
        graph, weights = _network(options.network, options.eight_bits)
        calibration, blocks = _calibration(options.calibration)
        with announced(f"Compiling {len(graph.nodes)} layers for {config.name}"):
            compiled = compile_graph(graph, weights, calibration, config, options.samples, options.group, blocks)
    except (LayerError, AccumulatorOverflow) as error:
        print(f"sqdm.compile: {options.network} cannot run on {config.name}: {error}", file=sys.stderr)
        return 1
    except (ConfigError, ValueError) as error:
        print(f"sqdm.compile: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sqdm.compile: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    _print(compiled)
    try:
        _write(compiled, options.out)
    except OSError as error:
        print(f"sqdm.compile: cannot write to {options.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if compiled.exact else 1


def _print(compiled: Compiled) -> None:
    program, tensors = compiled.program, compiled.network.tensors
    table = Table({"layer": -24, "output (C x N x H x W)": -24, "format": -6, "scale": 10})
    print(table.head())
    for node in compiled.network.nodes:
        scale = compiled.quantisation.scales.get(node.output)
        print(table.line([node.name, " x ".join(map(str, tensors[node.output].shape)), tensors[node.output].fmt.name,
                          "" if scale is None else f"{scale[0]:.4g}"]))
    print(f"{program.count} descriptors, {len(program.code):,} bytes of program, {program.data_size:,} of data; batch "
          f"of {program.samples}, up to {program.blocks} parameter blocks in it")
    print("functional simulator and golden model " + ("agree bit for bit" if compiled.exact else "DIFFER"))
    for name, value in compiled.sqnr.items():
        print(f"{name}: {value:.1f} dB signal to quantisation noise, against the float network")


def _write(compiled: Compiled, out: Path) -> None:
    files: dict[str, str | bytes] = {
        "program.bin": compiled.program.code,
        "program.txt": disassemble(compiled.program.code, compiled.program.count, Packing.of(compiled.config)),
        "manifest.json": json.dumps(manifest(compiled), indent=1) + "\n"}
    for name, content in files.items():
        write_whole(out / name, content)
        print(f"    {out / name}")


if __name__ == "__main__":
    sys.exit(main())
