"""Blocks that stand in for a layer learn alone, from the teacher's own features."""

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import Diverged, RangeError, ReferenceNotFound, ShapeError
from reverie.core.source import Source, noise_source
from reverie.distill import Candidate, TaughtBlock, distill_blocks


def teacher() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 3)
        )


def source() -> Source:
    return noise_source(count=80, image_shape=(1, 4, 4), seed=0)


def conv(seed: int) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(4, 4, 1)


def run(*candidates: Candidate, steps: int = 60, learning_rate: float = 0.02) -> tuple[TaughtBlock, ...]:
    return distill_blocks(teacher(), candidates, source(), steps=steps, batch_size=16, learning_rate=learning_rate)


def test_a_block_that_can_be_the_layer_becomes_it() -> None:
    (found,) = run(Candidate("2", conv(1)), steps=300, learning_rate=0.05)
    assert found.error < 1e-2 < found.error_before


def test_the_errors_are_those_of_held_out_images_by_hand() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    exact, silent = run(Candidate("2", teacher()[2]), Candidate("2", Zero()), steps=1, learning_rate=1e-9)
    assert exact.error == pytest.approx(0.0, abs=1e-10)
    assert silent.error == silent.error_before == pytest.approx(1.0)


def test_each_block_learns_as_if_it_were_alone() -> None:
    (alone,) = run(Candidate("2", conv(1)))
    together = run(Candidate("2", conv(2)), Candidate("0", nn.Conv2d(1, 4, 1)), Candidate("2", conv(1)))
    assert torch.equal(alone.block.get_parameter("weight"), together[2].block.get_parameter("weight"))
    assert [one.layer for one in together] == ["2", "0", "2"]


def test_a_block_that_draws_learns_as_if_it_were_alone() -> None:
    def drawing(seed: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), conv(seed))

    (alone,) = run(Candidate("2", drawing(1)))
    together = run(Candidate("2", drawing(2)), Candidate("2", drawing(1)))
    assert torch.equal(alone.block.get_parameter("1.weight"), together[1].block.get_parameter("1.weight"))


def test_a_layer_that_returns_no_single_tensor_is_refused_by_name() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2).mT.expand(-1, -1, 4)
            found: Tensor = self.inner(rows, rows, rows)[0]
            return found.mean(1)

    with pytest.raises(ShapeError, match="'inner' returns tuple, not one tensor"):
        distill_blocks(Attention(), [Candidate("inner", conv(1))], source(), steps=1, batch_size=16)


def test_candidates_are_copied() -> None:
    block = conv(1)
    before = block.weight.detach().clone()
    (found,) = run(Candidate("2", block))
    assert torch.equal(block.weight, before)
    assert not torch.equal(found.block.get_parameter("weight"), before)
    assert not found.block.training


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ReferenceNotFound, match="'9' is no layer of the teacher"):
        run(Candidate("9", conv(1)))
    with pytest.raises(ShapeError, match=r"block for '2' cannot take its input \(8, 4, 4, 4\)"):
        run(Candidate("2", nn.Conv2d(5, 4, 1)))
    with pytest.raises(ShapeError, match=r"block for '2' gives \(8, 5, 4, 4\), the layer \(8, 4, 4, 4\)"):
        run(Candidate("2", nn.Conv2d(4, 5, 1)))
    with pytest.raises(RangeError, match="no candidate"):
        run()
    with pytest.raises(RangeError, match="steps >= 1"):
        run(Candidate("2", conv(1)), steps=0)
    with pytest.raises(Diverged, match="the block for '2' ends with an error of"):
        run(Candidate("2", conv(1)), learning_rate=1e30)
