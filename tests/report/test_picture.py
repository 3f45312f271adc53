"""The picture of dreams: every image where its class says, readable, harmless."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.core.errors import NotWritable, RangeError, ShapeError
from reverie.report.picture import dream_grid, png_bytes, save_png


def _flat(count: int, *, channels: int = 1, side: int = 28) -> torch.Tensor:
    """Image i is one flat color of value i + 1."""
    values = torch.arange(1, count + 1, dtype=torch.uint8)
    return values.view(-1, 1, 1, 1).expand(-1, channels, side, side).contiguous()


def _has(picture: Image.Image, value: int) -> bool:
    return bool((np.asarray(picture) == value).all(axis=2).any())


def _top(picture: Image.Image, value: int) -> int:
    rows, _ = np.nonzero((np.asarray(picture) == value).all(axis=2))
    return int(rows.min())


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_of_several_images_get_a_row_each(channels: int) -> None:
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    picture = dream_grid(_flat(6, channels=channels), labels, class_names=["coat", "bag"])
    tops = {label: {_top(picture, index + 1) for index in range(6) if labels[index] == label} for label in (0, 1)}
    assert len(tops[0]) == len(tops[1]) == 1
    assert tops[0].pop() < tops[1].pop()


def test_small_images_are_enlarged_pixel_for_pixel() -> None:
    checker = ((torch.arange(8).view(-1, 1) + torch.arange(8)) % 2 * 255).to(torch.uint8).expand(3, 1, 8, 8)
    picture = np.asarray(dream_grid(checker.contiguous(), torch.zeros(3, dtype=torch.int64), tile=80))
    black = (picture == 0).all(axis=2)
    # 3 images, 32 black pixels each, enlarged tenfold; the ink of captions is not pure black.
    assert black.sum() == 3 * 32 * 100


def test_a_row_is_cut_off_and_later_images_are_not_drawn() -> None:
    picture = dream_grid(_flat(9), torch.zeros(9, dtype=torch.int64), per_row=4)
    assert [_has(picture, index + 1) for index in range(9)] == [True] * 4 + [False] * 5


def test_many_classes_of_one_image_flow() -> None:
    picture = dream_grid(_flat(12, channels=3), torch.arange(12) * 7, class_names=["x"] * 100, per_row=4)
    assert all(_has(picture, index + 1) for index in range(12))
    assert len({_top(picture, index + 1) for index in range(12)}) == 3


def test_large_images_are_scaled_down() -> None:
    assert dream_grid(_flat(1, channels=3, side=224), torch.tensor([0]), tile=96).width < 224


@pytest.mark.parametrize("name", ["", "\x1b[31mred\n", "<img src=x onerror=alert(1)>", "w" * 500, "\u202e"])
def test_hostile_class_names_are_drawn_as_text(name: str) -> None:
    assert dream_grid(_flat(3), torch.zeros(3, dtype=torch.int64), class_names=[name]).width < 1000


def test_a_label_without_a_name_is_called_by_its_number() -> None:
    labels = torch.tensor([5, 5, 5])
    unnamed = png_bytes(dream_grid(_flat(3), labels))
    assert unnamed == png_bytes(dream_grid(_flat(3), labels, class_names=["a", "b"]))
    assert unnamed != png_bytes(dream_grid(_flat(3), labels - 1))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)),
    ],
    ids=["floats", "two channels", "labels do not fit", "none"],
)
def test_what_cannot_be_drawn_is_refused(images: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ShapeError):
        dream_grid(images, labels)


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(RangeError, match="per_row"):
        dream_grid(_flat(1), torch.tensor([0]), per_row=0)


def test_the_file_holds_the_picture(tmp_path: Path) -> None:
    picture = dream_grid(_flat(3), torch.zeros(3, dtype=torch.int64))
    save_png(picture, tmp_path / "dreams.png")
    with Image.open(tmp_path / "dreams.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    assert [path.name for path in tmp_path.iterdir()] == ["dreams.png"]


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable):
        save_png(dream_grid(_flat(1), torch.tensor([0])), tmp_path / "file" / "dreams.png")
