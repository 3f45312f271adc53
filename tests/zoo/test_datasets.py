"""Test sets: the embedded one, and the user's own with every way to get it wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound, ReverieError, ShapeError
from reverie.zoo.datasets import folder_source, unlabeled_source
from reverie.zoo.datasets import test_set as embedded_test_set

SHAPE = (3, 4, 5)


def test_the_embedded_test_set_is_fashion_mnist() -> None:
    source = embedded_test_set("fashion-mnist")
    assert source.images.shape == (10_000, 1, 28, 28)
    assert source.labels is not None
    # Ten classes of a thousand images each, and the published mean of the test images.
    assert source.labels.bincount().tolist() == [1000] * 10
    assert source.images.double().mean().item() / 255 == pytest.approx(0.2868, abs=1e-4)
    assert source.labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_an_unknown_test_set_names_the_closest() -> None:
    with pytest.raises(ReferenceNotFound, match=r"no embedded test set 'fashion'. Did you mean fashion-mnist\?"):
        embedded_test_set("fashion")


def image_folder(root: Path, mode: str = "RGB") -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    for index, name in enumerate(("dog", "cat", "1")):
        (root / name).mkdir(parents=True)
        Image.fromarray(pixels[index]).convert(mode).save(root / name / "x.png")
    return pixels


def test_a_folder_by_class_name_or_number(tmp_path: Path) -> None:
    pixels = image_folder(tmp_path)
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    source = folder_source(tmp_path, image_shape=SHAPE, class_names=["cat", "dog"])
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]
    assert torch.equal(source.images, torch.from_numpy(pixels[[2, 1, 0]]).permute(0, 3, 1, 2))


def test_arrays(tmp_path: Path) -> None:
    images, labels = np.arange(40, dtype=np.uint8).reshape(2, 4, 5), np.array([1, 0], np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    source = folder_source(tmp_path / "own.npz", image_shape=(1, 4, 5), class_names=["a", "b"])
    assert torch.equal(source.images[:, 0], torch.from_numpy(images))
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("shape", "names", "kind", "sentence"),
    [
        (
            (3, 8, 8),
            ("cat", "dog"),
            ShapeError,
            r"x\.png is 4 x 5 pixels, mode RGB; the network takes 8 x 8 pixels and 3",
        ),
        ((1, 4, 5), ("cat", "dog"), ShapeError, r"mode RGB; the network takes 4 x 5 pixels and 1 channel\."),
        (
            SHAPE,
            ("cat", "cow"),
            RangeError,
            r"dog names no class of the network. Rename it to a number from 0 to 1 or one of: cat, cow",
        ),
        (SHAPE, ("dog",), RangeError, r"1 names no class of the network"),
        (SHAPE, (), RangeError, r"cat names no class of the network. Rename it to a label number such as 0"),
    ],
)
def test_bad_folders(
    tmp_path: Path, shape: tuple[int, ...], names: tuple[str, ...], kind: type[ReverieError], sentence: str
) -> None:
    image_folder(tmp_path)
    with pytest.raises(kind, match=sentence):
        folder_source(tmp_path, image_shape=shape, class_names=names)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    image_folder(tmp_path)
    path = tmp_path / "cat" / "x.png"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=r"cat/x\.png cannot be read as an image"):
            folder_source(tmp_path, image_shape=SHAPE, class_names=["cat", "dog"])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="holds no images in subfolders"):
        folder_source(tmp_path, image_shape=SHAPE)
    with pytest.raises(ReferenceNotFound, match=r"no test set .*none"):
        folder_source(tmp_path / "none", image_shape=SHAPE)


IMAGES, LABELS = np.zeros((2, 3, 4, 5), np.uint8), np.array([0, 1])


@pytest.mark.parametrize(
    ("arrays", "kind", "sentence"),
    [
        ({"images": IMAGES}, CorruptFile, "lacks an array"),
        (
            {"images": np.zeros((2, 4, 5, 3), np.uint8), "labels": LABELS},
            ShapeError,
            r"images \(2, 4, 5, 3\) of type uint8",
        ),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, ShapeError, "of type float32"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ShapeError, "n >= 1"),
        ({"images": IMAGES, "labels": LABELS[:1]}, ShapeError, r"2 images and labels \(1,\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, ShapeError, "type float64"),
        ({"images": IMAGES, "labels": LABELS + 1}, RangeError, "labels from 1 to 2; the network's classes are 0 to 1"),
        ({"images": IMAGES, "labels": LABELS - 1}, RangeError, "labels from -1 to 0"),
        ({"images": np.array([{}, {}]), "labels": LABELS}, CorruptFile, "allow_pickle=False"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], kind: type[ReverieError], sentence: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(kind, match=sentence):
        folder_source(tmp_path / "own.npz", image_shape=SHAPE, class_names=["a", "b"])


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 not really", b"\x93NUMPY\x01\x00"])
def test_files_that_hold_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"own\.npz cannot be read as an \.npz file"):
        folder_source(tmp_path / "own.npz", image_shape=SHAPE)


def test_pictures_for_a_network_of_signals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ShapeError, match=r"would hold pictures \(channels, height, width\), the network takes \(2, 9\)"
    ):
        folder_source(tmp_path, image_shape=(2, 9))


def test_images_without_labels_at_any_depth(tmp_path: Path) -> None:
    pixels = image_folder(tmp_path)
    (tmp_path / "dog" / "x.png").rename(tmp_path / "here.PNG")
    (tmp_path / "notes.txt").write_text("not an image")
    source = unlabeled_source(tmp_path, image_shape=SHAPE)
    assert source.labels is None
    assert torch.equal(source.images, torch.from_numpy(pixels[[2, 1, 0]]).permute(0, 3, 1, 2))
    np.savez(tmp_path / "own.npz", images=IMAGES)
    assert len(unlabeled_source(tmp_path / "own.npz", image_shape=SHAPE)) == 2
    with pytest.raises(ShapeError, match="3 channels"):
        unlabeled_source(tmp_path, image_shape=(3, 8, 8))
    with pytest.raises(CorruptFile, match=r"It needs arrays named images\."):
        unlabeled_source(tmp_path / "notes.txt", image_shape=SHAPE)
    for path, sentence in ((tmp_path / "dog", "holds no image files"), (tmp_path / "none", "no images .*none")):
        with pytest.raises(ReferenceNotFound, match=sentence):
            unlabeled_source(path, image_shape=SHAPE)
