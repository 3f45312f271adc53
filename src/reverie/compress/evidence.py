"""What an option does to the teacher's answers: a first-order ranking of units, and a measured change per option.

Both need images and no labels, and both read a `Source`, so dreams, real images and noise are asked alike.

Sources: Molchanov et al., 2019, arXiv:1906.10771, section 3 (first-order criterion); Shen et al. (HALP), 2022,
arXiv:2110.10811, and Cai et al. (ZeroQ), 2020, arXiv:2001.00281, section 3 (divergence of one option alone).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.compress.importance.gates import gated_slices
from reverie.compress.importance.products import gate_slopes
from reverie.compress.plan import apply_plan
from reverie.compress.sites import Sites
from reverie.core.counts import check_counts
from reverie.core.errors import RangeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator
from reverie.core.source import Source
from reverie.distill.batchnorm import batch_norm_layers, reestimate_batch_norm
from reverie.graph.structure import Structure
from reverie.metrics.evaluate import predict

__all__ = ["LossChange", "loss_change", "option_losses", "reference_logits", "taylor_scores"]

PROBED_IMAGES = 128


def taylor_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 8,
    probes: int = 2,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Tensor]:
    """How much the logits would move, to first order, if one unit were taken away.

    Taking unit u away zeroes the weights w_u that read it, so the logits move by about -J_u w_u, with J_u their
    Jacobian; where only computed values read it, as with queries and keys, w_u are the weights that make it first. The
    score is the mean over images of |J_u w_u|^2, with logits centered (a softmax ignores a common shift). It is
    estimated without per-image gradients: for independent r ~ N(0, I) per image, (sum_images r . J_u w_u)^2 has exactly
    the sum over images of |J_u w_u|^2 as its expectation.

    Shapes: per free group (units,), float32.
    Units: squared logits. Higher means keep.

    Args:
        network: The teacher; untouched.
        structure: Of `network.body`.
        source: Images; labels are not read.
        images: How many of them are used at most.
        batch_size: Images per random projection.
        probes: Projections per batch; the relative error is about sqrt(2 * batch_size / (images * probes)).
        seed: Decides the projections.
        on_event: Called with the stage "ranking units".

    Raises:
        RangeError: A number is below 1.

    Reference: Molchanov et al., 2019, arXiv:1906.10771, section 3.1. Differs: the criterion of the paper squares the
    change of a labelled loss, summed over a mini-batch; this one needs no labels, does not vanish where the teacher is
    sure, and does not depend on the batch size.
    """
    check_counts(images=images, batch_size=batch_size, probes=probes)
    body = copy.deepcopy(network.body).eval().requires_grad_(False)
    parameters = dict(body.named_parameters())
    read = {one.tensor for group in structure.free for one in gated_slices(group)}
    # Buffers cannot be consumers of a convolution, but a registered rule may say so: they carry no gradient.
    tensors = {name: parameters[name].requires_grad_(True) for name in sorted(read & parameters.keys())}
    totals = {group.name: torch.zeros(group.units) for group in structure.free}
    count = min(images, len(source))
    starts = range(0, count, batch_size)
    for index, start in enumerate(starts):
        batch = source.floats(slice(start, min(start + batch_size, count)))
        logits = body((batch - network.mean) / network.std)
        rng = generator(seed, "taylor", index)
        for probe in range(probes):
            projection = torch.randn(logits.shape, generator=rng)
            projection = projection - projection.mean(dim=1, keepdim=True)
            moved = _moved(logits, tensors, projection, again=probe + 1 < probes)
            for group in structure.free:
                totals[group.name] += gate_slopes(group, moved).square()
        on_event(Event("ranking units", index + 1, len(starts)))
    return {name: total / (count * probes) for name, total in totals.items()}


def _moved(logits: Tensor, tensors: Mapping[str, Tensor], along: Tensor, *, again: bool) -> dict[str, Tensor]:
    """Weights times the gradient of what the logits are along a direction, of those that have one."""
    gradients = torch.autograd.grad(logits, list(tensors.values()), along, retain_graph=again, allow_unused=True)
    found = zip(tensors.items(), gradients, strict=True)
    return {name: tensor.detach() * gradient for (name, tensor), gradient in found if gradient is not None}


@dataclass(frozen=True)
class LossChange:
    """How far an edited network is from its teacher.

    Attributes:
        nats: Mean over images of KL(teacher || edited), at temperature 1.
        standard_error: Of that mean, over images.
    """

    nats: float
    standard_error: float


def reference_logits(teacher: nn.Module, source: Source) -> Tensor:
    """What options are compared with: the teacher's logits, its batch-norm statistics counted anew on the same images.

    Against the teacher as it is, every option would also pay for the distance between these few images and the training
    data, which no option can help: plans would then rather change few sites much than many a little.

    Shapes: (n, k).
    """
    ready = reestimate_batch_norm(teacher, source) if batch_norm_layers(teacher) else teacher
    return predict(ready, source)


def loss_change(teacher_logits: Tensor, edited: nn.Module, source: Source) -> LossChange:
    """Measure one option alone: the divergence of a network with only this option from its teacher.

    Batch-norm statistics are counted anew first, where there are some, as they will be before the network is used:
    what is left is the loss that cannot be had back for free.

    Args:
        teacher_logits: (n, k), the `reference_logits` of the images of `source`, in their order.
        edited: The network with the option; untouched.
        source: The images.
    """
    ready = reestimate_batch_norm(edited, source) if batch_norm_layers(edited) else edited
    wanted, given = teacher_logits.log_softmax(1), predict(ready, source).log_softmax(1)
    each = (wanted.exp() * (wanted - given)).sum(1).double()
    return LossChange(float(each.mean()), float(each.std() / len(each) ** 0.5))


def option_losses(
    network: ImageNetwork,
    sites: Sites,
    scores: Mapping[str, Tensor],
    source: Source,
    *,
    around: Mapping[str, int] | None = None,
    images: int = PROBED_IMAGES,
    on_event: Listener = silent,
) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]]:
    """What each option alone does to the network's answers, in nats, and the standard error of that.

    Args:
        network: Untouched.
        sites: Its options.
        scores: Group -> (units,): which units a width leaves out.
        source: Images.
        around: Site -> units kept by all other sites while an option is measured, and what its loss is counted from;
            an option that keeps as much or more loses nothing. None is the whole network.
        images: How many are used at most.
        on_event: Called with the stage "measuring options on", and the images' name.

    Raises:
        RangeError: There are fewer images than 2, of which nothing tells how sure a loss is, or an option's answers are
            no numbers.

    Reference: Cai et al. (ZeroQ), 2020, arXiv:2001.00281, for the divergence of one choice alone.
    """
    probed = Source(source.name, source.images[:images])
    if len(probed) < 2:
        raise RangeError(f"options are measured on at least 2 images, got {len(probed)} of source {source.name!r}")
    answers = reference_logits(network, probed)
    losses, errors = {}, {}
    others = dict(around or {})
    options = [(site, width) for site, width in sites.options() if width < others.get(site, width + 1)]
    before = 0.0
    if others:
        edited, _ = apply_plan(network, sites.structure, sites.plan(others, scores))
        before = loss_change(answers, edited, probed).nats
    for index, (site, width) in enumerate(options):
        edited, _ = apply_plan(network, sites.structure, sites.plan({**others, site: width}, scores))
        try:
            change = loss_change(answers, edited, probed)
        except RangeError as error:
            raise RangeError(f"with {width} left of {site}, {error}") from error
        losses[site, width], errors[site, width] = change.nats - before, change.standard_error
        on_event(Event(f"measuring options on {source.name}", index + 1, len(options)))
    return losses, errors
