"""Dreams at rest: images with labels, the teacher's logits and the seed of each, in memory or in a folder of shards.

A folder holds one safetensors file per batch and `manifest.json`, which says what was asked, of which weights, and the
SHA-256 of every shard; `reverie.dream.bank_folder` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import CorruptFile, ShapeError, VerificationFailed
from reverie.core.source import Source
from reverie.dream.bank_folder import Folder, read_manifest, read_shard
from reverie.dream.shard import Shard
from reverie.metrics import repeated

__all__ = ["Bank", "Folder", "Shard"]


@dataclass(frozen=True, eq=False)
class Bank:
    """Dreams of one network.

    Attributes:
        images: (n, c, ...) uint8, as any image file would hold them.
        labels: (n,) int64, the classes asked for; for other heads (n, ...), see `reverie.dream.heads`.
        logits: (n, k) float32, the teacher's answer to the 8-bit images; for other heads (n, ...).
        seeds: (n,) int64, the seed of each image's first noise.
        config: What was asked, as JSON values.
        folder: Where it is kept, or None: in memory.
        teacher_sha256: Which weights were dreamed of, where that is known.

    Example:
        >>> images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
        >>> bank = Bank(images, labels, torch.tensor([[3.0, 0.0], [2.0, 0.0]]), torch.arange(2), {})
        >>> len(bank), bank.agrees.tolist()
        (2, [True, False])
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    seeds: Tensor
    config: Mapping[str, Any]
    folder: Path | None = None
    teacher_sha256: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def agrees(self) -> Tensor:
        """(n,) bool: the teacher, shown the 8-bit image, answers the class asked for."""
        self._check_classes()
        return self.logits.argmax(1) == self.labels

    @property
    def confidence(self) -> Tensor:
        """(n,) share in [0, 1]: the teacher's probability of the class asked for."""
        self._check_classes()
        return self.logits.softmax(1).gather(1, self.labels[:, None])[:, 0]

    @property
    def loss(self) -> Tensor:
        """(n,) nats: cross entropy of the teacher's answer with the class asked for."""
        self._check_classes()
        return F.cross_entropy(self.logits, self.labels, reduction="none")

    def source(self) -> Source:
        """The dreams for whoever reads batches; its name is `"dreams"`."""
        return Source("dreams", self.images, self.labels if self.labels.shape == (len(self),) else None)

    def distinct(self) -> "Bank":
        """The bank without dreams that nearly repeat an earlier one, in memory; see `reverie.metrics.duplicates`.

        Example:
            >>> images = torch.tensor([[[[0, 9]]], [[[0, 9]]], [[[9, 0]]]], dtype=torch.uint8)
            >>> bank = Bank(images, torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2), torch.arange(3), {})
            >>> len(bank), len(bank.distinct())
            (3, 2)
        """
        return self.picked((~repeated(self.images)).nonzero()[:, 0])

    def picked(self, pick: Tensor) -> "Bank":
        """The dreams of the given places, in memory.

        Shapes: pick (m,) int64 places, or (n,) bool.
        """
        images, labels, logits, seeds = (part[pick] for part in (self.images, self.labels, self.logits, self.seeds))
        return Bank(images, labels, logits, seeds, self.config, teacher_sha256=self.teacher_sha256)

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
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self), *self.logits.shape[2:]):
            return  # no classes, of images or of their places
        classes = self.logits.shape[1]
        if not bool(((self.labels >= 0) & (self.labels < classes)).all()):
            raise VerificationFailed(f"the bank holds labels outside 0..{classes - 1}")

    @staticmethod
    def from_shards(
        shards: list[Shard],
        config: Mapping[str, Any],
        folder: Path | None = None,
        *,
        teacher_sha256: str | None = None,
    ) -> "Bank":
        """Join shards, in order."""
        joined = {name: torch.cat([getattr(shard, name) for shard in shards]) for name in Shard.__dataclass_fields__}
        return Bank(**joined, config=config, folder=folder, teacher_sha256=teacher_sha256)

    @staticmethod
    def load(folder: Path | str) -> "Bank":
        """Read a finished bank, checking every shard against the manifest.

        Raises:
            ReferenceNotFound: There is no bank.
            CorruptFile: It is damaged, or was not finished.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        config, shards = manifest["config"], manifest["shards"]
        found = sum(entry["count"] for entry in shards)
        if found != config["count"]:
            raise CorruptFile(
                f"{folder} holds {found} of {config['count']} dreams; the run was killed. Run it again to finish."
            )
        return Bank.from_shards(
            [read_shard(folder, entry) for entry in shards],
            config,
            folder,
            teacher_sha256=manifest["teacher_sha256"],
        )

    def _check_classes(self) -> None:
        if self.labels.shape != (len(self),) or self.labels.dtype != torch.int64 or self.logits.ndim != 2:
            raise ShapeError(
                f"this bank holds labels {tuple(self.labels.shape)} and answers {tuple(self.logits.shape)}, not one "
                "class for each dream. Ask the head that it was dreamed for."
            )
