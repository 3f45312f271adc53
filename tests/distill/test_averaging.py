"""The running average of weights, by hand, and inside a distillation."""

import torch
from torch import nn

from reverie.distill.averaging import RunningAverage


def test_the_average_by_hand() -> None:
    norm = nn.BatchNorm1d(1)
    average = RunningAverage(norm, decay=0.5)
    with torch.no_grad():
        norm.weight.fill_(5.0)
        norm.running_mean.fill_(10.0)
        norm.num_batches_tracked.fill_(3)
    average.follow(norm, steps=0)  # decay 1 / 10
    state = average.state_dict()
    assert torch.allclose(state["weight"], torch.tensor([0.1 * 1 + 0.9 * 5.0]))
    assert torch.allclose(state["running_mean"], torch.tensor([9.0]))
    assert int(state["num_batches_tracked"]) == 3
    average.follow(norm, steps=1000)  # decay 1 / 2
    assert torch.allclose(average.state_dict()["weight"], torch.tensor([4.8]))
    assert float(norm.weight.detach()) == 5.0
