"""Images of the user's own, labeled or not, from folders or arrays; and the embedded test set."""

import difflib
import io
import zipfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound, ShapeError
from reverie.core.source import Source

__all__ = ["IMAGE_ENDINGS", "folder_source", "test_set", "test_set_names", "unlabeled_source"]

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}
MODES = {1: ("L", "1"), 3: ("RGB", "P")}


def test_set_names() -> tuple[str, ...]:
    """Names of the embedded test sets."""
    names = (entry.name for entry in files("reverie.zoo").joinpath("data").iterdir())
    return tuple(sorted(name.removesuffix("-test.npz") for name in names if name.endswith("-test.npz")))


def test_set(name: str) -> Source:
    """A test set that travels inside the package: real images with labels, never used for training.

    Shapes: `"fashion-mnist"` is 10,000 images (1, 28, 28) of 10 classes (Xiao et al. 2017, arXiv:1708.07747; MIT).

    Raises:
        ReferenceNotFound: There is no such test set.
    """
    if name not in test_set_names():
        closest = difflib.get_close_matches(name, test_set_names(), n=1, cutoff=0.3)
        advice = f"Did you mean {closest[0]}? " if closest else ""
        raise ReferenceNotFound(f"no embedded test set {name!r}. {advice}There is: {', '.join(test_set_names())}.")
    content = files("reverie.zoo").joinpath("data", f"{name}-test.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Source("real", torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"].astype(np.int64)))


def folder_source(path: str | Path, *, image_shape: Sequence[int], class_names: Sequence[str] = ()) -> Source:
    """The user's own labeled images.

    Args:
        path: A folder with one subfolder of image files for each class, named by class name or by label number; or an
            `.npz` file with `images`, uint8 (n, c, h, w) or (n, h, w), and `labels`, integers (n,).
        image_shape: (channels, height, width) of every image; nothing is resized.
        class_names: Names of the labels 0, 1, ..., or empty where subfolders are numbers.

    Raises:
        ReferenceNotFound: There is no such folder or file, or it holds no images.
        CorruptFile: An image cannot be read.
        ShapeError: An image has another size or number of channels.
        RangeError: A label or a subfolder names no class.
    """
    path, shape = Path(path), _picture_shape(path, image_shape)
    if path.is_dir():
        return _from_folders(path, shape, tuple(class_names))
    if not path.exists():
        raise ReferenceNotFound(
            f"no test set {path}. Give a folder with one subfolder per class, an .npz file, or {_embedded()}."
        )
    images, labels = _read_arrays(path, ("images", "labels"))
    return Source("real", _checked_images(path, images, shape), _checked_labels(path, labels, images, class_names))


def unlabeled_source(path: str | Path, *, image_shape: Sequence[int]) -> Source:
    """The user's own images, whatever their labels.

    Args:
        path: A folder of image files, at any depth; or an `.npz` file with `images`, uint8 (n, c, h, w) or (n, h, w).
        image_shape: (channels, height, width) of every image; nothing is resized.

    Raises:
        ReferenceNotFound: There is no such folder or file, or it holds no images.
        CorruptFile: An image cannot be read.
        ShapeError: An image has another size or number of channels.
    """
    path, shape = Path(path), _picture_shape(path, image_shape)
    if not path.exists():
        raise ReferenceNotFound(f"no images {path}. Give a folder of image files, an .npz file, or {_embedded()}.")
    if not path.is_dir():
        return Source("real", _checked_images(path, _read_arrays(path, ("images",))[0], shape))
    files = sorted(entry for entry in path.rglob("[!.]*") if entry.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise ReferenceNotFound(f"{path} holds no image files. Give a folder of them, or an .npz file.")
    return Source("real", torch.stack([_read_image(file, shape) for file in files]))


def _embedded() -> str:
    """The test sets that travel inside the package, as the command line names them."""
    return " or ".join(f"zoo:{name}" for name in test_set_names())


def _picture_shape(path: str | Path, image_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise ShapeError(f"{path} would hold pictures (channels, height, width), the network takes {shape}")
    return shape


def _from_folders(path: Path, shape: tuple[int, ...], class_names: tuple[str, ...]) -> Source:
    images, labels = [], []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        label = _label(folder, class_names)
        for file in sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_ENDINGS):
            images.append(_read_image(file, shape))
            labels.append(label)
    if not images:
        raise ReferenceNotFound(f"{path} holds no images in subfolders. Make one subfolder for each class.")
    return Source("real", torch.stack(images), torch.tensor(labels))


def _label(folder: Path, class_names: tuple[str, ...]) -> int:
    if folder.name in class_names:
        return class_names.index(folder.name)
    if folder.name.isdecimal() and (not class_names or int(folder.name) < len(class_names)):
        return int(folder.name)
    allowed = "a label number such as 0"
    if class_names:
        shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        allowed = f"a number from 0 to {len(class_names) - 1} or one of: {shown}"
    raise RangeError(f"the subfolder {folder} names no class of the network. Rename it to {allowed}.")


def _read_image(file: Path, shape: tuple[int, ...]) -> Tensor:
    channels, height, width = shape
    try:
        with Image.open(file) as image:
            # Size and mode come from the header, so a huge image is refused before it is decoded.
            if image.size != (width, height) or image.mode not in MODES.get(channels, ()):
                raise ShapeError(
                    f"{file} is {image.height} x {image.width} pixels, mode {image.mode}; the network takes "
                    f"{height} x {width} pixels and {channels} channel{'s' if channels > 1 else ''}. "
                    "Resize or convert the images."
                )
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFile(f"{file} cannot be read as an image ({error}). Replace or remove it.") from error
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1).contiguous()


def _read_arrays(path: Path, names: Sequence[str]) -> tuple[NDArray[Any], ...]:
    wanted = " and ".join(names)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name]) for name in names)
    except KeyError as error:
        raise CorruptFile(f"{path} lacks an array: {error}. It needs arrays named {wanted}.") from error
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CorruptFile(
            f"{path} cannot be read as an .npz file ({str(error)[:120]}). It needs arrays named {wanted}."
        ) from error


def _checked_images(path: Path, images: NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    if shape[0] == 1 and images.ndim == 3:
        images = images[:, None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or len(images) == 0:
        raise ShapeError(
            f"{path} holds images {images.shape} of type {images.dtype}; the network takes uint8 "
            f"(n, {', '.join(map(str, shape))}) with n >= 1. Resize, convert or transpose them."
        )
    return torch.from_numpy(images)


def _checked_labels(path: Path, labels: NDArray[Any], images: NDArray[Any], class_names: Sequence[str]) -> Tensor:
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ShapeError(
            f"{path} holds {len(images)} images and labels {labels.shape} of type {labels.dtype}; "
            "give one integer for each image."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (class_names and high >= len(class_names)):
        limit = f"to {len(class_names) - 1}" if class_names else "upward"
        raise RangeError(
            f"{path} holds labels from {low} to {high}; the network's classes are 0 {limit}. Renumber them."
        )
    return torch.from_numpy(labels.astype(np.int64))
