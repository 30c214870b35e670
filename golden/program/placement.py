"""Where tensors lie in activation memory when the whole program is known: the largest first, each as low as it fits."""

from collections.abc import Mapping

__all__ = ["plan"]


def plan(sizes: Mapping[str, int], lives: Mapping[str, tuple[int, int]], size: int) -> dict[str, int] | None:
    """Give every tensor one place, such that no two that are alive at the same time overlap.

    Parameters
    ----------
    sizes : mapping
        By name, in any unit.
    lives : mapping
        By name, the first and the last node that needs the tensor in memory.
    size : int
        Of the memory, in the same unit.

    Returns
    -------
    dict of str to int, or None
        The first address of each; None if this way does not find room for all.
    """
    placed: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        (born, dies), first = lives[name], 0
        for start, other in sorted((start, other) for other, start in placed.items()):
            if lives[other][0] <= dies and born <= lives[other][1] and start < first + sizes[name]:
                first = max(first, start + sizes[other])
        if first + sizes[name] > size:
            return None
        placed[name] = first
    return placed
