"""A data set in a few images per class: dreams in hard crops, and the teacher's answer to every view that is taught.

Batches hold one image of each class, so that no class shapes another's statistics; crops grow harder during the
optimization; then the teacher answers many random views of every image, and those answers, not the class, are the
labels. Training on stored views needs the teacher no more.

Cost: dreams, plus one forward pass per view. A view's label takes 2 bytes per class.
Source: Yin et al. 2023, arXiv:2306.13092 (SRe2L); Yin and Shen 2023, arXiv:2311.18838 (CDA). Differs: the one default
term, relative statistics included, in place of raw sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import CorruptFile, FolderInUse, ReferenceNotFound, ShapeError
from reverie.core.events import Listener, part_of, renamed, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, as_network
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.core.store import write_bytes
from reverie.dream.bank import Bank
from reverie.dream.crops import CurriculumCrop, crop, draw_boxes
from reverie.dream.dream import dream
from reverie.dream.heads import single_label
from reverie.dream.pool import join_banks
from reverie.dream.rehearsal import checked_shape, first_answer
from reverie.dream.terms import Term

__all__ = ["SoftLabels", "distill_dataset", "soft_labels"]

LABELS_FILE = "soft_labels.safetensors"


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """The teacher's answers to random views of a bank.

    Attributes:
        boxes: (views, n, 5) float32; see `reverie.dream.crops.draw_boxes`.
        logits: (views, n, k) float16.

    Example:
        >>> labels = SoftLabels(torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.0]]]), torch.tensor([[[2.0, -2.0]]]).half())
        >>> images, logits = next(labels.epochs(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), batch_size=1, seed=0))
        >>> images.shape, logits
        (torch.Size([1, 1, 4, 4]), tensor([[ 2., -2.]]))
    """

    boxes: Tensor
    logits: Tensor

    def epochs(self, images: Tensor, *, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every view once, in batches of one view each, shuffled: (images in [0, 1], logits float32).

        Args:
            images: (n, c, h, w) uint8, those that were labeled.
            batch_size: Images at once, >= 1.
            seed: Of the order.

        Raises:
            ShapeError: Other images than were labeled.
            RangeError: `batch_size` below 1.
        """
        check_counts(batch_size=batch_size)
        if len(images) != self.boxes.shape[1]:
            raise ShapeError(f"labels were stored for {self.boxes.shape[1]} images, got {len(images)}")
        for view in range(len(self.boxes)):
            order = torch.randperm(len(images), generator=generator(seed, "views", view))
            for pick in order.split(batch_size):
                yield crop(images[pick].float() / 255, self.boxes[view, pick]), self.logits[view, pick].float()

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, whole or not at all."""
        write_bytes(Path(path), save({"boxes": self.boxes.contiguous(), "logits": self.logits.contiguous()}))

    @staticmethod
    def load(path: Path | str) -> "SoftLabels":
        """Read what `save` wrote.

        Raises:
            ReferenceNotFound: There is no such file.
            CorruptFile: It holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise ReferenceNotFound(f"no soft labels in {path}. Make them with soft_labels(...).save(path).")
        try:
            labels = SoftLabels(**load(path.read_bytes()))
        except (SafetensorError, TypeError) as error:
            raise CorruptFile(f"{path} holds no soft labels ({error}). Make them anew.") from error
        if labels.boxes.ndim != 3 or labels.boxes.shape[:2] != labels.logits.shape[:2] or labels.boxes.shape[2] != 5:
            raise CorruptFile(f"{path} holds tensors of other shapes than soft labels. Make them anew.")
        return labels


def soft_labels(
    model: nn.Module, bank: Bank, *, views: int, smallest: float = 0.08, batch_size: int = 256, seed: int = 0
) -> SoftLabels:
    """Ask the teacher about random views of every image, once, for as many epochs as will be taught.

    Shapes: bank of n images -> boxes (views, n, 5), logits (views, n, k).

    Args:
        model: The teacher; an `ImageNetwork`, or a plain module that takes images in [0, 1].
        bank: What was dreamed.
        views: Of each image, >= 1.
        smallest: Least area of a view, as a share of the whole, in (0, 1].
        batch_size: Images at once; changes memory, not the result.
        seed: Of the views.

    Raises:
        RangeError: A number lies outside its range.

    Example:
        >>> images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
        >>> bank = Bank(images, torch.tensor([0, 1]), torch.zeros(2, 4), torch.arange(2), {"count": 2})
        >>> labels = soft_labels(nn.Flatten(), bank, views=3)
        >>> labels.boxes.shape, labels.logits.shape
        (torch.Size([3, 2, 5]), torch.Size([3, 2, 4]))
    """
    check_counts(views=views, batch_size=batch_size)
    network = as_network(model, bank.images.shape[1:])
    boxes = _boxes(len(bank), views=views, smallest=smallest, seed=seed)
    rows = []
    with frozen(network), torch.no_grad(), preserved_rng():
        for view in boxes:
            parts = [
                network(crop(images.float().to(network.mean.device) / 255, some)).half().cpu()
                for images, some in zip(bank.images.split(batch_size), view.split(batch_size), strict=True)
            ]
            rows.append(torch.cat(parts))
    return SoftLabels(boxes, torch.stack(rows))


