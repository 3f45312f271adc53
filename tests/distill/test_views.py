"""Views: what each part may do to an image, and that one seed gives one view."""

from dataclasses import replace

import pytest
import torch

from reverie.core.errors import RangeError, ShapeError
from reverie.core.rng import generator
from reverie.distill import Views

OFF = Views(flip=False, shift_pixels=0, zoom=0, turn=0, soften=0, patches=0)


def images() -> torch.Tensor:
    return torch.rand(32, 2, 6, 5, generator=torch.Generator().manual_seed(0))


def test_no_part_changes_nothing_and_one_seed_gives_one_view() -> None:
    assert torch.equal(OFF(images(), generator(0)), images())
    all_parts = Views(blend=0.2)
    first = all_parts(images(), generator(0))
    assert torch.equal(first, all_parts(images(), generator(0)))
    assert not torch.equal(first, all_parts(images(), generator(1)))
    assert first.shape == images().shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_flip_gives_each_image_or_its_mirror() -> None:
    seen = replace(OFF, flip=True)(images(), generator(0))
    same = (seen == images()).flatten(1).all(1)
    mirrored = (seen == images().flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 0 < int(same.sum()) < 32


def test_shift_moves_each_image_on_its_own_and_keeps_the_inside() -> None:
    seen = replace(OFF, shift_pixels=1)(images(), generator(0))
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


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"shift_pixels": -1}, "a distance and at least 0, got -1"),
        ({"zoom": 1.0}, r"zoom is a share in \[0, 1\), got 1.0"),
        ({"turn": -0.1}, "an angle in radians and at least 0, got -0.1"),
        ({"soften": 2.0}, r"soften is a share in \[0, 1\], got 2.0"),
        ({"patches": -1.0}, r"patches is a share in \[0, 1\], got -1.0"),
        ({"blend": 1.5}, r"blend is a share in \[0, 1\], got 1.5"),
    ],
)
def test_numbers_outside_their_range_are_refused(part: dict[str, float], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        Views(**part)


def test_only_batches_of_images_have_views() -> None:
    with pytest.raises(ShapeError, match=r"\(6, 5\)"):
        Views()(torch.zeros(6, 5), generator(0))


def test_blend_mixes_each_image_with_one_other_up_to_its_share() -> None:
    eye = torch.eye(6).view(6, 6, 1, 1)
    seen = replace(OFF, blend=0.4)(eye, generator(0)).flatten(1)
    assert torch.allclose(seen.sum(1), torch.ones(6))
    own = seen.diagonal()
    assert float(own.min()) >= 0.6
    assert len(own.unique()) > 2
    assert int((seen > 0).sum(1).max()) == 2


def test_softened_images_lie_between_themselves_and_their_averages() -> None:
    image = torch.zeros(64, 1, 5, 5)
    image[:, :, 2, 2] = 9.0
    seen = replace(OFF, soften=0.5)(image, generator(0))
    assert torch.allclose(seen.sum((1, 2, 3)), image.sum((1, 2, 3)))
    middle, corner = seen[:, 0, 2, 2], seen[:, 0, 1, 1]
    assert torch.allclose(middle + 8 * corner, torch.full((64,), 9.0))
    assert 0 <= float(corner.min()) < 0.05
    assert 0.45 < float(corner.max()) < 0.5
    assert torch.equal(replace(OFF, soften=0.5)(torch.ones(2, 1, 3, 3), generator(0)), torch.ones(2, 1, 3, 3))


def test_a_patch_is_one_rectangle_of_one_other_image() -> None:
    plain = torch.arange(200.0).view(200, 1, 1, 1).expand(200, 1, 8, 12).contiguous()
    seen = replace(OFF, patches=0.5)(plain, generator(0))
    other = seen != plain
    covered = other.flatten(1).any(1)
    assert 0.35 < float(covered.float().mean()) < 0.65
    for view, where in zip(seen[covered], other[covered], strict=True):
        assert len(view[where].unique()) == 1
        rows, columns = where[0].any(1), where[0].any(0)
        assert torch.equal(where[0], rows[:, None] & columns[None, :])
        for side in (rows, columns):
            at = side.nonzero().flatten()
            assert int(at[-1] - at[0]) + 1 == len(at)
        assert 2 <= int(rows.sum()) <= 6
        assert 3 <= int(columns.sum()) <= 9
    assert len({tuple(where[0].any(1).nonzero()[0].tolist()) for where in other[covered]}) > 3


def test_zoomed_and_turned_views_stay_in_range_and_are_drawn_for_each_image() -> None:
    same = images()[:1].expand(16, -1, -1, -1)
    seen = replace(OFF, zoom=0.3, turn=0.3)(same, generator(0))
    assert seen.shape == same.shape
    assert len({view.sum().item() for view in seen}) == 16
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
