"""Which mix of dense and sparse arrays does the most work per area, on recorded activations?

    python -m synth.equal_area                                              areas as last measured
    python -m synth.equal_area --dense-3-area 30000 --sparse-area 28000     what if the arrays were smaller
    python -m synth.equal_area --table build/synth/table.json               areas that `python -m synth.table` found
    python -m synth.equal_area --table build/synth/table.json --target liberty

Each mix is timed by the cycle model, layer by layer, and its arrays' area added up. *Work per area* is the baseline's
cycles x area over the mix's, so 1 is the baseline: one dense array, three multipliers per accumulator. Two
areas are used: LUT-equivalents of the arrays alone, and the same with each block RAM counted as its share
of the device (ECP5-85F: 83,640 LUTs, 208 block RAMs). Fetchers and read ports, which an array of
either kind needs alike, and what an engine has once are not counted. With the area of a dense FP16 array of as many
multipliers, column *FP16* is a mix's work per area over that array's, which takes the cycles of the dense array. A
library's areas are without the memories of 64 words and more.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from golden.report import Table
from golden.study import Mode, TraceLayer, read_trace, sweep
from hw.config import Config, preset

__all__ = ["MIXES", "ArrayArea", "Mix", "main", "read_areas", "table"]

DATA = Path(__file__).parents[1] / "golden" / "data"
LUTS_PER_BLOCK_RAM = 83640 / 208    # of an ECP5-85F
MODE: Mode = "balance"
PRESET = "default"


@dataclass(frozen=True)
class ArrayArea:
    """Area of one array: LUT-equivalents and block RAMs."""

    luts: float     # or area in a library's unit
    block_rams: int

    @property
    def device(self) -> float:
        """LUT-equivalents, each block RAM as many as there are per block RAM in the device."""
        return self.luts + LUTS_PER_BLOCK_RAM * self.block_rams


# 16 x 16, default preset, FIFO 32, `python -m synth --small`, Yosys 0.70; by "sparse" or the taps of a dense array.
AREAS: dict[str, ArrayArea] = {
    "sparse": ArrayArea(68280, 208),
    "dense 3": ArrayArea(85732, 13),
    "dense 1": ArrayArea(49193, 13),
}


@dataclass(frozen=True)
class Mix:
    """Arrays that work together.

    Parameters
    ----------
    dense, sparse, taps : int
        Arrays of each kind, and multipliers per accumulator of the dense ones.
    """

    dense: int
    sparse: int
    taps: int = 3

    def __str__(self) -> str:
        dense = [f"{self.dense} dense, {self.taps} taps"] if self.dense else []
        return " + ".join([*dense, *([f"{self.sparse} sparse"] if self.sparse else [])])

    def machine(self, config: Config) -> Config:
        """Return the configuration; each array has a read port of its own as far as there are ports."""
        return replace(config, dense=self.dense, sparse=self.sparse, dense_taps=self.taps,
                       read_ports=min(4, self.dense + self.sparse))

    def area(self, areas: Mapping[str, ArrayArea]) -> ArrayArea:
        """Return the sum of the arrays' areas."""
        dense, sparse = areas[f"dense {self.taps}"], areas["sparse"]
        return ArrayArea(self.dense * dense.luts + self.sparse * sparse.luts,
                         self.dense * dense.block_rams + self.sparse * sparse.block_rams)


MIXES = (Mix(1, 0), Mix(2, 0), Mix(1, 1), Mix(2, 1), Mix(1, 2), Mix(1, 3), Mix(0, 1), Mix(0, 2), Mix(0, 3),
         Mix(2, 0, 1), Mix(1, 1, 1))


