"""A vision transformer that loses 30 % of its MLP units and heads, without training: what compensation is worth.

Ours: units ranked on 1,000 unlabeled images by what no refit gives back, each layer refitted to what it gave before.
Beside it: units ranked by magnitude, no compensation; either ranking without and with it; Taylor scores. All take the
same number from every layer, and are judged by how often they agree with the whole network on images that none saw.

DeiT-tiny is read from the folder `data`: `deit_tiny_patch16_224.safetensors`, timm's weights, and
`imagenet-224.npz`, with `images` uint8 (n, 3, 224, 224) and `labels`. A small transformer of the same kind is trained
here on the embedded test set.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.dream_data import DATA
from reverie.bench.figure import Measured
from reverie.compress.importance import Scored, gate_scores, magnitude_scores, reconstruction_scores
from reverie.compress.ridge import refit
from reverie.core.errors import MissingExtra, ReferenceNotFound
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator, preserved_rng
from reverie.core.source import Source
from reverie.graph import certify, cut, probe
from reverie.graph.structure import Group, Structure
from reverie.metrics.classify import agreement
from reverie.metrics.evaluate import predict
from reverie.zoo.datasets import folder_source, test_set

__all__ = ["CIFAR_DEIT", "cifar_deit", "deit", "small_transformer", "without_training"]

REMOVED, UNLABELED, JUDGED = 0.3, 1000, 2000
# Of the small transformer's training, on one core about three minutes.
STEPS, BATCH = 700, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_DEIT = "cifar10_deit_tiny.safetensors"


def deit(on_event: Listener) -> Mapping[str, Measured]:
    """The figures of DeiT-tiny on ImageNet."""
    weights, images = DATA / "deit_tiny_patch16_224.safetensors", DATA / "imagenet-224.npz"
    for path in (weights, images):
        if not path.exists():
            raise ReferenceNotFound(f"needs {path}, which is not here; see reverie.bench.vision_transformer")
    every = folder_source(images, image_shape=(3, 224, 224))
    seen = min(UNLABELED, len(every) // 2)
    network = ImageNetwork(_timm("deit_tiny_patch16_224", weights), image_shape=(3, 224, 224), mean=MEAN, std=STD)
    parts = Source("real", every.images[:seen]), Source("real", every.images[seen : seen + JUDGED])
    return without_training("deit", network.eval(), *parts, on_event=on_event)


def cifar_deit(weights: Path | None = None, **arguments: object) -> ImageNetwork:
    """A network of DeiT-tiny's shape (12 blocks, 192 dimensions, three heads) for CIFAR-10, patches of 4 x 4 pixels."""
    body = _timm("deit_tiny_patch16_224", weights, img_size=32, patch_size=4, num_classes=10, **arguments)
    return ImageNetwork(body, image_shape=(3, 32, 32), mean=MEAN, std=STD).eval()


def small_transformer(on_event: Listener) -> Mapping[str, Measured]:
    """The same figures of a transformer of six blocks, trained here on 7,000 images of the embedded test set."""
    every = test_set("fashion-mnist")
    if every.labels is None:
        raise ReferenceNotFound("the embedded test set has labels")
    with preserved_rng():
        torch.manual_seed(0)
        body = _timm(
            "vit_tiny_patch16_224",
            None,
            img_size=28,
            patch_size=4,
            in_chans=1,
            num_classes=10,
            embed_dim=96,
            depth=6,
            num_heads=6,
        )
        network = ImageNetwork(body, image_shape=(1, 28, 28), mean=(0.5,), std=(0.25,))
        _train(network, every.images[:7000], every.labels[:7000], on_event)
    unlabeled, judged = Source("real", every.images[7000:8000]), Source("real", every.images[8000:])
    return without_training("small-transformer", network.eval(), unlabeled, judged, on_event=on_event)


def without_training(
    name: str, network: ImageNetwork, unlabeled: Source, judged: Source, *, on_event: Listener
) -> Mapping[str, Measured]:
    """Agreement with the whole network, of ours, of magnitude pruning, and of each half of ours."""
    example = torch.zeros(2, *network.image_shape)
    structure = certify(network.body, probe(network.body, example), example)
    count = len(unlabeled)
    ours = _kept(structure, reconstruction_scores(network, structure, unlabeled, images=count, on_event=on_event))
    slopes = _kept(structure, gate_scores(network, structure, unlabeled, images=count, batch_size=1, on_event=on_event))
    theirs = _kept(structure, magnitude_scores(network, structure))
    answers = predict(network, judged)

    def agreeing(kept: Mapping[str, tuple[int, ...]], *, compensate: bool) -> Measured:
        body, record = cut(network.body, structure, kept)
        student = network.with_body(body)
        if compensate:
            student = refit(network, student, record, unlabeled, images=count, on_event=on_event)
        share = agreement(predict(student, judged), answers)
        return Measured(share.value, (share.low, share.high), "95 % interval")

    found = {
        f"{name}-ours": agreeing(ours, compensate=True),
        f"{name}-magnitude": agreeing(theirs, compensate=False),
        f"{name}-ranking-alone": agreeing(ours, compensate=False),
        f"{name}-taylor-refitted": agreeing(slopes, compensate=True),
        f"{name}-magnitude-refitted": agreeing(theirs, compensate=True),
    }
    gain = 100 * (found[f"{name}-ours"].value - found[f"{name}-magnitude"].value)
    return {f"{name}-gain": Measured(gain), **found}


def _kept(structure: Structure, scores: Mapping[str, Scored]) -> dict[str, tuple[int, ...]]:
    """The best 70 % of the units of every MLP and of the heads of every block; at least one each."""
    kept = {}
    for group in structure.free:
        if _is_hidden(group) or _is_heads(group):
            count = max(group.units - round(REMOVED * group.units), 1)
            best = scores[group.name].value.argsort(descending=True, stable=True)[:count]
            kept[group.name] = tuple(sorted(best.tolist()))
    if not kept:
        raise ReferenceNotFound(f"no MLP and no heads are among the groups {[one.name for one in structure.free]}")
    return kept


def _is_hidden(group: Group) -> bool:
    return group.name.endswith("mlp.fc1")


def _is_heads(group: Group) -> bool:
    """Whole heads: what the projection of an attention reads, several rows per unit."""
    read = [one for one in group.slices if one.role == "consume" and one.tensor.endswith("attn.proj.weight")]
    return bool(read) and all(len(one.rows([0])) > 1 for one in read)


def _timm(name: str, weights: Path | None, **arguments: object) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra('transformers come from timm; pip install "reverie[timm]"') from error
    create: Callable[..., nn.Module] = timm.create_model
    given = {} if weights is None else {"checkpoint_path": str(weights)}
    return create(name, pretrained=False, **given, **arguments)


def _train(network: ImageNetwork, images: Tensor, labels: Tensor, on_event: Listener) -> None:
    network.train()
    adam = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        pick = torch.randint(len(images), (BATCH,), generator=generator(0, "transformer", step))
        loss = F.cross_entropy(network(images[pick].float() / 255), labels[pick])
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        schedule.step()
        on_event(Event("teaching a transformer", step + 1, STEPS, {"loss": float(loss.detach())}))
