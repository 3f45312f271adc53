"""Dreams at rest: images with labels, the teacher's logits and the seed of each, in memory or in a folder of shards.

A folder holds one safetensors file per batch and `manifest.json`, which says what was asked, of which weights, and the
SHA-256 of every shard. A shard appears whole or not at all, and its bytes depend only on what was asked and on its
place, so a killed run, started again, ends with the same folder bit for bit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from reverie.core.errors import CorruptFile, FolderInUse, ReferenceNotFound, VerificationFailed
from reverie.core.source import Source
from reverie.core.store import locked, read_json, sha256_file, write_bytes, write_json

__all__ = ["Bank", "Folder", "Shard"]

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Shard:
    """One batch of dreams as it is kept.

    Attributes:
        images: (n, c, h, w) uint8.
        labels: (n,) int64, the classes asked for.
        logits: (n, k) float32, the teacher's answer to the 8-bit images.
        seeds: (n,) int64, the seed of each image's first noise.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    seeds: Tensor

    def to_bytes(self) -> bytes:
        """The shard as a safetensors file."""
        names = ("images", "labels", "logits", "seeds")
        content: bytes = save({name: getattr(self, name).contiguous() for name in names})
        return content

    @staticmethod
    def from_bytes(content: bytes, where: str) -> "Shard":
        """Read what `to_bytes` wrote.

        Raises:
            CorruptFile: The content is damaged, or holds something else.
        """
        advice = "Delete the folder to dream anew."
        try:
            shard = Shard(**load(content))
        except (SafetensorError, TypeError) as error:
            raise CorruptFile(f"{where} is no shard of a dream bank ({error}). {advice}") from error
        count = len(shard.images)
        kinds = (shard.images.dtype, shard.labels.dtype, shard.logits.dtype, shard.seeds.dtype)
        whole = shard.images.ndim >= 3 and shard.logits.shape[:-1] == shard.labels.shape == shard.seeds.shape == (
            count,
        )
        if not whole or kinds != (torch.uint8, torch.int64, torch.float32, torch.int64):
            raise CorruptFile(f"{where} holds tensors of other kinds or lengths than a shard. {advice}")
        return shard


