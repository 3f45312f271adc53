"""Views: what each part may do to an image, and that one seed gives one view."""

import pytest
import torch

from reverie.core.errors import RangeError, ShapeError
from reverie.core.rng import generator
from reverie.distill import Views


def images() -> torch.Tensor:
    return torch.rand(32, 2, 6, 5, generator=torch.Generator().manual_seed(0))


def test_no_part_changes_nothing_and_one_seed_gives_one_view() -> None:
    still = Views(flip=False, shift_pixels=0)
    assert torch.equal(still.draw(images(), generator(0)), images())
    all_parts = Views(flip=True, shift_pixels=2)
    first = all_parts.draw(images(), generator(0))
    assert torch.equal(first, all_parts.draw(images(), generator(0)))
    assert not torch.equal(first, all_parts.draw(images(), generator(1)))
    assert first.shape == images().shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_flip_gives_each_image_or_its_mirror() -> None:
    seen = Views(flip=True, shift_pixels=0).draw(images(), generator(0))
    same = (seen == images()).flatten(1).all(1)
    mirrored = (seen == images().flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 0 < int(same.sum()) < 32


def test_shift_moves_each_image_on_its_own_and_keeps_the_inside() -> None:
    seen = Views(flip=False, shift_pixels=1).draw(images(), generator(0))
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


def test_negative_shift_is_refused() -> None:
    with pytest.raises(RangeError, match="at least 0, got -1"):
        Views(shift_pixels=-1)


def test_only_batches_of_images_have_views() -> None:
    with pytest.raises(ShapeError, match=r"\(6, 5\)"):
        Views().draw(torch.zeros(6, 5), generator(0))


def test_blend_mixes_each_image_with_one_other_up_to_its_share() -> None:
    eye = torch.eye(6).view(6, 6, 1, 1)
    seen = Views(flip=False, shift_pixels=0, blend=0.4).draw(eye, generator(0)).flatten(1)
    assert torch.allclose(seen.sum(1), torch.ones(6))
    own = seen.diagonal()
    assert float(own.min()) >= 0.6
    assert len(own.unique()) > 2
    assert int((seen > 0).sum(1).max()) == 2
    with pytest.raises(RangeError, match=r"blend is a share in \[0, 1\], got 1.5"):
        Views(blend=1.5)
