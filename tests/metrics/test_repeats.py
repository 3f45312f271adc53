"""Planted repeats are found, and nothing else."""

import pytest
import torch

from reverie.core.errors import ShapeError
from reverie.metrics import duplicates


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_distinct_images_have_none_and_planted_repeats_are_counted() -> None:
    images = noise(40)
    assert duplicates(images) == 0.0
    darker = (images[:10] // 2 + 20).to(torch.uint8)
    assert duplicates(torch.cat([images, darker])) == pytest.approx(10 / 50)


def test_repeats_across_blocks_equal_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.cat([noise(30), noise(30)[5:12], noise(30)[:1]])
    whole = duplicates(images)
    monkeypatch.setattr("reverie.metrics.repeats.BLOCK", 4)
    assert duplicates(images) == whole == pytest.approx(8 / 38)


def test_flat_images_are_alike_whatever_their_brightness() -> None:
    flat = torch.tensor([0, 90, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert duplicates(torch.cat([noise(3), flat])) == pytest.approx(2 / 6)


def test_floats_are_refused() -> None:
    with pytest.raises(ShapeError, match="float32"):
        duplicates(torch.zeros(2, 4))
