"""What the presets cost, in one table: resources on FPGAs, clock on ECP5, area per multiplier beside FP16's.

    python -m synth.table                                       all presets, ecp5, xc7 and xcup, three seeds: hours
    python -m synth.table --presets tiny ecp5 --targets ecp5 --seeds 0      no place and route
    python -m synth.table --presets ecp5 --targets liberty --liberty sg13g2_area.lib --seeds 0
    python -m synth.table --blocks dense sparse fp16 --presets default --targets ecp5 --seeds 0

What is done stays in the build folder, so a table that was interrupted goes on where it was; what is there for the same
Verilog, commands and tools is not made again. Cheap presets come first. The hierarchy is kept: identical modules are
synthesised once and counted as often as they are used, and nothing is optimised across modules; so the arrays are read
out of the accelerator where it is measured. The clock is that of the flat design. Written: table.md and table.json.
One block: `python -m synth`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golden.report import announced, write_whole
from hw.config import PRESETS, Config, ConfigError
from hw.gen import TOP, convert
from sim.toolchain import ToolError

from . import pnr
from .area import SYNTH_BLOCKS, AreaError, figures, macs
from .targets import TARGET_NAMES, Effort, Target, target

__all__ = ["DEVICES", "NEIGHBOURS", "Results", "array_inside", "device_for", "main", "markdown"]

EFFORT = Effort(small=True)
BLOCKS = (TOP, "dense", "sparse", "fp16")
CHEAPEST_FIRST = ("tiny", "ecp5", "default", "edm")
# LUT4 and block RAMs of an ECP5, by the number in its name.
DEVICES = {"25": (24288, 56), "45": (43848, 108), "85": (83640, 208)}
GOALS = {"dense": 45, "sparse": 110}    # LUT-equivalents per multiplier on ECP5
# What open neighbours need per multiply-accumulate in the same flow: docs/synthesis.md says what is in it.
NEIGHBOURS = (
    ("CFU-Playground hps_accel", "INT8", "ECP5", "55 + 1 DSP", "101 MHz"),
    ("FINN mvu_4sx4u", "INT4", "UltraScale+", "30 + 1/4 DSP", ""),
    ("16 x 16 dot products, digits of the weight", "INT4", "ECP5", "38", "about 95 MHz"),
    ("16 x 16 dot products, a * w", "INT4", "ECP5", "78", ""),
    ("8 x 8 output-stationary, a * w, an accumulator each", "INT4", "ECP5", "156", ""),
)


@dataclass
class Results:
    """What is known so far.

    Parameters
    ----------
    areas : list of dict
        Of each preset, target and block: see `synth.area.Area.to_json`; shortened, with "preset".
    clocks : list of dict
        Of each preset: device, MHz by seed, or "reason" why there is none.
    failed : list of str
        What could not be done.
    """

    areas: list[dict[str, Any]] = field(default_factory=list)
    clocks: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def area(self, preset: str, kind: str, block: str) -> dict[str, Any] | None:
        """Return a block's figures, None if they are not known."""
        return next((found for found in self.areas if (found["preset"], found["target"], found["block"])
                     == (preset, kind, block)), None)

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {"areas": self.areas, "clocks": self.clocks, "failed": self.failed}


def device_for(found: Mapping[str, Any] | None) -> str | None:
    """Return the smallest ECP5 with the LUTs and block RAMs that a design needs; None if none has them."""
    if found is None:
        return "85"
    return next((device for device, (luts, rams) in DEVICES.items()
                 if found["lut_equivalents"] <= luts and found["counts"]["DP16KD"] <= rams), None)


def _areas(results: Results, preset: str, blocks: Sequence[str], kinds: Sequence[Target], build: Path) -> None:
    """Measure a preset's blocks; one that fails is noted, and the others go on."""
    config = PRESETS[preset]
    whole: dict[str, dict[str, Any]] = {}   # figures of the accelerator, by target
    for block in blocks:
        emitted = None
        for kind in (kind for kind in kinds if _useful(block, kind)):
            found = array_inside(whole[kind.name], block, config) if kind.name in whole else None
            try:
                if found is None:
                    if emitted is None:
                        with announced(f"writing the Verilog of block {block} of {preset}"):
                            emitted = convert(block, config, SYNTH_BLOCKS)
                    found = figures(emitted, block, config, kind, build, EFFORT)
            except (ToolError, AreaError) as error:
                results.failed.append(f"{block} of {preset} for {kind.name}: {error}")
                print(results.failed[-1], file=sys.stderr)
                continue
            if block == TOP:
                whole[kind.name] = found
            keep = ("block", "target", "library", "tool", "multipliers", "counts", "lut_equivalents", "area", "per_mac")
            results.areas.append({"preset": preset} | {key: found[key] for key in keep if key in found})


