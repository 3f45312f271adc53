"""What holds for every test, and for every example in the documentation of the code."""

from collections.abc import Iterator

import pytest
import torch

# Tiny networks gain nothing from threads, and lose much where several test processes share the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """Give each test the same global random state, and the thread count that the suite began with."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
