"""Scheduler: the channel lists that labels make of a channel table."""

from collections.abc import Sequence
from dataclasses import replace

from golden.layer import Entry, TableEntry
from golden.machine import Machine

__all__ = ["Label", "schedule"]

Label = tuple[bool, bool, int]


def schedule(table: Sequence[TableEntry], labels: Sequence[Label], machine: Machine, *,
             even: bool = False) -> list[list[Entry]]:
    """Deal the entries out to the arrays.

    Parameters
    ----------
    table : sequence of TableEntry
    labels : per entry, (sparse, dead, bin) of its channel
    machine : Machine
    even : bool
        Deal what dense arrays can run out evenly to all arrays, see `golden.layer.one_tap`.

    Returns
    -------
    list of list of Entry
        Per array, dense ones first, what it adds up, in order.
    """
    def steps(taps: int) -> int:
        """Cycles of a window on a dense array."""
        if machine.dense_taps == 1:
            return taps.bit_count()
        return sum(taps >> 3 * line & 7 != 0 for line in range(3))

    arrays = machine.dense + machine.sparse
    lists: list[list[Entry]] = [[] for _ in range(arrays)]
    work = [0] * arrays
    for item, (sparse, dead, count_bin) in zip(table, labels, strict=True):
        to_sparse = sparse or not item.dense_ok
        anywhere = even and item.dense_ok
        first, last = (machine.dense, arrays) if to_sparse else (0, machine.dense)
        if anywhere or first == last:
            first, last = 0, arrays
        if not dead:
            chosen = min(range(first, last), key=work.__getitem__)
            lists[chosen].append(item.entry)
            cost = steps(item.entry.taps) if chosen < machine.dense else count_bin + 1
            work[chosen] += 1 if anywhere else cost
        if item.entry.last:
            for entries in lists:
                if entries:
                    entries[-1] = replace(entries[-1], last=True)
    return lists