def array_inside(found: Mapping[str, Any], block: str, config: Config) -> dict[str, Any] | None:
    """Return the figures of one array out of the accelerator's; None if there is no such array in them.

    The hierarchy is kept, so an array comes to the same there as alone, but for what a change of names does to ABC.
    """
    level = next((level for level in found["hierarchy"] if level["name"] == f"sqdm_engine_{block}"), None)
    if level is None:
        return None
    number, multipliers = level["instances"], macs(block, config)
    luts = level["lut_equivalents"] // number
    return {key: found[key] for key in ("target", "library", "tool")} | {
        "block": block, "multipliers": multipliers, "lut_equivalents": luts, "per_mac": round(luts / multipliers, 1),
        "counts": {column: count // number for column, count in level["counts"].items()}}


def _useful(block: str, kind: Target) -> bool:
    """Whether the table has a place for a block: FP16 for comparison only, libraries for arrays only."""
    return not (block == "fp16" and kind.name not in ("ecp5", "liberty")) and not (block == TOP and kind.libraries)


def _clock(results: Results, preset: str, build: Path, device: str | None, seeds: int) -> None:
    found = results.area(preset, "ecp5", TOP)
    chosen = device or device_for(found)
    if chosen is None:
        assert found is not None
        luts, rams = DEVICES["85"]
        results.clocks.append({"preset": preset, "reason": (
            f"not tried: {found['lut_equivalents']:,} LUT-equivalents and {found['counts']['DP16KD']} block RAMs, "
            f"an 85F has {luts:,} and {rams}")})
        return
    try:
        placed = pnr.place_and_route(TOP, PRESETS[preset], build, device=chosen, seeds=range(1, seeds + 1))
    except ToolError as error:
        results.failed.append(f"clock of {preset}: {error}")
        print(results.failed[-1], file=sys.stderr)
        results.clocks.append({"preset": preset, "reason": f"failed on an {chosen}F: {str(error).splitlines()[0]}"})
        return
    results.clocks.append({"preset": preset} | {
        key: value for key, value in placed.to_json().items() if key in ("device", "speed", "fmax", "utilisation")})


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |"
    yield ""


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2f}" if value and other else ""


def markdown(results: Results) -> Iterator[str]:
    """Yield the lines of the tables, each with its heading."""
    presets = [name for name in CHEAPEST_FIRST if any(found["preset"] == name for found in results.areas)]
    kinds = list(dict.fromkeys(found["target"] for found in results.areas))
    for kind in kinds:
        rows = [found for found in results.areas if found["target"] == kind]
        unit = "area" if kind == "liberty" else "lut_equivalents"
        made = [f"**{kind}**", rows[0]["tool"], *filter(None, [rows[0]["library"]]), "hierarchy kept", "no DSPs"]
        yield ", ".join(made)
        yield ""
        yield from _table(["preset", "block", "multipliers", unit.replace("lut_equivalents", "LUT-eq."),
                           "per multiplier", *rows[0]["counts"]],
                          [[row["preset"], row["block"], row["multipliers"], round(row[unit]), row["per_mac"] or "",
                            *row["counts"].values()] for row in rows])
    yield from _arrays(results, presets, kinds)
    yield from _clocks(results)
    yield from _neighbours(results, presets)


def _arrays(results: Results, presets: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    rows = []
    for kind in kinds:
        for preset in presets:
            dense, sparse, fp16 = ((results.area(preset, kind, block) or {}).get("per_mac")
                                   for block in ("dense", "sparse", "fp16"))
            if dense or sparse:
                rows.append([kind, preset, dense or "", sparse or "", fp16 or "", _ratio(fp16, dense),
                             _ratio(fp16, sparse)])
    if rows:
        yield "**Arrays, per multiplier**: LUT-equivalents, or area in the library's unit; how many INT4 multipliers " \
              f"fit where one of FP16 does. Goals on ecp5: dense {GOALS['dense']}, sparse {GOALS['sparse']}."
        yield ""
        yield from _table(["target", "preset", "dense", "sparse", "FP16", "dense per FP16", "sparse per FP16"], rows)


def _clocks(results: Results) -> Iterator[str]:
    if not results.clocks:
        return
    rows = []
    for found in results.clocks:
        if "reason" in found:
            rows.append([found["preset"], "", found["reason"], "", ""])
            continue
        best, used = max(found["fmax"].values()), found["utilisation"]
        seeds = (f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in found["fmax"].values())
        rows.append([found["preset"], f"{found['device']}F, speed grade {found['speed']}",
                     ", ".join(seeds),
                     *(f"{used[name][0]:,} of {used[name][1]:,}" if name in used else ""
                       for name in ("TRELLIS_COMB", "DP16KD"))])
    yield "**Clock on ECP5**, nextpnr, flat, MHz of each seed, the best in bold"
    yield ""
    yield from _table(["preset", "device", "MHz", "COMB", "block RAM"], rows)


def _neighbours(results: Results, presets: Sequence[str]) -> Iterator[str]:
    clocks = {found["preset"]: max(found["fmax"].values()) for found in results.clocks if "fmax" in found}
    rows: list[Sequence[object]] = []
    for preset in presets:
        for block in ("dense", "sparse"):
            found = results.area(preset, "ecp5", block)
            if found is not None:
                clock = f"{clocks[preset]:.1f} MHz, whole design" if preset in clocks else ""
                rows.append([f"{block} array of `{preset}`", "INT4", "ECP5", found["per_mac"], clock])
    if rows:
        yield "**Beside neighbours**: LUTs or LUT-equivalents per multiplier; docs/synthesis.md says what is in each"
        yield ""
        yield from _table(["", "format", "device", "LUTs per MAC", "clock"], [*rows, *NEIGHBOURS])


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m synth.table", description=summary, epilog=f"examples:\n{examples}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=CHEAPEST_FIRST, default=CHEAPEST_FIRST, metavar="NAME",
                        help="all if absent")
    parser.add_argument("--targets", nargs="+", choices=TARGET_NAMES, default=("ecp5", "xc7", "xcup"), metavar="NAME",
                        help=f"of {', '.join(TARGET_NAMES)}; ecp5 xc7 xcup if absent")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=BLOCKS, metavar="NAME",
                        help=f"of {', '.join(BLOCKS)}; all if absent")
    parser.add_argument("--liberty", type=Path, nargs="+", metavar="FILE", default=[], help="the cells, for liberty")
    parser.add_argument("--seeds", type=int, default=3, metavar="N",
                        help="for place and route; 0 does without, 3 if absent")
    parser.add_argument("--device", choices=DEVICES,
                        help="ECP5 to place on; the smallest that is large enough if absent")
    parser.add_argument("--build", type=Path, default=Path("build/synth"), metavar="DIR", help="build/synth if absent")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 if something failed, 2 for bad arguments."""
    options = _parser().parse_args(arguments)
    results = Results()
    try:
        if options.seeds < 0:
            raise ConfigError(f"seeds={options.seeds} is not legal: it must be 0 or more")
        kinds = [target(name, options.liberty if name == "liberty" else ()) for name in options.targets]
        for preset in (name for name in CHEAPEST_FIRST if name in options.presets):
            _areas(results, preset, [block for block in BLOCKS if block in options.blocks], kinds, options.build)
            if options.seeds and TOP in options.blocks:
                _clock(results, preset, options.build, options.device, options.seeds)
            write_whole(options.build / "table.json", json.dumps(results.to_json(), indent=2) + "\n")
            write_whole(options.build / "table.md", "\n".join(markdown(results)) + "\n")
    except ConfigError as error:
        print(f"synth.table: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"synth.table: {error}", file=sys.stderr)
        return 1
    print()
    for line in markdown(results):
        print(line)
    print(f"written: {options.build / 'table.md'}, {options.build / 'table.json'}")
    for failure in results.failed:
        print(f"failed: {failure.splitlines()[0]}", file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
