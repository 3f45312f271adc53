"""A step, ours and the textbook's, is timed beside a bare pass."""

from reverie.bench.steps import step_ratios
from reverie.core.events import Event


def test_a_step_costs_about_a_pass_or_a_few() -> None:
    heard: list[Event] = []
    found = step_ratios("zoo:fashion-vgg", batch=2, names="step", rounds=9, seconds=0.0)(heard.append)
    assert set(found) == {"step", "step-textbook"}
    for figure in found.values():
        assert 0.1 < figure.value < 30
        assert figure.spread is not None
        assert figure.spread[0] <= figure.value <= figure.spread[1]
    assert [event.step for event in heard] == [0, 1]
