"""The one way to time: candidates interleaved with a reference, round by round, kept as ratios.

What for: on a machine that others use, the same network took 14 ms and, minutes later, 202 ms. A ratio to a reference
that ran within the same few milliseconds stays put. So every round calls every candidate once, in a new order; the
ratio is taken within the round; the median over rounds is the figure. A sample during which the system took the
processor away is thrown away and taken again.

Cost: as long as asked, or until the ratios are known to within the tolerance.
"""

import math
import random
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reverie.core.errors import RangeError, ReferenceNotFound

__all__ = ["Timing", "collect", "interleave", "median_error"]

Run = Callable[[], object]
Samples = Mapping[str, NDArray[np.float64]]

# From nine rounds on, the bounds of a median leave out the outermost values, which any interruption may have made.
FEWEST_ROUNDS = 9
RETAKES = 4
# An interval that is narrow after a few rounds may be luck: the finer the tolerance, the more rounds there are at
# least, 20 for 1 % and 50 for 0.4 %.
LUCK = 0.2
# Longer calls are interrupted on any machine and begin with any cache, and lose a small share of their time by it: they
# are timed once, as they come.
LONG_MS = 100.0


@dataclass(frozen=True)
class Timing:
    """How long one candidate takes, absolutely and beside the reference.

    Attributes:
        median_ms: Median of the rounds; p10_ms and p90_ms are percentiles. They drift with the machine's load.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        ratio_median: Median over rounds of time / reference's time in the same round; below 1 is faster.
        ratio_p10: 10th percentile of the ratio.
        ratio_p90: 90th percentile of the ratio.
        ratio_error: Half the width of the 95 % confidence interval of `ratio_median`.
        rounds: Rounds measured.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio_median: float
    ratio_p10: float
    ratio_p90: float
    ratio_error: float
    rounds: int

    @property
    def steady(self) -> bool:
        """Whether the machine was calm enough to trust `median_ms`: p90 at most 1.5 times p10."""
        return self.p90_ms <= 1.5 * self.p10_ms


def interleave(
    runs: Mapping[str, Run],
    *,
    reference: str,
    rounds: int = 400,
    warmup: int = 5,
    tolerance: float = 0.01,
    seconds: float = 10.0,
) -> Mapping[str, Timing]:
    """Time candidates against each other until their ratios to the reference are known.

    Args:
        runs: Name -> what to time; it takes no argument, and its result is dropped.
        reference: Name of the run that ratios refer to.
        rounds: Rounds at most, at least 9.
        warmup: Untimed calls of each run beforehand.
        tolerance: Stop once each ratio's 95 % confidence interval is within this share of it; 0 runs all rounds.
        seconds: Stop after this time; nine rounds are always run.

    Raises:
        ReferenceNotFound: No run has the reference's name.
        RangeError: Fewer than 9 rounds.

    Example:
        >>> runs = {"short": lambda: sum(range(9000)), "long": lambda: sum(range(27000))}
        >>> interleave(runs, reference="short", rounds=9)["long"].ratio_median > 1.5
        True

    Fails when: the neighbours' load keeps time with the rounds; `steady` and `ratio_error` show most of it.
    """
    if reference not in runs:
        raise ReferenceNotFound(f"the reference {reference!r} is not among the runs {list(runs)}")

    def known(samples: Samples) -> bool:
        if len(samples[reference]) < LUCK / max(tolerance, 1e-9):
            return False
        ratios = [values / samples[reference] for name, values in samples.items() if name != reference]
        # A reference alone has no ratio to be known: its time is what is asked for.
        figures = ratios or [samples[reference]]
        return all(median_error(figure) < tolerance * float(np.median(figure)) for figure in figures)

    samples = collect(runs, enough=known, rounds=rounds, warmup=warmup, seconds=seconds)
    return {name: _summarize(values, values / samples[reference]) for name, values in samples.items()}


def collect(
    runs: Mapping[str, Run],
    *,
    enough: Callable[[Samples], bool],
    rounds: int = 200,
    warmup: int = 5,
    seconds: float = 10.0,
    sample_ms: float = 1.0,
) -> Samples:
    """Raw interleaved samples: name -> (rounds,) milliseconds per call, the same rounds for every run.

    Args:
        runs: Name -> what to time.
        enough: Asked every few rounds from the ninth on; true ends the measurement.
        rounds: Rounds at most, at least 9.
        warmup: Untimed calls of each run beforehand.
        seconds: Stop after this time; nine rounds are always run.
        sample_ms: A run that is shorter is repeated within a sample until the sample is this long.

    Raises:
        RangeError: Fewer than 9 rounds.
    """
    if rounds < FEWEST_ROUNDS:
        raise RangeError(f"asked for {rounds} rounds; a median with an interval needs at least {FEWEST_ROUNDS}")
    single_ms = {name: _shortest_ms(run, warmup=warmup) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle  # noqa: S311  an order, not a secret
    until = time.monotonic() + seconds
    for count in range(1, rounds + 1):
        shuffle(order)
        for name in order:
            taken[name].append(_sample(runs[name], single_ms[name], sample_ms))
        if count < FEWEST_ROUNDS:
            continue
        if time.monotonic() >= until:
            break
        if count % 3 == 0 and enough({name: np.array(values) for name, values in taken.items()}):
            break
    return {name: np.array(values) for name, values in taken.items()}


def median_error(values: NDArray[np.float64]) -> float:
    """Half the width of the 95 % confidence interval of the median, by order statistics: no distribution assumed.

    The bounds are whole ranks, by the normal approximation: the true confidence lies between 92.2 % (n = 21) and 97.9 %
    (n = 10), and comes closer to 95 % as n grows.

    Shapes: (n,), n >= 9.

    Example:
        >>> median_error(np.arange(9.0) * 10)
        30.0
    """
    ordered, half = np.sort(values), len(values) / 2
    reach = 0.98 * math.sqrt(len(values))
    low, high = math.ceil(half - reach) - 1, math.floor(half + reach)
    return float(ordered[high] - ordered[low]) / 2


def _shortest_ms(run: Run, *, warmup: int) -> float:
    """About how long one call takes."""
    for _ in range(warmup):
        run()
    return min(_timed(run, 1) for _ in range(3))


def _sample(run: Run, single_ms: float, sample_ms: float) -> float:
    """Milliseconds per call, of calls that were not interrupted if that can be had."""
    if single_ms > LONG_MS:
        return _timed(run, 1)
    repeats = max(1, math.ceil(sample_ms / max(single_ms, 1e-6)))
    # One untimed call: what ran before must not decide whose data is in the cache.
    run()
    spent = math.inf
    for _ in range(1 + RETAKES):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        spent = _timed(run, repeats)
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before:
            break
    return spent / repeats


def _timed(run: Run, repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        run()
    return (time.perf_counter_ns() - start) / 1e6


def _summarize(values: NDArray[np.float64], ratios: NDArray[np.float64]) -> Timing:
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    ratio_p10, ratio_median, ratio_p90 = np.percentile(ratios, [10, 50, 90])
    return Timing(
        median_ms=float(median),
        p10_ms=float(p10),
        p90_ms=float(p90),
        ratio_median=float(ratio_median),
        ratio_p10=float(ratio_p10),
        ratio_p90=float(ratio_p90),
        ratio_error=median_error(ratios),
        rounds=len(values),
    )
