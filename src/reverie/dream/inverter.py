"""From features back to images in one pass: a network that undoes another, trained on dreams, block by block.

What for: what a feature map still holds of its image; a start for slower inversions. Each block of the network gets an
inverse, trained alone on that block's inputs and outputs; then the inverses are joined and trained together, so that
what they give, shown to the network again, has the features that they were given (cycle consistency).

Cost: one pass of the frozen network and a few of small inverses per step; using it is one pass. `refine_inversion`
goes on from what it gives, a forward and a backward pass of the network per step.
Source: Yin et al. 2021, arXiv:2107.06304, section 3. Differs: inverses are residual and doubled by nearest neighbors;
losses are relative to the variance of what is asked for, so blocks of any scale weigh alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.augment import still
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event, Listener, renamed, silent
from reverie.core.modes import frozen
from reverie.core.network import as_network
from reverie.core.rng import derive_seed, preserved_rng, seed_global
from reverie.core.source import Source
from reverie.core.tap import Reading, tap
from reverie.dream.answering import answering
from reverie.dream.canvas import PixelCanvas
from reverie.dream.heads import embedding
from reverie.dream.layer_statistics import NoStatistics
from reverie.dream.loop import optimize

__all__ = ["InverseBlock", "Inverter", "refine_inversion", "train_inverter"]

BATCH = 64
LEARNING_RATE = 2e-3
# Share of the steps that train every inverse alone, before they are joined.
ALONE = 0.5
CYCLE_WEIGHT = 1.0
WIDEST = 64


class InverseBlock(nn.Module):
    """Features of one layer -> of the one before, or the image: resize, two convolutions with a skip, one more.

    Shapes: (n, c, h, w) -> (n, *output_shape).

    Example:
        >>> InverseBlock(8, (3, 8, 8), image=True)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, channels: int, output_shape: Sequence[int], *, image: bool) -> None:
        super().__init__()
        out, self.height, self.width = output_shape
        inside = max(WIDEST, channels, out)
        self.enter = nn.Conv2d(channels, inside, 3, padding=1)
        self.inner = nn.Conv2d(inside, inside, 3, padding=1)
        self.leave = nn.Conv2d(inside, out, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(8 if inside % 8 == 0 else 1, inside) for _ in range(2)])
        self.image = image

    def forward(self, features: Tensor) -> Tensor:
        """The features or image before."""
        x = F.relu(self.norms[0](self.enter(features)))
        x = F.interpolate(x, size=(self.height, self.width))
        x = x + F.relu(self.norms[1](self.inner(x)))
        out: Tensor = self.leave(x)
        return torch.sigmoid(out) if self.image else out


@dataclass(frozen=True, eq=False)
class Inverter:
    """Inverses of the blocks of a network.

    Attributes:
        layers: The layers whose outputs it inverts, from the first to the deepest.
        blocks: For each, the inverse that leads to the layer before; the first leads to the image.
        scales: For each, (mean, deviation) of its features, by which they are measured.

    Example:
        >>> block = InverseBlock(8, (3, 8, 8), image=True)
        >>> unit_scale = (torch.zeros(1, 8, 1, 1), torch.ones(1, 8, 1, 1))
        >>> inverter = Inverter(("layer1",), nn.ModuleList([block]), (unit_scale,))
        >>> inverter(torch.zeros(2, 8, 4, 4), "layer1").shape
        torch.Size([2, 3, 8, 8])
    """

    layers: tuple[str, ...]
    blocks: nn.ModuleList
    scales: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, features: Tensor, layer: str) -> Tensor:
        """Images in [0, 1] from the features that a layer gave.

        Shapes: (n, c, h, w) as the layer gives -> (n, *image_shape).

        Raises:
            ReferenceNotFound: The layer is none of `layers`.
        """
        if layer not in self.layers:
            raise ReferenceNotFound(f"this inverter knows the layers {', '.join(self.layers)}, not {layer!r}")
        depth = self.layers.index(layer)
        with torch.no_grad():
            return self.chain(features, depth)[-1]

    def chain(self, features: Tensor, depth: int) -> list[Tensor]:
        """What the inverses give one after the other, from a depth back to the image, in the features' own units."""
        given, found = features, []
        for index in range(depth, -1, -1):
            mean, deviation = self.scales[index]
            given = self.blocks[index]((given - mean) / deviation)
            if index:
                mean, deviation = self.scales[index - 1]
                given = given * deviation + mean
            found.append(given)
        return found