def read_areas(path: Path, kind: str) -> dict[str, ArrayArea]:
    """Return the areas of the default preset's arrays as `synth.table` wrote them; FP16 as "fp16" if it is there.

    Parameters
    ----------
    path : path
        table.json.
    kind : str
        The target.

    Raises
    ------
    OSError
    ValueError
        It is not such a file, or lacks an array.
    """
    try:
        found = {item["block"]: ArrayArea(item["area" if kind == "liberty" else "lut_equivalents"],
                                          item["counts"].get("DP16KD", 0))
                 for item in json.loads(path.read_text())["areas"]
                 if (item["preset"], item["target"]) == (PRESET, kind)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not what synth.table writes: {error!r}") from None
    missing = {"dense", "sparse"} - found.keys()
    if missing:
        raise ValueError(f"it has no {' and no '.join(sorted(missing))} of {PRESET} for {kind}: run `python -m "
                         f"synth.table --presets {PRESET} --targets {kind} --blocks dense sparse fp16 --seeds 0`")
    names = {"dense": "dense 3", "sparse": "sparse", "fp16": "fp16"}
    return {name: found[block] for block, name in names.items() if block in found}


def table(cycles: Mapping[Mix, int], areas: Mapping[str, ArrayArea]) -> Iterator[str]:
    """Yield the lines of a trace's table; the first mix is the baseline."""
    fp16 = areas.get("fp16")
    columns = Table({"mix": -26, "cycles": 9, "speed-up": 8, "area": 8, "DP16KD": 6, "per area": 8, "per device": 10}
                    | ({"FP16": 6} if fp16 else {}))
    yield columns.head()
    base, base_area = next((count, mix.area(areas)) for mix, count in cycles.items())
    for mix, count in cycles.items():
        area = mix.area(areas)
        yield columns.line([
            mix, count, f"{base / count:.2f}", f"{area.luts:.0f}", area.block_rams,
            f"{base * base_area.luts / (count * area.luts):.2f}",
            f"{base * base_area.device / (count * area.device):.2f}",
            *([f"{base * fp16.luts / (count * area.luts):.2f}"] if fp16 else []),
        ])


def _watched(layers: Sequence[TraceLayer]) -> Iterator[TraceLayer]:
    """Yield the layers; on a terminal, say how many are done."""
    began = time.monotonic()
    for done, layer in enumerate(layers):
        if sys.stderr.isatty():
            print(f"\r{done} of {len(layers)} layers, {time.monotonic() - began:.0f} s ", end="", file=sys.stderr)
        yield layer
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)


def time_mixes(layers: Sequence[TraceLayer], config: Config, mixes: Sequence[Mix] = MIXES) -> dict[Mix, int]:
    """Return each mix's cycles for the layers."""
    machines: dict[str, tuple[Config, Mode]] = {str(mix): (mix.machine(config), MODE) for mix in mixes}
    totals = sweep(_watched(layers), machines)
    return {mix: totals[str(mix)].cycles for mix in mixes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each trace."""
    parser = argparse.ArgumentParser(prog="python -m synth.equal_area", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR",
                        help="folder of trace_pre.npz and trace_post.npz; golden/data if absent")
    parser.add_argument("--fifo-depth", type=int, help="instead of the default preset's")
    parser.add_argument("--table", type=Path, metavar="FILE", help="areas as synth.table wrote them")
    parser.add_argument("--target", default="ecp5", metavar="NAME", help="of the table; ecp5 if absent")
    for key in AREAS:
        parser.add_argument(f"--{key.replace(' ', '-')}-area", type=float, metavar="LUTS",
                            help=f"LUT-equivalents of a {key} array, instead of {AREAS[key].luts}")
    options = vars(parser.parse_args(arguments))
    areas = dict(AREAS)
    if options["table"] is not None:
        try:
            areas = read_areas(options["table"], options["target"])
        except (OSError, ValueError) as error:
            print(f"synth.equal_area: {options['table']}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            return 2
    for key, area in AREAS.items():
        given = options[f"{key.replace(' ', '_')}_area"]
        if given is not None:
            areas[key] = replace(areas.get(key, area), luts=given)
    mixes = [mix for mix in MIXES if not mix.dense or f"dense {mix.taps}" in areas]
    config = preset(PRESET)
    if options["fifo_depth"] is not None:
        config = replace(config, fifo_depth=options["fifo_depth"])
    print(f"{config.rows} x {config.cols}, FIFO {config.fifo_depth}, labels by {MODE}")
    for trace in ("pre", "post"):
        path = options["data"] / f"trace_{trace}.npz"
        try:
            layers = list(read_trace(path))
        except OSError as error:
            print(f"synth.equal_area: cannot read {path}: {error.strerror}", file=sys.stderr)
            return 1
        lines = table(time_mixes(layers, config, mixes), areas)
        print(f"\ntrace {trace}, {len(layers)} layers and steps\n")
        for line in lines:
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
