"""A whole time step of a trained U-Net as one program on the emitted accelerator, exact, with all its counters.

It emits the accelerator's Verilog, compiles it to a simulation, and drives it as a host does: by registers and memory
alone, with `sqdm.Device`. Host memory answers behind the AXI4 master, a beat per cycle. For each batch size the result
is compared with the golden network and with the functional simulator, and the labels of all tensors with the
simulator's; the counters are compared with those that the cycle model predicts. The table and all counters go to
step.json. The exit code is 0 if all is exact, 1 if anything differs or could not run, 2 if an argument is wrong.

examples:
  python -m sim.step                                   batch 1, 4 and 16 of the model digits32, time step 9
  python -m sim.step --model digits16 --batch 8 --step 0
  python -m sim.step --latency 40 --stall 0.2 --batch 1
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from golden.conv import AccumulatorOverflow
from golden.graph.integer import balanced
from golden.layer import LayerError
from golden.program.reference import run_network
from golden.program.simulator import Simulator, Traffic
from golden.program.tiler import tile
from golden.program.timeline import ProgramCounters, predict_program
from golden.report import Table, announced, write_whole
from golden.workload.layers import Workload
from golden.workload.network import NetworkStep, step_network
from golden.workload.unet import CLASSES, DEFAULT_MODEL, MODELS
from hw.accelerator import counter_events
from hw.config import PRESETS, Config, ConfigError, preset
from hw.gen import convert
from sqdm import Device, DeviceError

from .accelerator import SimBackend
from .fast import FastSim
from .folders import add_folders
from .toolchain import ToolError

__all__ = ["StepRun", "main", "run_step"]

TIMEOUT = 3600.0    # seconds; a run is over in a few
COLUMNS = {"batch": 5, "layers": 6, "run": 7, "idle": 6, "idle %": 6, "outside": 7, "read": 6, "written": 7,
           "run/bound": 9, "model run": 9, "idle ": 6, "beats": 5, "exact": 5}
LEGEND = """run = cycles from start to done; idle = those in which no array multiplied, and their share of the run;
outside = cycles in which no layer runs; read, written = beats of the bus; bound = the more of the two, which the bus
needs at least; model run, idle, beats = deviation of the cycle model, and whether its beats are the RTL's;
exact = result and labels are the golden model's"""


@dataclass(frozen=True, eq=False)
class StepRun:
    """A time step on the RTL.

    Parameters
    ----------
    samples, blocks, descriptors : int
    counters : dict
        By the names of `hw.accelerator.counter_events`.
    predicted : ProgramCounters
        What the cycle model says.
    traffic : Traffic
        Bytes that the program moves.
    wrong : int
        Values of the outputs that differ from the golden network's or from the simulator's.
    wrong_labels : int
        Channels whose label is not the simulator's.
    """

    samples: int
    blocks: int
    descriptors: int
    counters: dict[str, int]
    predicted: ProgramCounters
    traffic: Traffic
    wrong: int
    wrong_labels: int

    @property
    def exact(self) -> bool:
        """Whether results and labels are those of the golden model."""
        return self.wrong == 0 and self.wrong_labels == 0

    @property
    def bound(self) -> int:
        """Cycles that the bus needs at least: reads and writes pass side by side, a beat per cycle each."""
        return max(self.counters["read"], self.counters["written"])

    @property
    def idle_share(self) -> float:
        """Share of the run in which no array multiplies."""
        return self.counters["idle"] / self.counters["run"]

    @property
    def beats_predicted(self) -> bool:
        """Whether the cycle model has the beats of the bus."""
        return (self.predicted.read, self.predicted.written) == (self.counters["read"], self.counters["written"])

    def deviation(self, name: str) -> float:
        """How much more the cycle model says than the RTL, as a share."""
        return getattr(self.predicted, name) / self.counters[name] - 1

    def to_json(self) -> dict[str, Any]:
        """The numbers, by name."""
        return {
            "batch": self.samples, "blocks": self.blocks, "descriptors": self.descriptors, "exact": self.exact,
            "wrong_values": self.wrong, "wrong_labels": self.wrong_labels, "idle_share": round(self.idle_share, 4),
            "bound": self.bound, "run_over_bound": round(self.counters["run"] / self.bound, 4),
            "counters": self.counters, "bytes": asdict(self.traffic), "predicted": asdict(self.predicted),
        }


