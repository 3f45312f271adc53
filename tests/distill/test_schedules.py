"""Schedules stay within their peak and end low."""

from collections.abc import Callable

import pytest

from reverie.distill import cosine, flat, linear


@pytest.mark.parametrize("schedule", [cosine, linear])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_rates_rise_to_the_peak_and_fall_to_nearly_nothing(schedule: Callable[[int, int], float], steps: int) -> None:
    rates = [schedule(step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert steps < 100 or rates[-1] < 0.02


def test_cosine_by_hand_and_flat() -> None:
    assert cosine(5, 10, warm_up=0.2) == pytest.approx(0.586824, abs=1e-6)
    assert [flat(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]