def _boxes(count: int, *, views: int, smallest: float, seed: int) -> Tensor:
    """(views, count, 5): which part of each image is seen in each view."""
    rngs = [generator(seed, "soft labels", view) for view in range(views)]
    return torch.stack([draw_boxes(count, smallest=smallest, largest=1.0, rng=rng) for rng in rngs])


def distill_dataset(
    model: nn.Module,
    *,
    per_class: int,
    classes: Sequence[int] | None = None,
    image_shape: Sequence[int] | None = None,
    steps: int = 200,
    views: int = 20,
    smallest: float = 0.25,
    term: Term | None = None,
    seed: int = 0,
    path: Path | str | None = None,
    on_event: Listener = silent,
) -> tuple[Bank, SoftLabels]:
    """Dream a data set: batches of one image per class in ever harder crops, then the teacher's answers to views.

    Shapes: images (per_class * classes, c, h, w), batch by batch, less those that nearly repeat an earlier one.

    Args:
        model: A classifier of images; see `dream`.
        per_class: Images of each class, >= 1; each is one batch.
        classes: Which classes; None takes all that the network answers.
        image_shape: (c, h, w); the network's own where None.
        steps: Of each batch, >= 1.
        views: Labeled views of each image, >= 1: as many epochs can be taught without the teacher.
        smallest: Least area of a crop at the end of the curriculum, and of a view, in (0, 1].
        term: What images should satisfy; None as in `dream`.
        seed: Same seed, same bytes.
        path: Folder for banks and labels; a killed run goes on there. None keeps all in memory.
        on_event: Told of every step.

    Raises:
        RangeError: A number lies outside its range.
        FolderInUse: `path` holds dreams or labels that were asked for otherwise.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> bank, labels = distill_dataset(body, per_class=2, image_shape=(1, 8, 8), steps=2, views=3)
        >>> bank.labels.tolist(), labels.logits.shape
        ([0, 1, 0, 1], torch.Size([3, 4, 2]))

    Fails when: there are few classes: a batch of 10 images has poor statistics. Then dream plainly, and label views.
    """
    check_counts(per_class=per_class, views=views)
    folder = None if path is None else Path(path)
    network = as_network(model, image_shape)
    shape = checked_shape(network, image_shape)
    chosen = list(range(_count(network, shape))) if classes is None else list(classes)
    each = partial(dream, network, count=len(chosen), targets=chosen, image_shape=shape, steps=steps, term=term)
    banks = [
        each(
            batch_size=len(chosen),
            seed=derive_seed(seed, "distilled", index),
            augment=CurriculumCrop(steps, smallest=smallest),
            path=None if folder is None else folder / f"batch-{index:05d}",
            on_event=part_of(renamed("dreaming a data set", on_event), before=index * steps, total=per_class * steps),
        )
        for index in range(per_class)
    ]
    return _labeled(folder, network, join_banks(banks), views=views, smallest=smallest, seed=seed)


def _labeled(
    folder: Path | None, network: nn.Module, bank: Bank, *, views: int, smallest: float, seed: int
) -> tuple[Bank, SoftLabels]:
    """The bank with the labels that a folder holds, or with new ones, which it then does."""
    kept = None if folder is None else folder / LABELS_FILE
    if kept is not None and kept.exists():
        labels = SoftLabels.load(kept)
        if not torch.equal(labels.boxes, _boxes(len(bank), views=views, smallest=smallest, seed=seed)):
            raise FolderInUse(f"{kept} holds labels of other views than are asked for now. Choose another folder.")
        return bank, labels
    labels = soft_labels(network, bank, views=views, smallest=smallest, seed=seed)
    if kept is not None:
        labels.save(kept)
    return bank, labels


def _count(network: ImageNetwork, shape: Sequence[int]) -> int:
    with preserved_rng():
        return first_answer(network, shape, single_label()).shape[1]
