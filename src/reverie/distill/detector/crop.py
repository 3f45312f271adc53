"""Cut boxes out of images so that the pixels have a gradient with respect to the box.

Cost: one bilinear sample per pixel of a crop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import ShapeError

__all__ = ["crop"]


def crop(images: Tensor, boxes: Tensor, owners: Tensor, *, size: int) -> Tensor:
    """The inside of each box, sampled bilinearly at size x size points; outside of the image is the border.

    Shapes: images (n, c, h, w), boxes (k, 4) in shares of the image (left, top, right, bottom), owners (k,) int64, the
    image that each box lies in -> (k, c, size, size), differentiable with respect to images and boxes.

    Raises:
        ShapeError: Other shapes.

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> crop(image, torch.tensor([[0.5, 0.0, 1.0, 0.5]]), torch.tensor([0]), size=2)
        tensor([[[[2., 3.],
                  [6., 7.]]]])

    Reference: Jaderberg et al., 2015, arXiv:1506.02025, section 3.2.
    """
    if images.ndim != 4 or boxes.ndim != 2 or boxes.shape[1] != 4 or owners.shape != boxes.shape[:1]:
        raise ShapeError(
            f"crops take images (n, c, h, w), boxes (k, 4) and owners (k,), got {tuple(images.shape)}, "
            f"{tuple(boxes.shape)} and {tuple(owners.shape)}"
        )
    if len(boxes) == 0:
        return images.new_zeros(0, images.shape[1], size, size)
    left, top, right, bottom = boxes.unbind(1)
    zero = torch.zeros_like(left)
    # grid_sample counts from -1 to 1 over the image.
    across = torch.stack([right - left, zero, left + right - 1], dim=1)
    down = torch.stack([zero, bottom - top, top + bottom - 1], dim=1)
    grid = F.affine_grid(
        torch.stack([across, down], dim=1), [len(boxes), images.shape[1], size, size], align_corners=False
    )
    return F.grid_sample(images[owners], grid, mode="bilinear", padding_mode="border", align_corners=False)
