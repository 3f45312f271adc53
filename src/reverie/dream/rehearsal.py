"""Before minutes of dreaming: show the network two gray images, and see that what was asked for can be asked of it.

Cost: one forward pass of two images, per question.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError, StatisticsMissing
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.tap import Reading, Selector, tap
from reverie.dream.heads import Head, single_label
from reverie.dream.layer_statistics import NoStatistics, StatisticsSource
from reverie.dream.recipe import default_term, prior_term, usual_statistics_weight
from reverie.dream.running import with_fresh_memory
from reverie.dream.targets import Draw, balanced_targets
from reverie.dream.terms import Term, View

__all__ = ["asked_targets", "checked_shape", "first_answer", "sees_statistics", "try_term", "usual_term"]


def checked_shape(network: ImageNetwork, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of the images to be made.

    Raises:
        ShapeError: Of other channels than the network's, or no shape of images.
    """
    shape = tuple(network.image_shape if image_shape is None else image_shape)
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ShapeError(
            "image_shape must be (channels, height, width), or have one axis or three in place of the last two, all at "
            f"least 1, got {shape}"
        )
    if shape[0] != network.image_shape[0]:
        raise ShapeError(
            f"asked for images of {shape[0]} channels, the network takes {network.image_shape[0]}. "
            f"Ask for image_shape={(network.image_shape[0], *shape[1:])}."
        )
    return shape


def first_answer(network: ImageNetwork, shape: Sequence[int], head: Head) -> Tensor:
    """What the network makes of two gray images.

    Raises:
        ShapeError: It takes no such images, or answers with something that the head has no use for.
    """
    images = torch.full((2, *shape), 0.5, device=network.mean.device)
    with frozen(network), torch.no_grad():
        try:
            answer = network(images)
        except (RuntimeError, ValueError, IndexError) as error:
            asked = f"{shape[0]} channels, {' by '.join(map(str, shape[1:]))} pixels"
            raise ShapeError(
                f"{type(network.body).__name__} cannot take images of {asked} ({str(error).splitlines()[0]}). "
                "Ask for larger images, or for the number of channels that its first layer takes."
            ) from error
    tensor = isinstance(answer, Tensor) and answer.ndim >= 1 and len(answer) == 2
    by_class = head.name == single_label().name
    if not tensor or (by_class and (answer.ndim != 2 or answer.shape[1] < 2)):
        found = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        wanted = (
            "dreams by class need logits (2, k) with k >= 2, one for each class"
            if by_class
            else f"dreams for the head {head.name!r} need one tensor (2, ...)"
        )
        raise ShapeError(
            f"{type(network.body).__name__} returned {found} for 2 images; {wanted}. "
            "Wrap the network so that it returns them."
        )
    return answer


def asked_targets(
    targets: Sequence[int] | Tensor | Draw | None, count: int, answers: Sequence[Tensor], head: Head, *, seed: int
) -> Tensor:
    """The targets that were given, or drawn ones, on the CPU, int64 or float32; each must fit all of the answers.

    Raises:
        ShapeError: Not one for each image, or not what the head takes.
        RangeError: A value outside what the head takes.
    """
    if not isinstance(targets, Tensor | Sequence):
        if head.name != single_label().name:
            raise ShapeError(f"dreams for the head {head.name!r} need targets, one for each of {count} images")
        targets = (targets or balanced_targets)(count, answers[-1].shape[1], seed=seed)
    return [_checked(targets, count, answer, head) for answer in answers][-1]


def _checked(targets: Sequence[int] | Tensor, count: int, answer: Tensor, head: Head) -> Tensor:
    chosen = torch.as_tensor(targets).detach().cpu()
    chosen = chosen.float() if chosen.is_floating_point() else chosen.long()
    by_class = head.name == single_label().name
    if chosen.ndim == 0 or len(chosen) != count or (by_class and chosen.ndim != 1):
        wanted = "name one class" if by_class else "hold one target"
        raise ShapeError(f"targets must {wanted} for each of {count} images, got shape {tuple(chosen.shape)}")
    head.check(answer[:1].cpu().expand(count, *answer.shape[1:]), chosen)
    return chosen


def sees_statistics(
    network: ImageNetwork, shape: Sequence[int], statistics: StatisticsSource, *, demanded: bool = False
) -> bool:
    """Whether a source of statistics finds any in a pass of the network; where somebody demands them, it must.

    Raises:
        StatisticsMissing: They are demanded, and there are none.
    """
    with frozen(network), torch.no_grad(), statistics(network) as seen:
        network(torch.full((2, *shape), 0.5, device=network.mean.device))
    if demanded and not seen and not isinstance(statistics, NoStatistics):
        raise StatisticsMissing(
            f"statistics from {statistics.origin} were asked for, and {type(network.body).__name__} has none. Capture "
            "or calibrate some, or ask for no statistics."
        )
    return bool(seen)


def usual_term(
    network: ImageNetwork, shape: Sequence[int], statistics: StatisticsSource, head: Head, *, demanded: bool = False
) -> Term:
    """The recipe with the head's own part in place of the class: with statistics where there are any.

    Raises:
        StatisticsMissing: As `sees_statistics`.
    """
    seen = sees_statistics(network, shape, statistics, demanded=demanded)
    parts = (default_term(usual_statistics_weight(statistics)) if seen else prior_term()).parts
    return head.term + Term(tuple(part for part in parts if part.name != "class"))


def try_term(
    network: ImageNetwork,
    term: Term,
    shape: Sequence[int],
    targets: Tensor,
    *,
    statistics: StatisticsSource,
    taps: Selector | None,
) -> None:
    """Show a term what it will see, without leaving it anything to remember.

    Raises:
        StatisticsMissing: It asks for statistics, or layers, that are not there.
        RangeError: It gives no scalar.
    """
    images = torch.full((2, *shape), 0.5, device=network.mean.device)
    two = targets[:2] if len(targets) > 1 else targets.repeat(2, *[1] * (targets.ndim - 1))
    with ExitStack() as stack:
        stack.enter_context(frozen(network))
        stack.enter_context(torch.no_grad())
        read: Mapping[str, Reading] = stack.enter_context(tap(network, taps)) if taps is not None else {}
        seen = stack.enter_context(statistics(network))
        logits = network(images).float()
        view = View(images, logits, two.to(images.device), tuple(seen), read)
        try:
            value = with_fresh_memory(term)(view)
        except StatisticsMissing as error:
            if taps is not None or seen:
                raise
            raise StatisticsMissing(_what_is_there(network)) from error
    if value.ndim:
        raise RangeError(f"a term is a scalar, this one gave shape {tuple(value.shape)}")


def _what_is_there(network: ImageNetwork) -> str:
    kinds = Counter(type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no normalization layer"
    return (
        f"the recipe matches statistics; {type(network.body).__name__} stores none (found: {found}). "
        "Pass a term without them, such as class_term() + 0.5 * total_variation_term(), or statistics that were "
        "captured or calibrated."
    )
