"""One way to say which tensors and which settings: a SHA-256 over names, types, shapes and bytes, or over JSON."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["sha256_json", "sha256_tensors"]


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
