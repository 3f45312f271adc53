"""What every test may ask for."""

from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch
from torch import nn

from reverie.core.events import Event

# The same examples on every machine and in every run; no deadline, since a busy machine is not a wrong answer.
hypothesis.settings.register_profile("reverie", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("reverie")

# Tiny networks gain nothing from threads, and lose much where several test processes share the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """Give each test the same global random state, and the thread count that the suite began with."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


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
