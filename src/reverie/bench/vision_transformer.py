"""A vision transformer that loses 30 % of its MLP units and heads, without training: what compensation is worth.

Ours: units ranked by what no refit gives back, as many taken from each layer as loses least over all of them together,
each layer refitted to what it gave before; from 1,000 unlabeled images, from dreams, and from noise as the control.
Beside it: the parts alone, and units ranked by magnitude, as many from each layer or the smallest of all. All take the
same number of MLP units and of heads in total, and are judged by how often they agree with the whole network on images
that none saw. The gain is paired, image by image, over the better of the two by magnitude.

Three networks. DeiT-tiny itself is read from the folder `data`: `deit_tiny_patch16_224.safetensors`, timm's weights,
and `imagenet-224.npz`, with `images` uint8 (n, 3, 224, 224) and `labels`. One of its shape for CIFAR-10 is read from
there too, after `python experiments/zoo/transformer.py` has trained it. A smaller one is trained here, on the embedded
test set.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.dream_data import DATA, cifar_images
from reverie.bench.figure import Measured
from reverie.compress.allocator import Option, Site, allocate
from reverie.compress.evidence import option_losses
from reverie.compress.importance import Scored, magnitude_scores, reconstruction_scores
from reverie.compress.ridge import refit
from reverie.compress.sites import Sites
from reverie.core.errors import MissingExtra, ReferenceNotFound
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator, preserved_rng
from reverie.core.source import Source, noise_source
from reverie.dream import dream
from reverie.graph import certify, cut, probe
from reverie.graph.structure import Group, Structure
from reverie.metrics.classify import paired_difference, share
from reverie.metrics.evaluate import predict
from reverie.zoo.datasets import folder_source, test_set

__all__ = [
    "CIFAR_DEIT",
    "KINDS",
    "cifar_deit",
    "cifar_shape",
    "deit",
    "kept_evenly",
    "kept_overall",
    "mlps_and_heads",
    "small_transformer",
    "without_training",
]

REMOVED, UNLABELED, JUDGED = 0.3, 1000, 2000
# Parts of its units that a group may keep; between them losses hardly differ.
EIGHTHS = range(8, 0, -1)
KINDS = (
    "ours",
    "from-dreams",
    "from-noise",
    "evenly",
    "not-refitted",
    "magnitude",
    "magnitude-overall",
    "magnitude-refitted",
)
# Of the small transformer's training, on one core about three minutes.
STEPS, BATCH = 700, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_DEIT = "cifar10_deit_tiny.safetensors"

Kept = Mapping[str, tuple[int, ...]]


def deit(on_event: Listener) -> Mapping[str, Measured]:
    """The figures of DeiT-tiny on ImageNet."""
    body = _timm("deit_tiny_patch16_224", _present("deit_tiny_patch16_224.safetensors"))
    every = folder_source(_present("imagenet-224.npz"), image_shape=(3, 224, 224))
    seen = min(UNLABELED, len(every) // 2)
    network = ImageNetwork(body, image_shape=(3, 224, 224), mean=MEAN, std=STD)
    parts = Source("real", every.images[:seen]), Source("real", every.images[seen : seen + JUDGED])
    return without_training("deit", network.eval(), *parts, on_event=on_event)


def cifar_deit(on_event: Listener) -> Mapping[str, Measured]:
    """The same figures of a transformer of DeiT-tiny's shape on CIFAR-10."""
    network = cifar_shape(_present(CIFAR_DEIT))
    unlabeled, judged = (cifar_images(part).images[:count] for part, count in (("train", UNLABELED), ("test", JUDGED)))
    return without_training("cifar-deit", network, Source("real", unlabeled), Source("real", judged), on_event=on_event)


