"""The table of all testbenches: what `make sim` runs, and tests/ runs again under pytest.

A bench is a cocotb module and a function that prepares a run of it: the function emits the Verilog into a directory
and makes the vectors, both from the golden model's and the generator's one configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .runner import Outcome, run

__all__ = ["BENCHES", "Bench", "Job"]


@dataclass(frozen=True)
class Job:
    """One prepared run of a bench.

    Parameters
    ----------
    verilog : Path
        The emitted Verilog.
    top : str
        The module under test.
    vectors : mapping of str to array
        Stimuli and expected values, which the bench reads with `sim.streams.vectors`.
    env : mapping of str to str
        Environment variables for the bench.
    """

    verilog: Path
    top: str
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A testbench.

    Parameters
    ----------
    name : str
        What ``BLOCK=`` selects; several benches of a block are named BLOCK-VARIANT.
    module : str
        Dotted name of the cocotb module.
    prepare : callable
        Takes a directory for the Verilog and a seed for the vectors.
    simulators : tuple of str
        Those that the bench is meant for.
    """

    name: str
    module: str
    prepare: Callable[[Path, int], Job]
    simulators: tuple[str, ...] = ("verilator",)

    @property
    def block(self) -> str:
        """The block under test."""
        return self.name.split("-")[0]

    def run(
        self, seed: int, simulator: str = "verilator", waves: bool = False, build_dir: Path | str = "build"
    ) -> Outcome:
        """Prepare and run the bench; see `runner.run`."""
        directory = Path(build_dir) / "sim" / "verilog" / f"{self.name}-{simulator}-{seed}"
        directory.mkdir(parents=True, exist_ok=True)
        job = self.prepare(directory, seed)
        return run(
            self.module,
            job.verilog,
            job.top,
            seed=seed,
            name=self.name,
            simulator=simulator,
            waves=waves,
            vectors=job.vectors,
            env=job.env,
            build_dir=build_dir,
        )


BENCHES: tuple[Bench, ...] = ()
