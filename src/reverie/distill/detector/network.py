"""A small detector of the SSD kind: a stack of convolutions, and on two of its maps one answer per anchor."""

import torch
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import RangeError
from reverie.distill.detector.boxes import anchors, decode, detections
from reverie.metrics.detection import Found

__all__ = ["SmallDetector"]

# Cells along a side of the two maps, as shares of the image's side in pixels.
STRIDES = (8, 16)
SIDES = ((0.22, 0.3), (0.4, 0.5))


def _block(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class SmallDetector(nn.Module):
    """Finds objects with sides of about a fifth to a half of the image.

    Shapes: images (n, channels, size, size) in [0, 1] -> logits (n, anchors, classes + 1), the background last, and
    boxes (n, anchors, 4) in shares of the image.

    Args:
        classes: What may be found.
        channels: Of the images.
        size: Height and width of the images, a multiple of 16.
        width: Channels of the first convolution; the last has eight times as many.

    Raises:
        RangeError: A size that is no multiple of 16, or a count below 1.

    Example:
        >>> logits, boxes = SmallDetector(classes=3, size=96)(torch.zeros(2, 3, 96, 96))
        >>> logits.shape, boxes.shape
        (torch.Size([2, 360, 4]), torch.Size([2, 360, 4]))

    Reference: Liu et al., 2016, arXiv:1512.02325, section 2. Differs: two maps, square anchors of two sizes each.
    """

    anchors: Tensor

    def __init__(self, *, classes: int, channels: int = 3, size: int = 96, width: int = 16) -> None:
        super().__init__()
        if size < 16 or size % 16:
            raise RangeError(f"size must be a multiple of 16 pixels, got {size}")
        check_counts(classes=classes, channels=channels, width=width)
        self.classes = classes
        wide = 4 * width
        self.fine = nn.Sequential(
            _block(channels, width, stride=2),
            _block(width, 2 * width, stride=2),
            _block(2 * width, wide, stride=2),
            _block(wide, wide, stride=1),
        )
        self.coarse = nn.Sequential(_block(wide, 2 * wide, stride=2), _block(2 * wide, 2 * wide, stride=1))
        answers = len(SIDES[0]) * (classes + 1 + 4)
        self.heads = nn.ModuleList([nn.Conv2d(wide, answers, 3, padding=1), nn.Conv2d(2 * wide, answers, 3, padding=1)])
        self.register_buffer("anchors", anchors([size // stride for stride in STRIDES], SIDES), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and boxes of all anchors."""
        fine = self.fine((images - 0.5) / 0.25)
        rows = []
        for head, features in zip(self.heads, (fine, self.coarse(fine)), strict=True):
            answers = head(features).permute(0, 2, 3, 1)
            rows.append(answers.reshape(len(images), -1, self.classes + 5))
        joined = torch.cat(rows, dim=1)
        return joined[..., :-4], decode(joined[..., -4:], self.anchors)

    def detect(self, images: Tensor) -> list[Found]:
        """What is found in each image, surest first within a class; evaluation mode is the caller's."""
        with torch.no_grad():
            logits, boxes = self(images)
        return [detections(*one) for one in zip(logits.cpu(), boxes.cpu(), strict=True)]
