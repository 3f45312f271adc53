"""What every test may ask for."""

from collections.abc import Callable

import hypothesis
import pytest
from torch import nn

from reverie.core.events import Event

# The same examples on every machine and in every run; no deadline, since a busy machine is not a wrong answer.
hypothesis.settings.register_profile("reverie", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("reverie")


@pytest.fixture
def heard() -> tuple[list[Event], Callable[[Event], None]]:
    """A list, and a listener that appends each event to it."""
    events: list[Event] = []
    return events, events.append


@pytest.fixture
def small_net() -> nn.Module:
    """Convolution, batch normalization, ReLU, pooling, linear: (n, 3, 8, 8) -> (n, 4)."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
