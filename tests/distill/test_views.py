"""Views: what each part may do to an image, and that one seed gives one view."""

import pytest
import torch

from reverie.core.errors import RangeError
from reverie.core.rng import generator
from reverie.distill import Views


def images() -> torch.Tensor:
    return torch.rand(32, 2, 6, 5, generator=torch.Generator().manual_seed(0))


def test_no_part_changes_nothing_and_one_seed_gives_one_view() -> None:
    still = Views(flip=False, shift_pixels=0, blend_share=0.0)
    assert torch.equal(still.draw(images(), generator(0)), images())
    all_parts = Views(flip=True, shift_pixels=2, blend_share=0.5)
    first = all_parts.draw(images(), generator(0))
    assert torch.equal(first, all_parts.draw(images(), generator(0)))
    assert not torch.equal(first, all_parts.draw(images(), generator(1)))
    assert first.shape == images().shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_flip_gives_each_image_or_its_mirror() -> None:
    seen = Views(flip=True, shift_pixels=0, blend_share=0.0).draw(images(), generator(0))
    same = (seen == images()).flatten(1).all(1)
    mirrored = (seen == images().flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 0 < int(same.sum()) < 32


def test_shift_moves_each_image_on_its_own_and_keeps_the_inside() -> None:
    seen = Views(flip=False, shift_pixels=1, blend_share=0.0).draw(images(), generator(0))
    offsets = set()
    for view, image in zip(seen, images(), strict=True):
        found = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if torch.equal(view[:, 1:5, 1:4], image[:, 1 + dy : 5 + dy, 1 + dx : 4 + dx])
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) >= 7


def test_blend_stays_on_the_segment_to_another_image_of_the_batch() -> None:
    seen = Views(flip=False, shift_pixels=0, blend_share=1.0).draw(images(), generator(0))
    flat, pool = seen.flatten(1), images().flatten(1)
    moved = 0
    for row, own in zip(flat, pool, strict=True):
        if torch.equal(row, own):
            continue
        moved += 1
        directions = pool - own
        weights = ((row - own) * directions).sum(1) / directions.square().sum(1).clamp_min(1e-9)
        off = (row - own - weights[:, None] * directions).norm(dim=1)
        assert float(off.min()) < 1e-5
        assert 0 <= float(weights[off.argmin()]) <= 1
    assert moved >= 30
    half = Views(flip=False, shift_pixels=0, blend_share=0.5).draw(images(), generator(0))
    assert 6 <= int((half == images()).flatten(1).all(1).sum()) <= 26


@pytest.mark.parametrize("bad", [{"shift_pixels": -1}, {"blend_share": 1.5}, {"blend_share": -0.1}])
def test_impossible_views_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(RangeError, match="views need"):
        Views(**bad)  # type: ignore[arg-type]
