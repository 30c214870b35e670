"""The functional lane: run a cocotb testbench on emitted Verilog, with Verilator or Icarus.

A design is compiled once per content, into ``build/sim/models/``, under a lock; any number of runs may then use the
model at the same time. Each run has its own directory ``build/sim/runs/NAME-SIMULATOR-SEED/`` with the vectors, the
log, the results as JUnit XML and the waves.

cocotb's runner does the work. What differs from its defaults, and why:

- Verilator keeps every signal of the design visible, which halves the speed. Our build publishes only the ports of
  the top module (a bench uses nothing else), except when waves are wanted.
- One C++ file per design: of large ones, several with their precompiled headers take a third more CPU time to compile.
- Success is read from the results file. The runner would otherwise decide for itself, by `sys.exit` under pytest.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Any
from xml.etree import ElementTree

import numpy as np
from cocotb_tools.runner import get_runner
from numpy.typing import NDArray

from . import toolchain
from .cache import cached, content_key, locked
from .streams import CLOCK_NS, VECTORS

__all__ = ["SIMULATORS", "Outcome", "run"]

SIMULATORS = ("verilator", "icarus")
TIMESCALE = ("1ns", "1ns")  # the clock's half period is 5 ns, and nothing in the design has a delay
EMPTY = "module empty(input clk, input rst); endmodule\n"
VERILATOR_ARGUMENTS = ("-Wno-lint", "-Wno-style", "--no-timing", "-O3", "--x-assign", "fast", "--x-initial", "fast",
                       "--output-split", "0")


@dataclass(frozen=True)
class Outcome:
    """What a run of a testbench came to.

    Parameters
    ----------
    name, simulator, seed
        What was run.
    passed : tuple of str
        Names of the tests that passed.
    failed : mapping of str to str
        Names of the tests that failed, with the first line of the reason.
    skipped : mapping of str to str
        Names of the tests that the bench skipped, with the reason.
    cycles : int
        Clock cycles simulated, over all tests.
    seconds : float
        Duration of the simulation, without compilation.
    directory : Path
        Where the log, ``results.xml`` and the waves are.
    """

    name: str
    simulator: str
    seed: int
    passed: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    cycles: int
    seconds: float
    directory: Path

    @property
    def ok(self) -> bool:
        """Whether at least one test ran, and none failed."""
        return bool(self.passed) and not self.failed

    def require(self) -> None:
        """Raise an `AssertionError` that says what failed, with which seed, and where to look, unless `ok`."""
        if self.ok:
            return
        reasons = [f"{test}: {reason}" for test, reason in self.failed.items()] or ["no test passed"]
        where = f"{self.name} on {self.simulator}, seed {self.seed}; log in {self.directory / 'log.txt'}"
        raise AssertionError("\n".join([f"bench failed: {where}", *reasons]))


def run(
    module: str,
    verilog: Path | str,
    top: str,
    *,
    seed: int,
    name: str | None = None,
    simulator: str = "verilator",
    waves: bool = False,
    vectors: Mapping[str, NDArray[Any]] | None = None,
    env: Mapping[str, str] | None = None,
    test: str | None = None,
    build_dir: Path | str = "build",
) -> Outcome:
    """Run the tests of a cocotb module on a design.

    Parameters
    ----------
    module : str
        Dotted name of the Python module that holds the tests.
    verilog : path
        The Verilog file.
    top : str
        The module to simulate.
    seed : int
        Seed of all randomness in the bench.
    name : str, optional
        Names the run's directory, ``top`` unless given. Runs of one name, simulator and seed happen one at a time.
    simulator : str
        ``verilator`` or ``icarus``.
    waves : bool
        Write ``dump.vcd`` (Verilator) or ``dump.fst`` (Icarus), with all signals; several times slower.
    vectors : mapping of str to array, optional
        Arrays that the bench reads with `sim.streams.vectors`.
    env : mapping of str to str, optional
        Environment variables for the bench.
    test : str, optional
        Run only the tests whose names match this regular expression.
    build_dir : path
        Directory for everything generated.

    Returns
    -------
    Outcome
        What passed and failed; call its ``require()`` to make failures an exception.

    Raises
    ------
    toolchain.ToolError
        If a tool is missing, or refuses the design.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, got {simulator!r}")
    name = name or top
    root = Path(build_dir).resolve() / "sim"
    model = _model(Path(verilog).resolve(), top, simulator, waves, root / "models")
    directory = root / "runs" / f"{name}-{simulator}-{seed}"
    with locked(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        variables = dict(env or {})
        if vectors is not None:
            np.savez(directory / "vectors.npz", allow_pickle=False, **vectors)
            variables[VECTORS] = str(directory / "vectors.npz")
        started = perf_counter()
        # A failing simulator raises; the results file, or its absence, says more than the exception.
        with _environment(simulator), suppress(RuntimeError):
            get_runner(simulator).test(
                test_module=module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                build_dir=model,
                test_dir=directory,
                results_xml=str(directory / "results.xml"),
                log_file=directory / "log.txt",
                seed=seed,
                waves=waves,
                plusargs=[f"+dumpfile_path={directory / 'dump.fst'}"] if simulator == "icarus" else [],
                extra_env=variables,
                test_filter=test,
                timescale=TIMESCALE,
            )
        return _outcome(name, simulator, seed, directory, perf_counter() - started)


def _model(verilog: Path, top: str, simulator: str, waves: bool, parent: Path) -> Path:
    """Compile the design for a simulator, or find it compiled; return the directory."""
    if simulator == "icarus":
        tools = [toolchain.icarus()]
    else:
        tools = [toolchain.make(), str(toolchain.verilator().version), toolchain.system_compiler().version,
                 toolchain.OPTIMISATION]
    settings = [simulator, str(waves), *tools, *VERILATOR_ARGUMENTS]

    def build(directory: Path) -> None:
        if simulator == "verilator":
            # The run-time library is the same for all designs, and takes longer to compile than most of them: compile
            # it once with an empty design. It depends on a makefile that is yet to be written, so the copies get a
            # time in the future, for make to find them up to date; it only warns of the clock.
            empty = cached(parent, content_key([EMPTY, *settings]), build_empty)
            for library_object in empty.glob("verilated*.o"):
                copy = shutil.copy(library_object, directory)
                os.utime(copy, (time() + 3600,) * 2)
        _compile(verilog, top, simulator, waves, directory)

    def build_empty(directory: Path) -> None:
        source = directory / "empty.v"
        source.write_text(EMPTY)
        _compile(source, "empty", simulator, waves, directory)

    return cached(parent, content_key([verilog, top, *settings]), build)


def _compile(verilog: Path, top: str, simulator: str, waves: bool, directory: Path) -> None:
    """Compile a design with cocotb's runner into a directory."""
    sources = [verilog]
    arguments: list[str] = []
    if simulator == "verilator":
        arguments += VERILATOR_ARGUMENTS
        if not waves:
            ports = directory / "ports.vlt"
            ports.write_text(f'`verilator_config\npublic_flat_rw -module "{top}" -port "*"\n')
            sources.append(ports)
            arguments.append("--no-public-flat-rw")
    with _environment(simulator, directory):
        try:
            get_runner(simulator).build(
                sources=sources,
                hdl_toplevel=top,
                build_dir=directory,
                build_args=arguments,
                waves=waves,
                timescale=TIMESCALE,
                log_file=directory / "build.txt",
            )
        except RuntimeError:
            tail = "\n".join((directory / "build.txt").read_text().splitlines()[-20:])
            raise toolchain.ToolError(f"compiling {verilog.name} for {simulator} failed:\n{tail}") from None


@contextmanager
def _environment(simulator: str, build: Path | None = None) -> Iterator[None]:
    """The process's environment as cocotb's runner needs it, for as long as the context lasts.

    The runner takes tools from ``PATH``, and lets ``WAVES`` and ``GUI`` (which `make sim WAVES=1` exports) overrule
    its arguments. Verilator's Perl front end is stood in for by a link to the program itself.
    """
    saved = dict(os.environ)
    for variable in ("WAVES", "GUI", "PYTEST_CURRENT_TEST"):
        os.environ.pop(variable, None)
    if simulator == "verilator" and build is not None:
        (build / "bin").mkdir()
        (build / "bin" / "verilator").symlink_to(toolchain.verilator().binary)
        os.environ.update(toolchain.verilator().environment())
        os.environ["PATH"] = os.pathsep.join([str(build / "bin"), saved["PATH"]])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _outcome(name: str, simulator: str, seed: int, directory: Path, seconds: float) -> Outcome:
    """Read the results file of a run; without one, the simulation itself broke."""
    results = directory / "results.xml"
    passed: list[str] = []
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    nanoseconds = 0.0
    if not results.is_file():
        tail = (directory / "log.txt").read_text(errors="replace").splitlines()[-5:]
        failed["simulation"] = "ended without results: " + " | ".join(tail)
    else:
        for case in ElementTree.parse(results).iter("testcase"):
            test = case.get("name", "?")
            properties = {item.get("name"): item.get("value") for item in case.iter("property")}
            nanoseconds += float(properties.get("sim_time_duration") or 0)
            if (skip := case.find("skipped")) is not None:
                skipped[test] = _reason(skip)
            elif (failure := next(iter([*case.findall("failure"), *case.findall("error")]), None)) is not None:
                failed[test] = _reason(failure)
            else:
                passed.append(test)
    cycles = round(nanoseconds / CLOCK_NS)
    return Outcome(name, simulator, seed, tuple(passed), failed, skipped, cycles, seconds, directory)


def _reason(element: ElementTree.Element) -> str:
    text = element.get("message") or element.text or "no reason given"
    return text.strip().splitlines()[0]
