"""A step is timed beside a bare pass."""

from reverie.bench.steps import step_ratio
from reverie.core.events import Event


def test_a_step_costs_about_a_pass_or_a_few() -> None:
    heard: list[Event] = []
    found = step_ratio("zoo:fashion-vgg", batch=2, rounds=9, seconds=0.0)(heard.append)
    assert 0.1 < found.value < 30
    assert found.spread is not None
    assert found.spread[0] <= found.value <= found.spread[1]
    assert [event.step for event in heard] == [0, 1]
