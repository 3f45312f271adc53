"""Train the embedded networks: `python experiments/zoo/train.py fashion-resnet20 --data FOLDER_OR_ARCHIVE`.

SGD with Nesterov momentum under one triangular learning-rate cycle, bf16 autocast, random shift and flip, images that
grow during training, and an exponential average of the weights. The epoch count is fixed in advance: the test set is
read once, after the last step, and selects nothing. A checkpoint after every epoch lets a killed run go on.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import data
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie.zoo.networks import CifarResNet, CifarVGG

FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. `sizes` are image sides, each trained on for an equal share of epochs.

    `second_epochs` follow in a second, lower cycle on images of full size from which nothing is erased.
    """

    dataset: str
    factory: str
    arguments: dict[str, object]
    epochs: int
    peak_learning_rate: float
    sizes: tuple[int, ...]
    weight_decay: float = 5e-4
    batch_size: int = 128
    shift_pixels: int = 3
    erase_pixels: int = 0
    ema_decay: float = 0.998
    seed: int = 0
    second_epochs: int = 0
    second_learning_rate: float = 0.04


FASHION_VGG = {"stages": [[32, 32], [64, 64], [96, 96]], "in_channels": 1}
CIFAR_VGG = {"stages": [[32, 48], [64, 64], [128, 128, 128]], "in_channels": 3}
RECIPES = {
    "fashion-resnet20": Recipe(
        "fashion-mnist",
        "CifarResNet",
        {"widths": [32, 48, 64], "in_channels": 1},
        16,
        0.2,
        (20, 24, 28, 28),
        shift_pixels=2,
        erase_pixels=8,
    ),
    "fashion-vgg": Recipe(
        "fashion-mnist", "CifarVGG", FASHION_VGG, 14, 0.1, (20, 24, 28, 28), shift_pixels=2, erase_pixels=8, seed=1
    ),
    "cifar10-resnet20": Recipe(
        "cifar10",
        "CifarResNet",
        {"widths": [32, 64, 128], "in_channels": 3},
        12,
        0.25,
        (20, 24, 28, 32),
        shift_pixels=3,
        erase_pixels=6,
        second_epochs=3,
    ),
    "cifar10-vgg": Recipe(
        "cifar10", "CifarVGG", CIFAR_VGG, 12, 0.1, (20, 24, 28, 32), shift_pixels=3, erase_pixels=6, seed=1
    ),
}


def build(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe."""
    torch.manual_seed(recipe.seed)
    return {"CifarResNet": CifarResNet, "CifarVGG": CifarVGG}[recipe.factory](**recipe.arguments)


def augment(images: Tensor, shift: int, erased: int, size: int, generator: torch.Generator) -> Tensor:
    """Shift, flip and erase each image on its own, then shrink the batch to `size`: (n, c, h, w) uint8 -> float."""
    n, c, h, w = images.shape
    padded = F.pad(images.float(), (shift,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(h))[:, None, :, None]
    columns = (left[:, None] + torch.arange(w))[:, None, None, :]
    flip = torch.rand(n, generator=generator)[:, None, None, None] < 0.5
    columns = torch.where(flip, columns.flip(-1), columns)
    batch = padded[torch.arange(n)[:, None, None, None], torch.arange(c)[None, :, None, None], rows, columns]
    if erased:
        y, x = (torch.randint(0, side, (n, 1, 1), generator=generator) for side in (h, w))
        half = erased / 2
        hole = ((torch.arange(h)[:, None] - y).abs() < half) & ((torch.arange(w)[None, :] - x).abs() < half)
        batch = torch.where(hole[:, None], batch.mean(dim=(2, 3), keepdim=True), batch)
    if size != h:
        batch = F.interpolate(batch, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return batch


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> float:
    """Share of images, fp32, whose highest logit is their label."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(labels), 500):
            batch = (images[start : start + 500].float() / 255 - mean) / std
            right += int((model(batch).argmax(1) == labels[start : start + 500]).sum())
    return right / len(labels)


def learning_rate(step: int, recipe: Recipe, per_epoch: int) -> float:
    """A cycle is a linear rise over its first quarter, then a cosine fall to zero."""
    steps, peak = recipe.epochs * per_epoch, recipe.peak_learning_rate
    if step > steps:
        step, steps, peak = step - steps, recipe.second_epochs * per_epoch, recipe.second_learning_rate
    rise = 0.25 * steps
    return peak * step / rise if step < rise else peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def train(name: str, images: Tensor, labels: Tensor, checkpoint: Path) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Run the recipe, going on from `checkpoint` where there is one; returns model, mean, std and seconds spent."""
    recipe = RECIPES[name]
    pixels = images.float() / 255
    mean, std = pixels.mean((0, 2, 3)).view(1, -1, 1, 1), pixels.std((0, 2, 3)).view(1, -1, 1, 1)
    del pixels
    model = build(recipe).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    first, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["epoch"], state["seconds"]
    per_epoch = len(labels) // recipe.batch_size
    for epoch in range(first, recipe.epochs + recipe.second_epochs):
        started = time.monotonic()
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        second = epoch >= recipe.epochs
        size = recipe.sizes[-1 if second else len(recipe.sizes) * epoch // recipe.epochs]
        erased = 0 if second else recipe.erase_pixels
        order = torch.randperm(len(labels), generator=generator)
        model.train()
        running = 0.0
        for step in range(per_epoch):
            pick = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = (augment(images[pick], recipe.shift_pixels, erased, size, generator) / 255 - mean) / std
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * per_epoch + step + 1, recipe, per_epoch)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
            running += float(loss.detach())
        spent += time.monotonic() - started
        print(
            f"{name} epoch {epoch + 1} size {size} loss {running / per_epoch:.4f} {spent:.0f} s",
            flush=True,
        )
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch + 1,
            "seconds": spent,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
    return average.module.to(memory_format=torch.contiguous_format), mean, std, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="idx folder of Fashion-MNIST, or the CIFAR-10 archive")
    parser.add_argument("--out", type=Path, default=Path("src/reverie/zoo/weights"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.name]
    read = data.fashion_mnist if recipe.dataset == "fashion-mnist" else data.cifar10
    images, labels = (torch.from_numpy(np.array(a)) for a in read(options.data, "train"))
    model, mean, std, seconds = train(options.name, images, labels, options.checkpoint)
    test_images, test_labels = (torch.from_numpy(np.array(a)) for a in read(options.data, "test"))
    score = accuracy(model, test_images, test_labels, mean, std)
    print(f"{options.name}: {score:.4%} of {len(test_labels)} test images, {seconds:.0f} s", flush=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.out / f"{options.name}.safetensors")
    card = {
        "name": options.name,
        "factory": f"reverie.zoo.networks:{recipe.factory}",
        "arguments": recipe.arguments,
        "image_shape": list(images.shape[1:]),
        "mean": mean.flatten().tolist(),
        "std": std.flatten().tolist(),
        "class_names": list(FASHION_CLASSES if recipe.dataset == "fashion-mnist" else CIFAR_CLASSES),
        "dataset": recipe.dataset,
        "test_accuracy": score,
        "test_images": len(test_labels),
        "recipe": asdict(recipe),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "license": "Apache-2.0",
    }
    (options.out / f"{options.name}.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
