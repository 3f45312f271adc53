"""Put weights into a network: by name, or by order where the caller asks for that.

What for: weights and architecture come from different places, and a wrong pairing must be refused, never half-done.
Nothing is copied before every tensor has found its place.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reverie.core.errors import WeightsMismatch

__all__ = ["load_weights"]

SHOWN = 3


def load_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], *, positional: bool = False, origin: str = "the weights"
) -> None:
    """Copy tensors into the parameters and buffers of `module`, in place.

    By name, every tensor must be expected and every expected tensor given. A prefix that all names share may be missing
    from the network's names, and the batch counters of normalization layers (`num_batches_tracked`) may be missing
    from the file; neither changes what the network computes.

    Args:
        module: A freshly built network.
        tensors: Name -> tensor, in the network's order where `positional`.
        positional: Pair tensors by order instead of name; every shape must agree.
        origin: What messages call the weights.

    Raises:
        WeightsMismatch: The weights are another network's; the message lists the first differences and their counts.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> load_weights(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        >>> layer(torch.ones(1, 2)).item()
        2.0

    Fails when: two networks share every name and shape and differ in computation, such as stride or activation.
    """
    expected = module.state_dict(keep_vars=True)
    found = _by_order(expected, tensors) if positional else _by_name(expected, tensors)
    problems = _differences(expected, found)
    if problems:
        reordered = not positional and not _differences(expected, _by_order(expected, tensors))
        raise WeightsMismatch(_message(module, expected, tensors, problems, reordered=reordered, origin=origin))
    with torch.no_grad():
        for name, tensor in found.items():
            expected[name].copy_(tensor)


def _by_order(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pair the two lists of names; without batch counters where only the network has them."""
    names = list(expected)
    if len(names) != len(tensors):
        names = [name for name in names if not _is_counter(name)]
    if len(names) != len(tensors):
        return dict(tensors)
    return dict(zip(names, tensors.values(), strict=True))


def _by_name(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the network's names: as they are, or less a prefix that all share."""
    named = dict(tensors)
    while named and not _required(expected) <= named.keys():
        heads = {name.partition(".")[0] for name in named}
        if len(heads) > 1 or any("." not in name for name in named):
            return dict(tensors)
        named = {name.partition(".")[2]: tensor for name, tensor in named.items()}
    return named


def _required(expected: Mapping[str, Tensor]) -> set[str]:
    return {name for name in expected if not _is_counter(name)}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Kind of difference -> one phrase for each tensor; empty where the weights fit."""
    shared = [name for name in expected if name in found]
    kinds = {
        "missing": [f"{name!r:.80}" for name in expected if name not in found and not _is_counter(name)],
        "unexpected": [f"{name!r:.80}" for name in found if name not in expected],
        "of another shape": [
            f"{name!r:.80} is {tuple(found[name].shape)} in the file and {tuple(expected[name].shape)} in the network"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "stored as integers": [
            f"{name!r:.80}"
            for name in shared
            if expected[name].is_floating_point() and not found[name].is_floating_point()
        ],
    }
    return {kind: phrases for kind, phrases in kinds.items() if phrases}


def _message(
    module: nn.Module,
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    problems: Mapping[str, list[str]],
    *,
    reordered: bool,
    origin: str,
) -> str:
    listed = "; ".join(
        f"{len(phrases)} {kind}: {', '.join(phrases[:SHOWN])}{', ...' if len(phrases) > SHOWN else ''}"
        for kind, phrases in problems.items()
    )
    advice = "Name the architecture these weights were trained with."
    if reordered:
        advice = (
            "The names differ but the shapes agree in order: pair them by order with --positional "
            "(in Python positional=True)."
        )
    return (
        f"{origin} does not fit {type(module).__name__}: the file looks like a network of {len(tensors)} tensors and "
        f"{_values(tensors):,} values, this network has {len(expected)} and {_values(expected):,}; {listed}. {advice}"
    )


def _values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
