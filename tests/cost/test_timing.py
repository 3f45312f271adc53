import math

import numpy as np
import pytest

from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.cost import timing
from reverie.cost.timing import Timing, collect, interleave, median_error


def spin(count):
    def run():
        total = 0
        for index in range(count):
            total += index
        return total

    return run


def test_equal_runs_have_a_ratio_of_one_and_triple_work_of_three():
    timings = interleave(
        {"a": spin(20_000), "b": spin(20_000), "c": spin(60_000)}, reference="a", rounds=41, tolerance=0
    )
    assert timings["a"].ratio_median == 1.0
    assert timings["b"].ratio_median == pytest.approx(1.0, abs=0.06)
    assert timings["c"].ratio_median == pytest.approx(3.0, rel=0.08)
    assert timings["c"].p10_ms <= timings["c"].median_ms <= timings["c"].p90_ms
    assert {timing.rounds for timing in timings.values()} == {41}


def test_every_round_calls_every_run_once_in_a_changing_order():
    called = []

    def logged(name):
        # Longer than a sample, so that a sample is one call after the untimed one.
        work = spin(100_000)

        def run():
            called.append(name)
            work()

        return run

    samples = collect(
        {name: logged(name) for name in "abc"}, enough=lambda _: False, rounds=12, warmup=0, sample_ms=0.01
    )
    assert {name: values.shape for name, values in samples.items()} == {"a": (12,), "b": (12,), "c": (12,)}
    visits = [name for index, name in enumerate(called) if index == 0 or called[index - 1] != name]
    orders = {tuple(visits[index : index + 3]) for index in range(len(visits) - 3)}
    assert len(orders) > 3


def test_a_slow_machine_moves_the_times_and_not_the_ratios(monkeypatch):
    # A clock of our own: every other 500 ms, the machine is five times slower.
    now = [0.0]

    def work(milliseconds):
        def run():
            now[0] += milliseconds * (5 if now[0] % 1000 > 500 else 1)

        return run

    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: int(now[0] * 1e6))
    timings = interleave({"one": work(2), "two": work(4)}, reference="one", rounds=100, tolerance=0)
    assert not timings["one"].steady
    two = timings["two"]
    assert (two.ratio_p10, two.ratio_median, two.ratio_p90) == pytest.approx((2.0, 2.0, 2.0), rel=0.01)


@pytest.mark.parametrize(("tolerance", "rounds"), [(0.02, 12), (0.01, 21), (0.004, 51)])
def test_a_narrow_interval_of_few_rounds_is_not_trusted(tolerance, rounds, monkeypatch):
    # A clock of our own, on which nothing varies: the interval has no width from the first.
    now = [0.0]

    def work(milliseconds):
        def run():
            now[0] += milliseconds

        return run

    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: int(now[0] * 1e6))
    timings = interleave({"one": work(2), "two": work(4)}, reference="one", tolerance=tolerance)
    assert timings["two"].rounds == rounds


def test_it_stops_when_the_ratio_is_known():
    seen = []
    collect({"a": spin(5000)}, enough=lambda samples: seen.append(len(samples["a"])) or len(seen) == 2, rounds=100)
    assert seen == [9, 12]


def test_it_stops_when_the_time_is_over():
    samples = collect({"a": spin(5000)}, enough=lambda _: False, rounds=10_000, seconds=0.0)
    assert samples["a"].shape == (9,)


def test_short_runs_are_repeated_within_a_sample():
    calls = [0]

    def run():
        calls[0] += 1

    collect({"a": run}, enough=lambda _: True, rounds=9, sample_ms=0.5)
    assert calls[0] > 9 * 100


@pytest.mark.parametrize(("count", "low", "high"), [(9, 2, 8), (15, 4, 12), (20, 6, 15)])
def test_the_interval_of_a_median_is_the_binomial_one(count, low, high):
    # Ranks, from 1, of the shortest symmetric interval that covers at least 95 % (tables of the sign test).
    values = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert median_error(values) == (high - low) / 2


def test_unsteady_times_are_flagged():
    calm = Timing(1.0, 0.9, 1.3, 1.0, 1.0, 1.0, 0.0, 9)
    assert calm.steady
    assert not Timing(1.0, 0.9, 1.4, 1.0, 1.0, 1.0, 0.0, 9).steady


def test_wrong_input_is_named():
    with pytest.raises(ReferenceNotFound, match="'teacher'"):
        interleave({"a": spin(1)}, reference="teacher")
    with pytest.raises(RangeError, match="at least 9"):
        interleave({"a": spin(1)}, reference="a", rounds=5)


def test_the_interval_of_a_median_is_as_sure_as_it_says():
    """That a value lies below the median is a coin's toss, so how many do is binomial."""

    def confidence(n: int) -> float:
        width = round(2 * median_error(np.arange(float(n))))
        low = (n - 1 - width) // 2
        return sum(math.comb(n, below) for below in range(low + 1, low + width + 1)) / 2**n

    sure = {n: confidence(n) for n in range(9, 400)}
    assert (min(sure, key=sure.get), max(sure, key=sure.get)) == (21, 10)
    assert (sure[21], sure[10]) == (pytest.approx(0.922, abs=5e-4), pytest.approx(0.979, abs=5e-4))
