"""The configuration: what it refuses, and that its derived constants hold."""

from dataclasses import replace

import pytest

from hw.config import BANKS, PRESETS, Config, ConfigError, preset


@pytest.mark.parametrize(("changes", "message"), [
    ({"rows": 1}, r"rows=1 is not legal: it must be from 2 to 128 \(one row has no neighbour"),
    ({"cols": 129}, r"cols=129 is not legal: it must be from 2 to 128"),
    ({"rows": 4.0}, r"rows=4.0 is not legal: it must be an integer"),
    ({"dense": 0, "sparse": 0}, r"dense=0 is not legal: it must be at least 1 while sparse is 0"),
    ({"dense_taps": 2}, r"dense_taps=2 is not legal: it must be 1 or 3"),
    ({"lanes_per_scale": 17}, r"lanes_per_scale=17 is not legal: it must be from 2 to 16 \(the accumulators of a"),
    ({"scale_exp_bits": 5}, r"scale_exp_bits=5 is not legal: it must be from 1 to 4 \(UE4M3 is the widest"),
    ({"acc_bits": 21}, r"acc_bits=21 is not legal: it must be from 22 to 40 \(it must hold one scaled vector"),
    ({"act_nibbles": 1000}, r"act_nibbles=1000 is not legal: it must be a power of two from \d+ to 16777216"),
    ({"bus_bits": 96}, r"bus_bits=96 is not legal: it must be 64 or 128"),
    ({"weight_depth": 300}, r"weight_depth=300 is not legal: it must be a power of two"),
    ({"sparse": 0, "read_ports": 3}, r"read_ports=3 is not legal: it must be from 1 to 2 \(each port is a copy of the"),
    ({"fetch_depth": 3}, r"fetch_depth=3 is not legal: it must be from 7 to 64"),
    ({"act_nibbles": 1 << 20, "weight_depth": 1 << 12}, r"bus_bits=64 is not legal: it must be at least \d+ with"),
])
def test_every_refusal_names_the_value_the_legal_set_and_the_reason(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PRESETS["default"], **changes)


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="preset=huge is not legal: it must be one of default, tiny, ecp5, edm"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_named_and_frozen(name: str) -> None:
    config = preset(name)
    assert config.name == name
    with pytest.raises(AttributeError):
        config.rows = 5  # type: ignore[misc]


@pytest.mark.parametrize("rows", [2, 3, 5, 7, 16, 31, 128])
@pytest.mark.parametrize("window_width", [0, 1, 16, 64])
def test_any_unaligned_run_fits_the_banks(rows: int, window_width: int) -> None:
    config = Config(rows=rows, window_width=window_width)
    assert config.run >= rows + 2 + 2 * window_width
    for start in range(config.row_nibbles):
        banks = range(start // config.bank_nibbles, (start + config.run - 1) // config.bank_nibbles + 1)
        assert len(banks) <= BANKS


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_local_accumulators_hold_the_largest_group(config: Config) -> None:
    largest = config.group * 9 * 15 * 15
    assert largest < 1 << (config.psum_bits - 1)
    assert largest >= 1 << (config.psum_bits - 2)


def test_peak_counts_every_multiplier() -> None:
    assert Config(rows=16, cols=16, dense=1, sparse=1, dense_taps=3).peak_macs == 16 * 16 * 4
    assert Config(rows=3, cols=5, dense=2, sparse=0, dense_taps=1).peak_macs == 30
