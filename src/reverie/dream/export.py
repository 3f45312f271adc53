"""Banks as others read them: a folder of PNG files by class, or tar shards in the layout of webdataset.

Cost: one PNG per image. Every file appears whole or not at all; the same bank gives the same bytes.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from reverie.core.counts import check_counts
from reverie.core.errors import FolderInUse, ShapeError
from reverie.core.store import write_bytes
from reverie.dream.bank import Bank
from reverie.dream.distilled import LABELS_FILE, SoftLabels

__all__ = ["export_folder", "export_webdataset"]


def export_folder(
    bank: Bank, path: Path | str, *, class_names: Sequence[str] = (), labels: SoftLabels | None = None
) -> Path:
    """Write `CLASS/000123.png` for every dream, as image-folder readers expect, with soft labels beside them.

    The number in a name is the dream's place in the bank, and in the soft labels.

    Args:
        bank: Images of 1 or 3 channels with one class each.
        path: A new or empty folder.
        class_names: One folder name per class; a class without one of its own is called by its number.
        labels: Soft labels to be kept with them, as `soft_labels.safetensors`.

    Returns:
        The folder.

    Raises:
        FolderInUse: The folder holds something.
        ShapeError: Images that no PNG holds, or labels of other images.

    Example:
        >>> import tempfile, torch
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> bank = Bank(images, torch.tensor([0, 1]), torch.zeros(2, 2), torch.arange(2), {"count": 2})
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = export_folder(bank, Path(place) / "png", class_names=["cat", "dog"])
        ...     sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
        ['cat/000000.png', 'dog/000001.png']
    """
    folder = _empty(Path(path))
    _check(bank, labels)
    names = _folders(class_names, int(bank.labels.max()) + 1)
    for index, (image, label) in enumerate(zip(bank.images, bank.labels.tolist(), strict=True)):
        write_bytes(folder / names[label] / f"{index:06d}.png", _png(image))
    if labels is not None:
        labels.save(folder / LABELS_FILE)
    return folder


def export_webdataset(
    bank: Bank, path: Path | str, *, per_shard: int = 1000, labels: SoftLabels | None = None
) -> list[Path]:
    """Write tar files whose members `000123.png`, `000123.cls` and `000123.json` belong together by name.

    The JSON holds the seed and the teacher's logits; `000123.boxes.npy` and `000123.soft.npy` the labeled views.

    Args:
        bank: Images of 1 or 3 channels with one class each.
        path: A new or empty folder.
        per_shard: Images in a tar file, >= 1.
        labels: Soft labels of the same images.

    Returns:
        The tar files.

    Raises:
        FolderInUse: The folder holds something.
        RangeError: `per_shard` below 1.
        ShapeError: Images that no PNG holds, or labels of other images.

    Example:
        >>> import tempfile, torch
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> bank = Bank(images, torch.tensor([0, 1]), torch.zeros(2, 2), torch.arange(2), {"count": 2})
        >>> with tempfile.TemporaryDirectory() as place:
        ...     [path.name for path in export_webdataset(bank, Path(place) / "tar", per_shard=1)]
        ['dreams-00000.tar', 'dreams-00001.tar']
    """
    check_counts(per_shard=per_shard)
    folder = _empty(Path(path))
    _check(bank, labels)
    written = []
    for start in range(0, len(bank), per_shard):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for index in range(start, min(start + per_shard, len(bank))):
                for suffix, content in _sample(bank, index, labels):
                    member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        written.append(folder / f"dreams-{start // per_shard:05d}.tar")
        write_bytes(written[-1], buffer.getvalue())
    return written


def _folders(class_names: Sequence[str], classes: int) -> list[str]:
    """A folder for each class: its name where no other folder is called so, else its number."""
    numbers = [f"{label:04d}" for label in range(classes)]
    names = [name.replace("/", "-") for name in class_names[:classes]]
    uses = Counter([*names, *numbers])
    pairs = zip_longest(names, numbers, fillvalue="")
    return [name if uses[name] == 1 and name not in ("", ".", "..") else number for name, number in pairs]


def _sample(bank: Bank, index: int, labels: SoftLabels | None) -> list[tuple[str, bytes]]:
    facts = {"seed": int(bank.seeds[index]), "logits": bank.logits[index].tolist()}
    parts = [
        ("png", _png(bank.images[index])),
        ("cls", str(int(bank.labels[index])).encode()),
        ("json", json.dumps(facts).encode()),
    ]
    if labels is not None:
        parts.append(("boxes.npy", _npy(labels.boxes[:, index])))
        parts.append(("soft.npy", _npy(labels.logits[:, index])))
    return parts


def _npy(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.contiguous().numpy())
    return buffer.getvalue()


def _png(image: Tensor) -> bytes:
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderInUse(f"{folder} is not empty. Export to a new folder.")
    return folder


def _check(bank: Bank, labels: SoftLabels | None) -> None:
    if bank.images.ndim != 4 or bank.images.shape[1] not in (1, 3) or bank.labels.shape != (len(bank),):
        raise ShapeError(
            f"PNG files hold images (1 or 3, h, w) with one class, the bank holds {tuple(bank.images.shape[1:])} with "
            f"labels {tuple(bank.labels.shape)}. Read its shards with reverie.Bank.load instead."
        )
    if labels is not None and labels.boxes.shape[1] != len(bank):
        raise ShapeError(f"soft labels of {labels.boxes.shape[1]} images do not belong to a bank of {len(bank)}")
