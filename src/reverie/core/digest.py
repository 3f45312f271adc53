"""One way to say which tensors and which settings: a SHA-256 over names, types, shapes and bytes, or over JSON."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["sha256_json", "sha256_network", "sha256_tensors"]


def sha256_json(value: Any) -> str:  # noqa: ANN401  any JSON value
    """The SHA-256 of a JSON value, in hex, whatever the order of its keys.

    Example:
        >>> sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors, in hex, whatever their order and memory layout.

    Example:
        >>> sha256_tensors({"a": torch.zeros(2)}) == sha256_tensors({"a": torch.zeros(2, 1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256_network(network: nn.Module) -> str:
    """Which network: the SHA-256 of its parameters and buffers, in hex.

    Buffers that a `state_dict` leaves out count too: an image network's mean and deviation decide what it answers.

    Example:
        >>> sha256_network(nn.Linear(1, 1)) == sha256_network(nn.Linear(1, 1))
        False
    """
    return sha256_tensors({**dict(network.named_parameters()), **dict(network.named_buffers())})
