"""A picture of images, grouped by class, with the class names beside them.

For looking at a dream bank at one glance. Cost: milliseconds; needs Pillow only.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.core.store import write_bytes
from reverie.report.text import printable

__all__ = ["dream_grid", "png_bytes", "save_png"]

PAPER, INK, FAINT = (255, 255, 255), (28, 30, 34), (120, 124, 132)
GAP, MARGIN, TEXT_SIZE = 4, 14, 15
LINE = TEXT_SIZE + 6
CAPTION_WIDEST = 190


@dataclass(frozen=True)
class _Group:
    """The images of one class that are shown, and how many there are in all."""

    name: str
    shown: tuple[int, ...]
    count: int


def dream_grid(
    images: Tensor, labels: Tensor, *, class_names: Sequence[str] = (), per_row: int = 10, tile: int = 96
) -> Image.Image:
    """Draw images in rows, one class after the other.

    Classes of several images get a row each, with the name on its left and at most `per_row` images ("10 of 26" says
    how many there are). Where most classes have one image or two, the images flow and each class's name stands over
    its first. Small images are enlarged by a whole number, pixel for pixel; large ones are scaled down to `tile`.

    Shapes: images (n, c, h, w) uint8 with c 1 or 3; labels (n,) int64.

    Args:
        images: What to draw.
        labels: The class of each image.
        class_names: One name per class; a class without one is called by its number.
        per_row: Images in a row, at least 1.
        tile: The side that an image should about have, in pixels, at least 8.

    Raises:
        ShapeError: The images are not uint8 images of 1 or 3 channels, or the labels do not fit them.
        RangeError: `per_row` or `tile` is out of its range.

    Example:
        >>> import torch
        >>> images = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
        >>> dream_grid(images, torch.tensor([0, 0, 0, 1, 1, 1]), class_names=["coat", "bag"]).mode
        'RGB'
    """
    _check(images, labels, per_row=per_row, tile=tile)
    tiles = [_tile(image, side=tile) for image in images.cpu()]
    groups = _groups(labels.tolist(), class_names, per_row=per_row)
    if len(images) < 3 * len(groups):
        return _draw_flow(tiles, groups, per_row=per_row)
    return _draw_rows(tiles, groups)


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file's content; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write the picture as a PNG file, whole or not at all.

    Raises:
        NotWritable: The file cannot be written.
    """
    write_bytes(path, png_bytes(picture))


def _check(images: Tensor, labels: Tensor, *, per_row: int, tile: int) -> None:
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ShapeError(
            f"a picture is drawn from uint8 images (n, 1 or 3, h, w) with n >= 1, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if labels.shape != (len(images),):
        raise ShapeError(f"{len(images)} images need {len(images)} labels, got {tuple(labels.shape)}")
    if per_row < 1 or tile < 8:
        raise RangeError(f"per_row must be at least 1 and tile at least 8 pixels, got {per_row} and {tile}")


def _groups(labels: Sequence[int], class_names: Sequence[str], *, per_row: int) -> list[_Group]:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return [
        _Group(_class_name(label, class_names), tuple(members[label][:per_row]), len(members[label]))
        for label in sorted(members)
    ]


def _class_name(label: int, class_names: Sequence[str]) -> str:
    name = class_names[label] if 0 <= label < len(class_names) else f"class {label}"
    return printable(name).strip() or f"class {label}"


def _tile(image: Tensor, *, side: int) -> Image.Image:
    channels, height, width = image.shape
    array = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
    picture = Image.fromarray(array[:, :, 0] if channels == 1 else array).convert("RGB")
    longest = max(height, width)
    if longest <= side:
        factor = max(1, round(side / longest))
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    scale = side / longest
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


def _draw_rows(tiles: list[Image.Image], groups: list[_Group]) -> Image.Image:
    width, height = tiles[0].size
    font = ImageFont.load_default(TEXT_SIZE)
    captions = [[_fit(group.name, font, CAPTION_WIDEST)] for group in groups]
    for lines, group in zip(captions, groups, strict=True):
        if len(group.shown) < group.count:
            lines.append(f"{len(group.shown)} of {group.count}")
    left = MARGIN + round(max(font.getlength(line) for lines in captions for line in lines)) + MARGIN
    row = max(height, LINE * max(len(lines) for lines in captions)) + GAP
    columns = max(len(group.shown) for group in groups)
    canvas = Image.new("RGB", (left + columns * (width + GAP) - GAP + MARGIN, len(groups) * row + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (lines, group) in enumerate(zip(captions, groups, strict=True)):
        top = MARGIN + index * row
        text_top = top + (height - LINE * len(lines)) // 2
        for line, (text, ink) in enumerate(zip(lines, (INK, FAINT), strict=False)):
            position = (left - MARGIN - font.getlength(text), text_top + line * LINE)
            draw.text(position, text, fill=ink, font=font)
        for column, shown in enumerate(group.shown):
            canvas.paste(tiles[shown], (left + column * (width + GAP), top))
    return canvas


def _draw_flow(tiles: list[Image.Image], groups: list[_Group], *, per_row: int) -> Image.Image:
    width, height = tiles[0].size
    font = ImageFont.load_default(TEXT_SIZE - 2)
    cells = [(shown, group.name if shown == group.shown[0] else "") for group in groups for shown in group.shown]
    columns = min(per_row, len(cells))
    rows = -(-len(cells) // columns)
    row = LINE + height + 2 * GAP
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP + 2 * MARGIN, rows * row + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (shown, caption) in enumerate(cells):
        left, top = MARGIN + (index % columns) * (width + GAP), MARGIN + (index // columns) * row
        draw.text((left, top), _fit(caption, font, width), fill=INK, font=font)
        canvas.paste(tiles[shown], (left, top + LINE))
    return canvas


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or as much of it as fits, ending in three dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
