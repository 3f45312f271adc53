import math

import pytest

from reverie.cost.sampling import bends, fill, next_points


def explored(grid, time):
    """Ask until nothing more is asked for: all times, and how many points were timed."""
    known = {}
    while points := next_points(grid, known):
        assert not set(points) & known.keys()
        assert all(width in grid[out] for width, out in points)
        known |= {point: time(*point) for point in points}
    return {**known, **fill(grid, known)}, len(known)


WIDTHS = list(range(16, 513, 16))
GRID = dict.fromkeys(WIDTHS, WIDTHS)


def test_a_plane_needs_few_points():
    found, timed = explored(GRID, lambda width, out: width * out / 1000 + 0.3)
    assert timed == 15
    assert found.keys() == {(width, out) for width in WIDTHS for out in WIDTHS}
    assert all(time == pytest.approx(width * out / 1000 + 0.3) for (width, out), time in found.items())


def test_stairs_and_a_bend_are_found():
    def time(width, out):
        full = math.ceil(out / 64) * 64
        return (width + 2 * max(0, width - 256)) * full / 1000

    found, timed = explored(GRID, time)
    wrong = [abs(found[point] / time(*point) - 1) for point in found]
    # Between points that were timed, a stair may hide: at most one, as high as a step of its plateau.
    assert sum(error > 0.05 for error in wrong) / len(wrong) < 0.03
    assert timed < len(found) / 2


def test_stairs_two_widths_wide_do_not_hide_from_the_middle():
    def time(width, out):
        return width * math.ceil(out / 32) * 32 / 1000 + 0.1

    found, _ = explored(GRID, time)
    wrong = [abs(found[point] / time(*point) - 1) for point in found]
    assert sum(error > 0.1 for error in wrong) / len(wrong) < 0.02


def test_ragged_grids_are_not_extended():
    grid = {16: [16, 32], 32: [16, 32, 48, 64], 48: [16, 32, 48, 64, 80, 96], 64: [16, 32]}
    time = lambda width, out: width * out + max(0, width - 32) ** 2  # noqa: E731
    found, _ = explored(grid, time)
    assert all(found[width, out] == pytest.approx(time(width, out), rel=0.05) for out in grid for width in grid[out])


def test_a_line_of_one_or_two_widths_is_timed_whole():
    assert bends([8], {}) == [8]
    assert bends([8, 16], {8: 1.0}) == [16]
    assert explored({4: [8]}, lambda *_: 1.0) == ({(8, 4): 1.0}, 1)