def train_inverter(
    network: nn.Module,
    source: Source,
    *,
    layers: Sequence[str],
    steps: int = 400,
    batch_size: int = BATCH,
    seed: int = 0,
    on_event: Listener = silent,
) -> Inverter:
    """Learn to undo a network, from images that need not be real.

    Args:
        network: Takes images in [0, 1]; as before afterwards.
        source: Dreams of it, or any images.
        layers: Qualified names of layers that feed one another and give (n, c, h, w), from the first to the deepest.
        steps: Training steps, >= 2: half for every inverse alone, half for all joined.
        batch_size: Images in a step, >= 1.
        seed: Of the inverses' first weights and of the batches.
        on_event: Told of every step.

    Raises:
        RangeError: Fewer than two steps, no layers, or layers that do not run in this order.
        ReferenceNotFound: A layer is missing, or the network does not reach it.
        ShapeError: A layer gives no feature maps.

    Example:
        >>> from reverie.core.source import noise_source
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> source = noise_source(count=8, image_shape=(1, 8, 8), seed=0)
        >>> inverter = train_inverter(network, source, layers=["1"], steps=2)
        >>> inverter(torch.zeros(2, 4, 6, 6), "1").shape
        torch.Size([2, 1, 8, 8])

    Fails when: the deepest layer keeps too little to tell images apart; what comes back is an average.
    Reference: Yin et al., 2021, arXiv:2107.06304, section 3.
    """
    if steps < 2 or batch_size < 1 or not layers:
        raise RangeError(
            f"an inverter needs a layer, 2 steps and batches of 1 image at least; got {list(layers)}, {steps} and "
            f"{batch_size}"
        )
    layers = tuple(layers)
    with preserved_rng(), frozen(network), tap(network, layers) as seen:

        def read(images: Tensor) -> list[Tensor]:
            network(images)
            return [_map(seen, layer) for layer in layers]

        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        with torch.no_grad():
            first = source.floats(slice(0, batch_size)).to(device)
            known = read(first)
        if list(seen) != list(layers):
            raise RangeError(f"layers go from the first to the deepest; these run in the order {', '.join(seen)}")
        seed_global(derive_seed(seed, "inverter"))
        shapes = [tuple(first.shape[1:]), *(tuple(features.shape[1:]) for features in known[:-1])]
        blocks = nn.ModuleList(
            [
                InverseBlock(features.shape[1], shape, image=index == 0)
                for index, (features, shape) in enumerate(zip(known, shapes, strict=True))
            ]
        ).to(device)
        inverter = Inverter(layers, blocks, tuple(_scale(features) for features in known))
        adam = torch.optim.Adam(blocks.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        batches = source.batches(batch_size=batch_size, seed=seed)
        for step in range(steps):
            images = source.floats(next(batches)).to(device)
            with torch.no_grad():
                asked = read(images)
            alone = step < ALONE * steps
            loss = _alone(inverter, images, asked) if alone else _joined(inverter, images, asked, read, step)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            on_event(Event("training an inverter", step + 1, steps))
    blocks.eval().requires_grad_(False)
    return inverter


def refine_inversion(
    network: nn.Module,
    images: Tensor,
    features: Tensor,
    *,
    layer: str,
    steps: int = 30,
    learning_rate: float = 0.05,
    on_event: Listener = silent,
) -> Tensor:
    """Move images until a layer gives the features that are asked for: what an inverter could not say is found.

    Loss: mean over images of |a - t|^2 / |t|^2, a of the image, t asked for, and nothing else: no prior draws the
    image to what dreams look like.

    Args:
        network: Takes images in [0, 1]; as before afterwards.
        images: (n, *image_shape) to start from, such as what an `Inverter` gave, or gray.
        features: (n, ...) what the layer gave of the images that are looked for.
        layer: Its qualified name.
        steps: Optimization steps, >= 1.
        learning_rate: Of the first step, in units of the pixel range.
        on_event: Told of every step, under the stage "refining".

    Returns:
        (n, *image_shape) in [0, 1].

    Raises:
        RangeError: `steps` or `learning_rate` is not positive, or features are not finite.
        ReferenceNotFound: There is no such layer.
        ShapeError: The features are not of as many images, or not as the layer gives them.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> gray = torch.full((2, 1, 8, 8), 0.5)
        >>> found = refine_inversion(network, gray, network(torch.rand(2, 1, 8, 8)).detach(), layer="1", steps=2)
        >>> found.shape, bool((found >= 0).all())
        (torch.Size([2, 1, 8, 8]), True)

    Fails when: many images have these features, as of deep layers; one of them comes back, which a person may not
    recognize though the network does.
    Reference: Mahendran and Vedaldi 2015, arXiv:1412.0035. Differs: no prior; the start.
    """
    whole = as_network(network, tuple(images.shape[1:]))
    head, asked = embedding(), answering(whole, layer if whole is network else f"body.{layer}")
    with torch.no_grad(), frozen(network), preserved_rng():
        head.check(asked(images), features)
    found = optimize(
        asked,
        PixelCanvas(images),
        term=head.term,
        targets=features,
        steps=steps,
        augment=still,  # features are of one view
        seed=0,
        learning_rate=learning_rate,
        statistics=NoStatistics(),
        on_event=renamed("refining", on_event),
    )
    return found.images


def _alone(inverter: Inverter, images: Tensor, asked: Sequence[Tensor]) -> Tensor:
    """Each inverse from the true features of its layer to the true input of its block."""
    losses = []
    for index, block in enumerate(inverter.blocks):
        mean, deviation = inverter.scales[index]
        given = block((asked[index] - mean) / deviation)
        if index == 0:
            losses.append(_relative(given, images))
        else:
            mean, deviation = inverter.scales[index - 1]
            losses.append((given - (asked[index - 1] - mean) / deviation).square().mean())
    return torch.stack(losses).mean()


def _joined(
    inverter: Inverter, images: Tensor, asked: Sequence[Tensor], read: Callable[[Tensor], list[Tensor]], step: int
) -> Tensor:
    """From one depth, in turn, all the way back to the image, and through the network again."""
    depth = step % len(inverter.layers)
    made = inverter.chain(asked[depth], depth)[-1]
    again = read(made)
    cycle = torch.stack([_relative(found, wanted) for found, wanted in zip(again, asked[: depth + 1], strict=False)])
    return _relative(made, images) + CYCLE_WEIGHT * cycle.mean()


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over the variance of what is wanted: 1 for an answer that is the mean."""
    return (found - wanted).square().mean() / wanted.var().clamp_min(1e-8)


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    deviation, mean = torch.std_mean(features, (0, 2, 3), keepdim=True)
    # A channel that is silent on the first batch may speak later: it is measured by the typical channel.
    return mean, deviation.clamp_min(0.1 * float(deviation.mean()) + 1e-6)


def _map(seen: Mapping[str, Reading], layer: str) -> Tensor:
    if layer not in seen:
        raise ReferenceNotFound(f"layer {layer!r} was not reached by the network's images")
    output = seen[layer].output
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ShapeError(f"layer {layer!r} gives no feature maps (n, c, h, w) to be inverted")
    return output
