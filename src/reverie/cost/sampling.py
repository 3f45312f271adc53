"""Which widths of a layer to time, so that the times of all the others follow.

A layer's time over its two widths is a staircase of planes: straight while the runtime's blocks are full, with steps
where one more block begins and bends where a cache is full. So the ends are timed, then the middle; where the middle
lies on the line between the ends, what is between is not timed at all; else the halves are looked at in the same way.
Over output widths, the second width and two neighbors in the middle are looked at: stairs two widths wide would hide
from one, and an error that is small beside a wide layer is large beside a narrow one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["NEGLIGIBLE", "bends", "fill", "next_points"]

# Time between two widths counts as a line where its middle is within this share of it.
STRAIGHT = 0.04
# Shares of the yardstick's time below which times are not told apart.
NEGLIGIBLE = 5e-4

# Output width -> the input widths that are wanted with it, ascending.
Grid = Mapping[int, Sequence[int]]
# (input width, output width) -> time.
Known = Mapping[tuple[int, int], float]


def bends(widths: Sequence[int], known: Mapping[int, float]) -> list[int]:
    """Which widths of one line to time next: the ends, then the middles of spans that are not known to be straight.

    Args:
        widths: Ascending.
        known: Width -> time, of those that were timed.

    Returns:
        Empty where all others follow by interpolation.

    Example:
        >>> bends([16, 32, 48, 64], {16: 1.0, 48: 3.0, 64: 4.0})
        []
        >>> bends([16, 32, 48, 64], {16: 1.0, 48: 4.0, 64: 4.0})
        [32]
    """
    first, last = widths[0], widths[-1]
    if unknown := [width for width in dict.fromkeys((first, last)) if width not in known]:
        return unknown
    if len(widths) <= 2:
        return []
    middle = len(widths) // 2
    width = widths[middle]
    if width not in known:
        return [width]
    expected = known[first] + (known[last] - known[first]) * (width - first) / (last - first)
    if _straight(expected, known[width]):
        return []
    return bends(widths[: middle + 1], known) + bends(widths[middle:], known)


def next_points(grid: Grid, known: Known) -> list[tuple[int, int]]:
    """Which points of a grid to time next; empty where `fill` gives all the others.

    Args:
        grid: What is wanted.
        known: What was timed.
    """
    outs = sorted(grid)
    return list(dict.fromkeys(_span(outs, 0, len(outs) - 1, grid, known)))


def fill(grid: Grid, known: Known) -> dict[tuple[int, int], float]:
    """The points of the grid that were not timed, by interpolation between those that were.

    Args:
        grid: What is wanted.
        known: What was timed: all that `next_points` asked for.
    """
    lines = {out: _line(out, known) for out in grid}
    whole = [out for out in sorted(grid) if not bends(grid[out], lines[out])]
    filled = {}
    for out, widths in grid.items():
        for width in widths:
            if (width, out) in known:
                continue
            if out in whole:
                filled[width, out] = _at(lines[out], width)
                continue
            below, above = max(one for one in whole if one < out), min(one for one in whole if one > out)
            share = (out - below) / (above - below)
            filled[width, out] = (1 - share) * _at(lines[below], width) + share * _at(lines[above], width)
    return filled


def _span(outs: Sequence[int], low: int, high: int, grid: Grid, known: Known) -> list[tuple[int, int]]:
    """What is missing between two output widths, both included."""
    ends = dict.fromkeys((outs[low], outs[high]))
    if missing := [(width, out) for out in ends for width in bends(grid[out], _line(out, known))]:
        return missing
    if high - low <= 1:
        return []
    reach = range(max(grid[end][0] for end in ends), min(grid[end][-1] for end in ends) + 1)
    inside = all(grid[out][0] in reach and grid[out][-1] in reach for out in outs[low + 1 : high])
    middle = (low + high) // 2
    looked = [outs[at] for at in dict.fromkeys((low + 1, middle, middle + 1)) if at < high]
    checks = {out: list(dict.fromkeys((grid[out][0], grid[out][len(grid[out]) // 2], grid[out][-1]))) for out in looked}
    if missing := [(width, out) for out, widths in checks.items() for width in widths if (width, out) not in known]:
        return missing
    if inside and all(_between(width, out, outs[low], outs[high], known) for out in looked for width in checks[out]):
        return []
    return _span(outs, low, middle, grid, known) + _span(outs, middle, high, grid, known)


def _between(width: int, out: int, below: int, above: int, known: Known) -> bool:
    """Whether a point lies on the line between two output widths."""
    share = (out - below) / (above - below)
    expected = (1 - share) * _at(_line(below, known), width) + share * _at(_line(above, known), width)
    return _straight(expected, known[width, out])


def _line(out: int, known: Known) -> dict[int, float]:
    return {width: time for (width, other), time in sorted(known.items()) if other == out}


def _at(line: Mapping[int, float], width: int) -> float:
    return float(np.interp(width, list(line), list(line.values())))


def _straight(expected: float, found: float) -> bool:
    return abs(expected - found) <= max(STRAIGHT * found, 2 * NEGLIGIBLE)