def cifar_shape(weights: Path | None = None, **arguments: object) -> ImageNetwork:
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
    name: str,
    network: ImageNetwork,
    unlabeled: Source,
    judged: Source,
    *,
    dreams: int = 256,
    dream_steps: int = 60,
    on_event: Listener,
) -> Mapping[str, Measured]:
    """Agreement with the whole network, of ours, of magnitude pruning, and of each part of ours.

    Dreams are as many, of as many steps, as `reverie prune` takes where nothing is said.
    """
    example = torch.zeros(2, *network.image_shape)
    structure = certify(network.body, probe(network.body, example), example)
    answers = predict(network, judged).argmax(1)

    def agreeing(kept: Kept, images: Source | None = None) -> Tensor:
        body, record = cut(network.body, structure, kept)
        student = network.with_body(body)
        if images is not None:
            student = refit(network, student, record, images, images=len(images), on_event=on_event)
        return predict(student, judged).argmax(1) == answers

    def ranked(images: Source) -> Mapping[str, Scored]:
        return reconstruction_scores(network, structure, images, images=len(images), on_event=on_event)

    def ours(images: Source, ranking: Mapping[str, Scored]) -> Kept:
        return _at_least_loss(network, structure, ranking, images, on_event)

    magnitude, ranking = magnitude_scores(network, structure), ranked(unlabeled)
    chosen = ours(unlabeled, ranking)
    dreamed = Source("dreams", dream(network, count=dreams, steps=dream_steps, on_event=on_event).images)
    noise = noise_source(count=dreams, image_shape=network.image_shape, seed=0)
    each = {
        "ours": agreeing(chosen, unlabeled),
        "from-dreams": agreeing(ours(dreamed, ranked(dreamed)), dreamed),
        "from-noise": agreeing(ours(noise, ranked(noise)), noise),
        "evenly": agreeing(kept_evenly(structure, ranking), unlabeled),
        "not-refitted": agreeing(chosen),
        "magnitude": agreeing(kept_evenly(structure, magnitude)),
        "magnitude-overall": agreeing(kept_overall(structure, magnitude)),
        "magnitude-refitted": agreeing(kept_evenly(structure, magnitude), unlabeled),
    }
    shares = {kind: share(int(right.sum()), len(right)) for kind, right in each.items()}
    found = {
        f"{name}-{kind}": Measured(one.value, (one.low, one.high), "95 % interval") for kind, one in shares.items()
    }
    theirs = max(("magnitude", "magnitude-overall"), key=lambda kind: shares[kind].value)
    for gain, mine in (("gain", "ours"), ("gain-from-dreams", "from-dreams")):
        paired = paired_difference(each[mine], each[theirs])
        spread = 100 * paired.low, 100 * paired.high
        found[f"{name}-{gain}"] = Measured(100 * paired.difference, spread, "95 % interval, paired")
    return found


def kept_evenly(structure: Structure, scores: Mapping[str, Scored]) -> Kept:
    """The best 70 % of the units of every MLP and of the heads of every block; at least one each."""
    return {
        group.name: _best(scores[group.name], _share_of(group)) for kind in mlps_and_heads(structure) for group in kind
    }


def kept_overall(structure: Structure, scores: Mapping[str, Scored]) -> Kept:
    """As many MLP units and heads as `kept_evenly` keeps, the best of all blocks; at least one each."""
    kept = {}
    for kind in mlps_and_heads(structure):
        floors = [scores[group.name].value.max() for group in kind]
        rest = (
            torch.cat([scores[group.name].value.sort(descending=True).values[1:] for group in kind])
            .sort(descending=True)
            .values
        )
        count = sum(map(_share_of, kind)) - len(floors)
        least = rest[count - 1] if count else math.inf
        for group in kind:
            kept[group.name] = _best(scores[group.name], max(1, int((scores[group.name].value >= least).sum())))
    return kept


def _at_least_loss(
    network: ImageNetwork, structure: Structure, scores: Mapping[str, Scored], images: Source, on_event: Listener
) -> Kept:
    """As many MLP units and heads as `kept_evenly` keeps at most, of every block as many as loses least in all."""
    kinds = dict(zip(("hidden", "heads"), mlps_and_heads(structure), strict=True))
    values = {name: scored.value for name, scored in scores.items()}
    widths = {
        group.name: tuple(dict.fromkeys(math.ceil(group.units * part / 8) for part in EIGHTHS))
        for kind in kinds.values()
        for group in kind
    }
    sites = Sites(structure, widths, {})
    losses, _ = option_losses(network, sites, values, images, on_event=on_event)
    choices = [
        Site(
            group.name,
            tuple(
                Option(str(width), losses.get((group.name, width), 0.0), {kind: float(width)})
                for width in widths[group.name]
            ),
        )
        for kind, groups in kinds.items()
        for group in groups
    ]
    budgets = {kind: float(sum(map(_share_of, groups))) for kind, groups in kinds.items()}
    chosen = allocate(choices, budgets=budgets).choice
    return sites.plan({name: widths[name][option] for name, option in chosen.items()}, values).kept


def _best(scored: Scored, count: int) -> tuple[int, ...]:
    return tuple(sorted(scored.value.argsort(descending=True, stable=True)[:count].tolist()))


def _share_of(group: Group) -> int:
    return max(group.units - round(REMOVED * group.units), 1)


def mlps_and_heads(structure: Structure) -> tuple[Sequence[Group], Sequence[Group]]:
    """The groups of MLP units, and those of heads."""
    hidden = [group for group in structure.free if group.name.endswith("mlp.fc1")]
    heads = [group for group in structure.free if _is_heads(group)]
    if not hidden or not heads:
        raise ReferenceNotFound(f"no MLP or no heads are among the groups {[one.name for one in structure.free]}")
    return hidden, heads


def _is_heads(group: Group) -> bool:
    """Whole heads: adjacent columns of what the projection of an attention reads, several per unit."""
    return any(
        one.role == "consume" and one.tensor.endswith("attn.proj.weight") and one.block > 1 for one in group.slices
    )


def _present(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        raise ReferenceNotFound(f"needs {path}, which is not here; see reverie.bench.vision_transformer")
    return path


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