def run_step(config: Config, device: Device, made: NetworkStep, step: int, latency: int = 8) -> StepRun:
    """Run a time step, and compare it with what it should be.

    Parameters
    ----------
    config : Config
        That of the device.
    device : Device
    made : NetworkStep
    step : int
    latency : int
        Of the device's memory, for the cycle model.

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run a layer.
    sqdm.DeviceError
        If the run ends with an error or not at all.
    """
    program = tile(made.network, config)
    simulator = Simulator(config, program.code, program.data(made.inputs, made.sample_block))
    predicted = predict_program(config, program, bytes(simulator.data), step, latency)
    outcome = simulator.run(program.count, step)
    expected = run_network(config, made.network, made.inputs, made.sample_block, step)

    device.reset()
    device.load_program(program, config.config_hash)
    for name, tensor in made.inputs.items():
        device.write_data(name, tensor)
    device.set_batch(made.sample_block)
    device.clear_counters()
    device.run_step(step, TIMEOUT)
    counters = device.counters()

    wrong = wrong_labels = 0
    for name in made.network.outputs:
        found = device.read_data(name).values
        wrong += int(np.count_nonzero((found != expected[name].values)
                                  | (found != program.tensor(simulator.data, name).values)))
    for name, places in program.labels.items():
        labels = device.labels(name)
        found_labels = zip(labels.sparse, labels.dead, labels.bin, strict=True)
        wrong_labels += sum(tuple(label) != simulator.labels.read(*place)
                            for label, place in zip(found_labels, places, strict=True))
    return StepRun(made.network.samples, program.blocks, program.count, counters, predicted, outcome.traffic,
                   wrong, wrong_labels)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m sim.step", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", metavar="NAME",
                        help=f"configuration, one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                        help=f"one of {', '.join(MODELS)}, with ReLU (default: {DEFAULT_MODEL})")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16], metavar="N",
                        help="samples (default: 1 4 16)")
    parser.add_argument("--step", type=int, default=9, metavar="T", help="0 (noise) to 17 (image) (default: 9)")
    parser.add_argument("--latency", type=int, default=8, metavar="CYCLES", help="of host memory (default: 8)")
    parser.add_argument("--stall", type=float, default=0.0, metavar="SHARE",
                        help="of cycles in which a channel of the bus rests (default: 0)")
    add_folders(parser, "step", "Verilog and step.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _arguments(arguments)
    try:
        config = preset(options.preset)
        if not 0 <= options.stall < 1 or options.latency < 1:
            raise ValueError(f"stall={options.stall}, latency={options.latency}: stall must be from 0 to below 1, "
                             "latency at least 1")
        steps = [step_network(options.step, Workload(model=options.model, samples=max(samples, CLASSES)),
                              balanced(config), samples) for samples in options.batch]
    except (ConfigError, ValueError) as error:
        print(f"sim.step: {error}", file=sys.stderr)
        return 2
    try:
        with announced(f"1/3 emitting Verilog: the accelerator, preset {config.name}"):
            verilog = convert("accelerator", config).write(options.out)[0]
        with announced("2/3 compiling it to a simulation (some minutes the first time, then kept)"):
            sim = FastSim.build(verilog, verilog.stem, options.build)
        return _steps(config, sim, steps, options)
    except (ToolError, DeviceError, LayerError, AccumulatorOverflow) as error:
        print(f"sim.step: {error}", file=sys.stderr)
        return 1


def _steps(config: Config, sim: FastSim, steps: Sequence[NetworkStep], options: argparse.Namespace) -> int:
    print(f"3/3 running time step {options.step} of the model {options.model}; memory answers after "
          f"{options.latency} cycles\n")
    runs, table = [], Table(COLUMNS)
    with sim:
        device = Device(SimBackend(sim, latency=options.latency, stall=options.stall))
        print(table.head())
        for made in steps:
            run = run_step(config, device, made, options.step, options.latency)
            runs.append(run)
            print(table.line(_cells(run)), flush=True)
    print(LEGEND)
    _print_arrays(config, runs)
    report = {"configuration": config.to_json(), "model": options.model, "step": options.step,
              "latency": options.latency, "stall": options.stall, "runs": [run.to_json() for run in runs]}
    write_whole(options.out / "step.json", json.dumps(report, indent=2) + "\n")
    print(f"\n{options.out / 'step.json'}")
    exact = all(run.exact for run in runs)
    print("exact" if exact else "DIFFERENT")
    return 0 if exact else 1


def _cells(run: StepRun) -> list[object]:
    counters = run.counters
    return [run.samples, counters["layers"], counters["run"], counters["idle"], f"{100 * run.idle_share:.1f}",
            counters["run"] - counters["layer"], counters["read"], counters["written"],
            f"{counters['run'] / run.bound:.3f}", f"{100 * run.deviation('run'):+.2f} %",
            f"{100 * run.deviation('idle'):+.1f} %", *("yes" if good else "NO" for good in
                                                       (run.beats_predicted, run.exact))]


def _print_arrays(config: Config, runs: Sequence[StepRun]) -> None:
    """The arrays' counters, a line for each batch and array, as shares of the run."""
    names = [name for name in counter_events(config) if "_" in name]
    arrays = list(dict.fromkeys(name.split("_")[0] for name in names))
    causes = [name.split("_")[1] for name in names if name.startswith(arrays[0])]
    table = Table({"batch": 5, "array": -8, **{cause: 8 for cause in causes}})
    print("\nWhat each array's cycles went to, % of the run; steps = multiplications of a row per cycle")
    print(table.head())
    for run in runs:
        for array in arrays:
            shares = [run.counters[f"{array}_{cause}"] / run.counters["run"] for cause in causes]
            shares[-1] /= config.rows
            print(table.line([run.samples, array, *(f"{100 * share:.1f}" for share in shares)]))


if __name__ == "__main__":
    sys.exit(main())
