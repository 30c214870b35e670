"""The golden scheduler: every entry on one array, in order, on the right kind, evenly, with the vectors' ends kept."""

from dataclasses import replace
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.layer import Entry, TableEntry
from golden.scheduler import Label, schedule
from hw.config import PRESETS, Config


def machine(dense: int, sparse: int) -> Config:
    return replace(PRESETS["tiny"], dense=dense, sparse=sparse)


def item(number: int, last: bool = False, dense_ok: bool = True) -> TableEntry:
    """A table entry that its base tells from the others."""
    return TableEntry(Entry(number, 0, 0, 0b111, False, True, 0, last), dense_ok, number, 0)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[TableEntry], list[Label]]:
    flags = draw(st.lists(st.tuples(*[st.booleans()] * 4, st.integers(0, 31)), max_size=40))
    return ([item(number, last, dense_ok) for number, (last, dense_ok, *_) in enumerate(flags)],
            [(sparse, dead, count_bin) for _, _, sparse, dead, count_bin in flags])


ARRAYS = st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any)


@given(tables(), ARRAYS)
def test_each_living_entry_is_on_one_array_of_its_kind(made: tuple[list[TableEntry], list[Label]],
                                                       arrays: tuple[int, int]) -> None:
    table, labels = made
    dense, sparse = arrays
    lists = schedule(table, labels, machine(dense, sparse))
    assert len(lists) == dense + sparse
    bases = [[entry.base for entry in entries] for entries in lists]
    assert all(one < other for entries in bases for one, other in pairwise(entries)), "order of the table"
    assert sorted(chain(*bases)) == [number for number, label in enumerate(labels) if not label[1]]
    if dense and sparse:
        on_sparse = list(chain(*bases[dense:]))
        for number, (of_sparse, dead, _) in enumerate(labels):
            if not dead:
                assert (number in on_sparse) == (of_sparse or not table[number].dense_ok)


@given(tables(), ARRAYS)
def test_vectors_end_where_the_table_says(made: tuple[list[TableEntry], list[Label]], arrays: tuple[int, int]) -> None:
    """Between two entries of a list there is an end if and only if the table has one between them."""
    table, labels = made
    for entries in schedule(table, labels, machine(*arrays)):
        places = [entry.base for entry in entries] + [len(table)]
        for entry, (place, following) in zip(entries, pairwise(places), strict=True):
            assert entry.last == any(other.entry.last for other in table[place:following])
            assert replace(entry, last=table[place].entry.last) == table[place].entry


@given(tables(), st.integers(2, 4))
def test_arrays_of_a_kind_share_evenly(made: tuple[list[TableEntry], list[Label]], count: int) -> None:
    """No two differ by more than the largest single piece of work."""
    table, labels = made
    dense = schedule([replace(entry, dense_ok=True) for entry in table],
                     [(False, dead, count_bin) for _, dead, count_bin in labels], machine(count, 0))
    lengths = [len(entries) for entries in dense]
    assert max(lengths) - min(lengths) <= 1
    of_sparse: list[Label] = [(True, dead, count_bin) for _, dead, count_bin in labels]
    work = [sum(labels[entry.base][2] + 1 for entry in entries)
            for entries in schedule(table, of_sparse, machine(0, count))]
    assert max(work) - min(work) <= 32


@given(st.lists(st.integers(1, 511), max_size=40), st.integers(2, 4), st.sampled_from([1, 3]))
def test_dense_arrays_share_steps(taps: list[int], count: int, dense_taps: int) -> None:
    """A window takes a step for each tap, or for each kernel line, that is used."""
    table = [replace(item(number), entry=replace(item(number).entry, taps=used)) for number, used in enumerate(taps)]
    lists = schedule(table, [(False, False, 0)] * len(table), replace(machine(count, 0), dense_taps=dense_taps))
    steps = [sum(entry.taps.bit_count() if dense_taps == 1 else
                 sum("1" in f"{entry.taps:09b}"[at:at + 3] for at in (0, 3, 6)) for entry in entries)
             for entries in lists]
    assert max(steps) - min(steps) <= 9 // dense_taps


@given(tables(), ARRAYS)
def test_an_even_layer_is_shared_evenly_by_arrays_of_both_kinds(made: tuple[list[TableEntry], list[Label]],
                                                                arrays: tuple[int, int]) -> None:
    table, labels = made
    lists = schedule([replace(entry, dense_ok=True) for entry in table], labels, machine(*arrays), even=True)
    lengths = [len(entries) for entries in lists]
    assert max(lengths) - min(lengths) <= 1
    assert sum(lengths) == sum(not dead for _, dead, _ in labels)
    of_sparse = schedule([replace(entry, dense_ok=False) for entry in table], labels, machine(*arrays), even=True)
    assert not (arrays[1] and any(of_sparse[:arrays[0]])), "a dense array cannot run them"


@pytest.mark.parametrize("arrays", [(1, 1), (2, 0), (0, 2)])
def test_dead_channels_cost_nothing(arrays: tuple[int, int]) -> None:
    table = [item(number, last=number % 3 == 2) for number in range(9)]
    assert not any(schedule(table, [(False, True, 0)] * 9, machine(*arrays)))


def test_dead_end_of_a_vector_ends_it_on_every_array() -> None:
    table = [item(0), item(1), item(2, last=True), item(3)]
    dense, sparse = schedule(table, [(False, False, 0), (True, False, 4), (False, True, 0), (False, False, 0)],
                             machine(1, 1))
    assert [(entry.base, entry.last) for entry in dense] == [(0, True), (3, False)]
    assert [(entry.base, entry.last) for entry in sparse] == [(1, True)]
