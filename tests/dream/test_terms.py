"""Terms: the laws of their algebra, and each built-in loss worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reverie.core.errors import RangeError, StatisticsMissing
from reverie.dream import Moments, Term, View, class_term, norm_term, statistics_term, total_variation_term

TERMS = st.sampled_from([class_term(), statistics_term(), norm_term(), total_variation_term(), Term()])
FACTORS = st.sampled_from([0.5, 2.0, 4.0])


def seen(mean: list[float], variance: list[float]) -> Moments:
    """Batch moments beside stored mean (3, 4) and variance (7, 24): of length 25, and 31 in sum."""
    return Moments("", torch.tensor(mean), torch.tensor(variance), torch.tensor([3.0, 4.0]), torch.tensor([7.0, 24.0]))


def view(images: Tensor | None = None, moments: tuple[Moments, ...] = ()) -> View:
    pixels = torch.full((2, 1, 4, 4), 0.25) if images is None else images
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    return View(pixels, logits, torch.tensor([0, 1]), moments or (seen([3.0, 4.0], [7.0, 24.0]),))


@given(TERMS, TERMS, TERMS, FACTORS, FACTORS)
def test_the_algebra(a: Term, b: Term, c: Term, s: float, t: float) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Term() == a == Term() + a
    assert 0.0 * a + b == b == b + a * 0.0
    assert 1.0 * a == a
    assert s * (t * a) == (s * t) * a
    assert s * (a + b) == s * a + s * b
    assert s * a == a * s
    torch.testing.assert_close((s * a + b)(view()), s * a(view()) + b(view()))


def test_reports_add_up_by_name() -> None:
    term = 2.0 * class_term() + norm_term() + class_term()
    report = term.report(view())
    assert list(report) == ["class", "norm"]
    torch.testing.assert_close(torch.stack(list(report.values())).sum(), term(view()))
    torch.testing.assert_close(report["class"], 3.0 * class_term()(view()))
    assert Term()(view()) == 0.0


def test_class_by_hand() -> None:
    expected = (math.log(2.0) + math.log(4.0)) / 2
    assert class_term()(view()).item() == pytest.approx(expected)


def test_norm_and_variation_by_hand() -> None:
    assert norm_term()(view()).item() == pytest.approx(0.0625)
    assert norm_term(center=0.25)(view()).item() == 0.0
    stripes = torch.tensor([0.0, 0.5, 0.0, 0.5]).expand(2, 1, 4, 4)
    assert total_variation_term()(view(stripes)).item() == pytest.approx(0.25)
    assert total_variation_term(power=1.0)(view(stripes)).item() == pytest.approx(0.5)
    assert total_variation_term(power=3.0)(view(stripes)).item() == pytest.approx(0.125)


def test_images_one_pixel_wide_have_no_steps_across() -> None:
    column = torch.tensor([[[[0.0], [1.0], [0.0]]]]).requires_grad_()
    for power in (1.0, 2.0, 3.0):
        value = total_variation_term(power=power)(view(column))
        (gradient,) = torch.autograd.grad(value, column)
        assert value.item() == 1.0
        assert gradient.flatten().tolist() == [-power / 2, power, -power / 2]
        assert total_variation_term(power=power)(view(torch.rand(2, 3, 1, 1))).item() == 0.0


def test_statistics_by_hand() -> None:
    perfect = seen([3.0, 4.0], [7.0, 24.0])
    # Mean off by (0, sqrt(31)), variance by (3, 4): 1 + 5/25.
    off = seen([3.0, 4.0 + math.sqrt(31.0)], [10.0, 28.0])
    assert statistics_term()(view(moments=(perfect,))).item() == 0.0
    assert statistics_term()(view(moments=(off,))).item() == pytest.approx(1.2)
    assert statistics_term()(view(moments=(off, perfect, perfect))).item() == pytest.approx(0.4)
    assert statistics_term(first_weight=2.0)(view(moments=(off, perfect, perfect))).item() == pytest.approx(0.6)
    assert statistics_term(first_weight=0.0)(view(moments=(perfect, off))).item() == pytest.approx(1.2)
    with pytest.raises(StatisticsMissing, match="first_weight=0 leaves nothing to match"):
        statistics_term(first_weight=0.0)(view(moments=(off,)))


def test_statistics_do_not_depend_on_scale() -> None:
    small = Moments("", *(torch.rand(4) for _ in range(4)))
    large = Moments("", 10 * small.mean, 100 * small.variance, 10 * small.stored_mean, 100 * small.stored_variance)
    torch.testing.assert_close(statistics_term()(view(moments=(small,))), statistics_term()(view(moments=(large,))))


def test_centered_statistics_are_finite() -> None:
    zero = Moments("", torch.ones(2), torch.ones(2), torch.zeros(2), torch.ones(2))
    dead = Moments("", torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2))
    for moments in (zero, dead):
        assert torch.isfinite(statistics_term()(view(moments=(moments,))))


def test_missing_statistics_are_a_sentence() -> None:
    with pytest.raises(StatisticsMissing, match=r"no batch normalization with stored statistics.*Pass a term without"):
        statistics_term()(View(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)))


@pytest.mark.parametrize("make", [lambda: statistics_term(first_weight=-1.0), lambda: total_variation_term(power=0.0)])
def test_settings_out_of_range(make: object) -> None:
    with pytest.raises(RangeError, match="must be"):
        make()  # type: ignore[operator]


def test_descriptions_tell_settings_apart() -> None:
    assert statistics_term().describe() == statistics_term().describe()
    assert statistics_term().describe() != statistics_term(first_weight=2.0).describe()
    assert class_term().describe() != (2.0 * class_term()).describe()


@pytest.mark.parametrize("sides", [(5,), (4, 3), (2, 3, 4)])
def test_smoothness_has_the_gradient_of_its_value(sides: tuple[int, ...]) -> None:
    images = torch.rand(2, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    term = total_variation_term()
    assert torch.autograd.gradcheck(lambda x: term(view(x)), images)


def test_statistics_are_the_mean_of_what_each_layer_would_say() -> None:
    rng = torch.Generator().manual_seed(0)
    layers = [
        Moments(
            "", *(torch.rand(width, dtype=torch.float64, generator=rng).requires_grad_(place < 2) for place in range(4))
        )
        for width in (1, 7, 3)
    ]
    wanted = sum(
        (one.mean - one.stored_mean).norm() / one.stored_variance.sqrt().norm()
        + (one.variance - one.stored_variance).norm() / one.stored_variance.norm()
        for one in layers
    )
    found = statistics_term()(view(moments=tuple(layers)))
    torch.testing.assert_close(found, wanted / 3)
    inputs = [tensor for one in layers for tensor in (one.mean, one.variance)]
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted / 3, inputs))


def test_statistics_that_are_met_exactly_pull_nowhere() -> None:
    mean, variance = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    value = statistics_term()(view(moments=(Moments("", mean, variance, torch.ones(3), torch.ones(3)),)))
    assert value.item() == 0
    assert all(float(one.abs().sum()) == 0 for one in torch.autograd.grad(value, [mean, variance]))
