"""One way to say which tensors: a SHA-256 over names, types, shapes and bytes."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["sha256_tensors"]


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
