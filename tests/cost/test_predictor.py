import numpy as np
import pytest

from reverie.core.errors import RangeError
from reverie.cost.predictor import fit_predictor


def test_the_teacher_is_on_every_line_of_few_points():
    for points in ([], [(0.5, 0.6)], [(0.5, 0.6), (0.2, 0.35)]):
        assert fit_predictor(points, overhead=0.05).share(1.0) == pytest.approx(1.0)


def test_what_was_measured_moves_the_constant_towards_it():
    # A network of half the sum that takes 60 % asks for a constant of 0.2; alone it weighs as much as the overhead.
    assert fit_predictor([(0.5, 0.6)]).constant == pytest.approx(0.1)
    assert fit_predictor([(0.5, 0.6)] * 9).constant == pytest.approx(0.18)


def test_many_networks_fit_a_line_of_their_own():
    rng = np.random.default_rng(0)
    summed = rng.uniform(0.2, 0.9, 25)
    fitted = fit_predictor([(s, 0.1 + 0.8 * s) for s in summed.tolist()])
    assert (fitted.constant, fitted.scale) == (pytest.approx(0.1), pytest.approx(0.8))
    assert fitted.limit(fitted.share(0.4)) == pytest.approx(0.4)


def test_numbers_out_of_range():
    with pytest.raises(RangeError, match="overhead"):
        fit_predictor([], overhead=1.0)
    with pytest.raises(RangeError, match="above 0"):
        fit_predictor([(0.5, 0.0)])
