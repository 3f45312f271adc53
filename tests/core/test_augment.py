"""What an augmentation refuses, and how far it goes."""

import pytest
import torch

from reverie.core.augment import RandomAffine, ShiftAndFlip
from reverie.core.errors import RangeError


def test_a_shift_below_0_is_refused() -> None:
    with pytest.raises(RangeError, match="shift >= 0, got shift=-1"):
        ShiftAndFlip(-1)
    with pytest.raises(RangeError, match=r"shift >= 0.*got shift=-1"):
        RandomAffine(-1)


def test_a_zoom_is_a_share_of_the_coordinates() -> None:
    """Coordinates scaled by 0.8 show 0.8 of the image, so its parts appear 1 / 0.8 as large."""
    ramp = (torch.arange(64) + 0.5).view(1, 1, 1, 64).expand(400, 1, 64, 64).contiguous()
    seen = RandomAffine(0, zoom=0.2, turn=0, flip=False)(ramp, torch.Generator().manual_seed(0))
    # Pixels of the original per pixel seen, in the middle, where no edge is reflected.
    pace = (seen[:, 0, 32, 40] - seen[:, 0, 32, 24]) / 16
    assert (0.8 <= float(pace.min()) < 0.81, 1.19 < float(pace.max()) <= 1.2 + 1e-4) == (True, True)
