"""Train a transformer of DeiT-tiny's shape for `reverie bench choose`: `python experiments/zoo/transformer.py`.

Twelve blocks, 192 dimensions, three heads, patches of 4 x 4 pixels, on CIFAR-10's training images and on what the
published ResNet-56 answers to them, since a transformer learns little from so few images alone. Both are read from the
folder `data` (see `reverie.bench.dream_data`); the weights go there as `cifar10_deit_tiny.safetensors`. AdamW under one
cycle, bf16 autocast, random shift and flip; half of the patches are left out of every step but those of the last epoch
(PatchDropout), which halves its time. The count of epochs is fixed in advance: the test set is read once, after the
last step, and selects nothing. A checkpoint after every epoch lets a killed run go on.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from train import augment

from reverie.bench.dream_data import DATA, cifar_images, cifar_judge
from reverie.bench.vision_transformer import CIFAR_DEIT, cifar_shape
from reverie.core.network import ImageNetwork

EPOCHS, BATCH, PEAK, DECAY, SHIFT, DROPPED, TEMPERATURE, SEED = 11, 128, 1e-3, 0.05, 3, 0.5, 4.0, 0


def answers(teacher: nn.Module, images: Tensor) -> Tensor:
    """Logits of the teacher, the mean of an image's and its mirror image's: (n, 10)."""
    with torch.no_grad():
        return torch.cat(
            [(teacher(batch) + teacher(batch.flip(-1))) / 2 for batch in (part / 255 for part in images.split(500))]
        )


def lesson(student: nn.Module, batch: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy with the labels, and the divergence from the teacher's softened answers."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(batch)
    logits = logits.float()
    soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), F.softmax(taught / TEMPERATURE, 1), reduction="batchmean")
    return F.cross_entropy(logits, labels) + TEMPERATURE**2 * soft


def train(checkpoint: Path) -> ImageNetwork:
    """Run the recipe, going on from `checkpoint` where there is one."""
    source = cifar_images("train")
    images, labels = source.images, source.labels
    if labels is None:
        raise ValueError("the training images need labels")
    torch.manual_seed(SEED)
    student = cifar_shape(patch_drop_rate=DROPPED).train()
    dropping = student.body.patch_drop
    adam = torch.optim.AdamW(student.parameters(), lr=PEAK, weight_decay=DECAY)
    per_epoch = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, PEAK, total_steps=EPOCHS * per_epoch, pct_start=0.15)
    parts = {"student": student, "adam": adam, "schedule": schedule}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, taught = state["epoch"], state["taught"]
    else:
        first, taught = 0, answers(cifar_judge(56), images)
    for epoch in range(first, EPOCHS):
        started, running = time.monotonic(), 0.0
        generator = torch.Generator().manual_seed(SEED * 1000 + epoch)
        torch.manual_seed(epoch)
        student.body.patch_drop = nn.Identity() if epoch == EPOCHS - 1 else dropping
        for pick in torch.randperm(len(labels), generator=generator)[: per_epoch * BATCH].split(BATCH):
            batch = augment(images[pick], SHIFT, 0, images.shape[-1], generator) / 255
            loss = lesson(student, batch, labels[pick], taught[pick])
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adam.step()
            schedule.step()
            running += float(loss.detach())
        print(f"epoch {epoch + 1} loss {running / per_epoch:.4f} {time.monotonic() - started:.0f} s", flush=True)
        state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1, "taught": taught}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
    return student.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    student, test = train(options.checkpoint), cifar_images("test")
    with torch.no_grad():
        found = torch.cat([student(part / 255).argmax(1) for part in test.images.split(500)])
    print(f"{(found == test.labels).float().mean():.4%} of {len(test.images)} test images", flush=True)
    save_file({name: value.contiguous() for name, value in student.body.state_dict().items()}, DATA / CIFAR_DEIT)


if __name__ == "__main__":
    main()