@dataclass(frozen=True, eq=False)
class Bank:
    """Dreams of one network.

    Attributes:
        images: (n, c, h, w) uint8, as any image file would hold them.
        labels: (n,) int64, the classes asked for.
        logits: (n, k) float32, the teacher's answer to the 8-bit images.
        seeds: (n,) int64, the seed of each image's first noise.
        config: What was asked, as JSON values.
        folder: Where it is kept, or None: in memory.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    seeds: Tensor
    config: Mapping[str, Any]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def agrees(self) -> Tensor:
        """(n,) bool: the teacher, shown the 8-bit image, answers the class asked for."""
        return self.logits.argmax(1) == self.labels

    @property
    def confidence(self) -> Tensor:
        """(n,) share in [0, 1]: the teacher's probability of the class asked for."""
        return self.logits.softmax(1).gather(1, self.labels[:, None])[:, 0]

    @property
    def loss(self) -> Tensor:
        """(n,) nats: cross entropy of the teacher's answer with the class asked for."""
        return F.cross_entropy(self.logits, self.labels, reduction="none")

    def source(self) -> Source:
        """The dreams for whoever reads batches; its name is `"dreams"`."""
        return Source("dreams", self.images, self.labels)

    def verify(self) -> None:
        """Check that every shard on disk is what the manifest says, and that the bank is sound.

        Raises:
            CorruptFile: A shard or the manifest is damaged or missing.
            VerificationFailed: A logit is not finite, or a label lies outside the classes.
        """
        if self.folder is not None:
            Bank.load(self.folder)
        if not bool(torch.isfinite(self.logits).all()):
            raise VerificationFailed("the bank holds logits that are not finite; the teacher cannot have given them")
        classes = self.logits.shape[1]
        if not bool(((self.labels >= 0) & (self.labels < classes)).all()):
            raise VerificationFailed(f"the bank holds labels outside 0..{classes - 1}")

    @staticmethod
    def from_shards(shards: list[Shard], config: Mapping[str, Any], folder: Path | None = None) -> "Bank":
        """Join shards, in order."""
        joined = {name: torch.cat([getattr(shard, name) for shard in shards]) for name in Shard.__dataclass_fields__}
        return Bank(**joined, config=config, folder=folder)

    @staticmethod
    def load(folder: Path | str) -> "Bank":
        """Read a finished bank, checking every shard against the manifest.

        Raises:
            ReferenceNotFound: There is no bank.
            CorruptFile: It is damaged, or was not finished.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        config, shards = manifest["config"], manifest["shards"]
        found = sum(entry["count"] for entry in shards)
        if found != config["count"]:
            raise CorruptFile(
                f"{folder} holds {found} of {config['count']} dreams; the run was killed. Run it again to finish."
            )
        return Bank.from_shards([_read_shard(folder, entry) for entry in shards], config, folder)


class Folder:
    """A bank being written. Make one with `Folder.open`, which also says what is already there."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.shards = [_read_shard(path, entry) for entry in manifest["shards"]]

    @staticmethod
    @contextmanager
    def open(path: Path, config: Mapping[str, Any], teacher_sha256: str) -> Iterator["Folder"]:
        """Be the only writer of a bank, new or killed before its end.

        Raises:
            FolderInUse: The folder holds another bank or something else, or another process writes to it.
            CorruptFile: A finished shard is damaged.
            NotWritable: The folder cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise FolderInUse(f"{path} is a file; a bank needs a folder. Choose another path.")
        with locked(path):
            if (path / MANIFEST).exists():
                manifest = _read_manifest(path)
                _check_same(path, manifest, config, teacher_sha256)
            else:
                strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
                if strangers:
                    raise FolderInUse(f"{path} holds {strangers[0]} and no bank. Choose an empty or new folder.")
                manifest = {
                    "format": FORMAT,
                    "config": dict(config),
                    "config_sha256": _config_sha256(config),
                    "teacher_sha256": teacher_sha256,
                    "shards": [],
                }
                write_json(path / MANIFEST, manifest)
            yield Folder(path, manifest)

    def add(self, shard: Shard) -> None:
        """Write the next shard, then the manifest that names it."""
        name = f"shard-{len(self.shards):05d}.safetensors"
        content = shard.to_bytes()
        write_bytes(self.path / name, content)
        entry = {"file": name, "count": len(shard.images), "sha256": hashlib.sha256(content).hexdigest()}
        self.manifest["shards"].append(entry)
        write_json(self.path / MANIFEST, self.manifest)
        self.shards.append(shard)


def _config_sha256(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    where, advice = folder / MANIFEST, "Delete the folder to dream anew."
    if not where.exists():
        raise ReferenceNotFound(f"no dream bank in {folder}: it holds no {MANIFEST}")
    manifest = read_json(where)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptFile(f"{where} is not the manifest of a dream bank of format {FORMAT}. {advice}")
    try:
        sound = manifest["config_sha256"] == _config_sha256(manifest["config"]) and all(
            isinstance(entry["file"], str) and Path(entry["file"]).name == entry["file"] and entry["count"] > 0
            for entry in manifest["shards"]
        )
        sound = sound and isinstance(manifest["teacher_sha256"], str) and manifest["config"]["count"] > 0
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"{where} is damaged ({type(error).__name__}: {error}). {advice}") from error
    if not sound:
        raise CorruptFile(f"{where} is damaged: it does not agree with itself. {advice}")
    return manifest


def _read_shard(folder: Path, entry: Mapping[str, Any]) -> Shard:
    where = folder / entry["file"]
    if not where.exists():
        raise CorruptFile(f"{where} is missing, and the manifest names it. Delete the folder to dream anew.")
    if sha256_file(where) != entry["sha256"]:
        raise CorruptFile(f"{where} is not what was written (its SHA-256 differs). Delete the folder to dream anew.")
    shard = Shard.from_bytes(where.read_bytes(), str(where))
    if len(shard.images) != entry["count"]:
        raise CorruptFile(f"{where} holds {len(shard.images)} dreams, the manifest says {entry['count']}.")
    return shard


def _check_same(path: Path, manifest: Mapping[str, Any], config: Mapping[str, Any], teacher_sha256: str) -> None:
    advice = "Choose another folder, or ask for the same."
    if manifest["teacher_sha256"] != teacher_sha256:
        raise FolderInUse(f"{path} holds dreams of another network (its weights differ). {advice}")
    before, now = manifest["config"], json.loads(json.dumps(config))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        key = differing[0]
        raise FolderInUse(f"{path} holds dreams made with {key} {before.get(key)}, now asked {now.get(key)}. {advice}")
