"""Shares and paired differences against hand-worked numbers, SciPy and enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from reverie.core.errors import RangeError, ShapeError
from reverie.metrics import accuracy, agreement, paired_difference, share


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (9, 10), (9173, 10000), (1, 1)])
def test_share_interval_equals_scipy(hits: int, count: int) -> None:
    seen = share(hits, count)
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert seen.value == hits / count
    assert seen.low == pytest.approx(expected.low, abs=1e-12)
    assert seen.high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= seen.low <= seen.value <= seen.high <= 1


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_share_is_refused(hits: int, count: int) -> None:
    with pytest.raises(RangeError, match=f"{hits} of {count}"):
        share(hits, count)


def test_accuracy_and_agreement_by_hand() -> None:
    a = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 5.0, 1.0], [3.0, 0.0, 0.0]])
    b = torch.tensor([[9.0, 1.0, 0.0], [4.0, 1.0, 2.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    assert accuracy(a, torch.tensor([0, 2, 0, 1])).value == 0.5
    assert agreement(a, b).value == 0.5
    assert agreement(a, a).value == 1.0


def test_accuracy_refuses_what_it_cannot_count() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(RangeError, match=r"0 to 3.*3 classes"):
        accuracy(logits, torch.tensor([0, 3]))
    with pytest.raises(RangeError, match="-1 to 0"):
        accuracy(logits, torch.tensor([0, -1]))
    with pytest.raises(ShapeError, match=r"2 rows.*\(3,\)"):
        accuracy(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(RangeError, match="1 of 2 rows of logits hold NaN"):
        accuracy(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\)"):
        accuracy(torch.zeros(2, 3, 4), torch.tensor([0, 1]))
    with pytest.raises(RangeError, match="0 of 0"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2, 4\)"):
        agreement(logits, torch.zeros(2, 4))


def flags(both: int, only_a: int, only_b: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


def mid_p_by_enumeration(only_a: int, only_b: int) -> float:
    """Walk over all equally likely outcomes of the discordant images; ties count half."""
    total, seen = only_a + only_b, abs(only_a - only_b)
    weights = {"more": 0.0, "same": 0.0}
    for outcome in itertools.product((1, -1), repeat=total):
        lopsided = abs(sum(outcome))
        if lopsided > seen:
            weights["more"] += 0.5**total
        elif lopsided == seen:
            weights["same"] += 0.5**total
    return weights["more"] + 0.5 * weights["same"] if seen else 1.0


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 9), (0, 1), (3, 2), (4, 4), (7, 0)])
def test_mid_p_equals_enumeration(only_a: int, only_b: int) -> None:
    seen = paired_difference(*flags(20, only_a, only_b, 5))
    assert seen.p_value == pytest.approx(mid_p_by_enumeration(only_a, only_b), abs=1e-12)
    assert seen.difference == pytest.approx((only_a - only_b) / (25 + only_a + only_b))


def test_newcombe_interval_of_the_papers_example() -> None:
    # 36 both, 12 only the first, 2 only the second, none neither: the paper gives 0.0569 to 0.3404.
    seen = paired_difference(*flags(36, 12, 2, 0))
    assert seen.difference == pytest.approx(0.2)
    assert (round(seen.low, 4), round(seen.high, 4)) == (0.0569, 0.3404)


def test_newcombe_interval_shrinks_with_correlation_less_half_an_image() -> None:
    # 40 both, 6 only a, 2 only b, 32 neither. phi = (40 * 32 - 6 * 2 - 80 / 2) / sqrt(46 * 34 * 42 * 38).
    seen = paired_difference(*flags(40, 6, 2, 32))
    phi = (1268 - 40) / math.sqrt(46 * 34 * 42 * 38)
    a, b = share(46, 80), share(42, 80)
    below, above = np.array([a.value - a.low, b.high - b.value]), np.array([a.high - a.value, b.value - b.low])
    form = np.array([[1, -phi], [-phi, 1]])
    assert seen.low == pytest.approx(0.05 - math.sqrt(below @ form @ below), abs=1e-12)
    assert seen.high == pytest.approx(0.05 + math.sqrt(above @ form @ above), abs=1e-12)


def test_newcombe_interval_of_equal_answers_is_not_a_point() -> None:
    # 3 of 4 right, the same 3: phi = (3 * 1 - 4 / 2) / 3. 54 of 54: one Wilson end, z^2 / (54 + z^2).
    few, all_right = paired_difference(*flags(3, 0, 0, 1)), paired_difference(*flags(54, 0, 0, 0))
    below, above = 0.75 - 0.300642, 0.954413 - 0.75
    half = math.sqrt(below**2 - 2 / 3 * below * above + above**2)
    assert (few.difference, few.p_value) == (0.0, 1.0)
    assert (few.low, few.high) == pytest.approx((-half, half), abs=1e-6)
    assert (all_right.low, all_right.high) == pytest.approx((-0.066414, 0.066414), abs=1e-6)


def test_paired_difference_is_antisymmetric_and_holds_its_value() -> None:
    a, b = flags(9000, 150, 80, 770)
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert (ba.difference, ba.low, ba.high) == pytest.approx((-ab.difference, -ab.high, -ab.low))
    assert ab.p_value == ba.p_value < 1e-4
    assert ab.low < ab.difference < ab.high
    # A wide interval for unpaired counts, a narrow one for pairs: the pairing must show.
    assert ab.high - ab.low < share(9150, 10000).high - share(9150, 10000).low


def test_paired_difference_refuses_unpaired_flags() -> None:
    with pytest.raises(ShapeError, match=r"\(3,\) and \(2,\)"):
        paired_difference(torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
    with pytest.raises(RangeError, match="none"):
        paired_difference(torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool))
