"""Two pictures of the world, taken before and after a call: equal means that the call left no trace."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def tensor_bytes(tensor: Tensor) -> str:
    """A digest of a tensor's type, shape and every bit of it."""
    plain = tensor.detach().cpu().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{plain.dtype}{tuple(plain.shape)}{hashlib.sha256(content).hexdigest()}"


def model_trace(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a borrower could leave changed, by name."""
    trace: dict[str, Any] = {}
    for name, module in model.named_modules():
        trace[f"module {name}"] = (id(module), type(module), module.training)
        trace[f"attributes of {name}"] = sorted(vars(module))
        # Hooks live in dictionaries whose names all say so; torch keeps a dozen kinds.
        hooks = {key: list(value) for key, value in vars(module).items() if "hooks" in key and value}
        trace[f"hooks of {name}"] = hooks
    for name, parameter in model.named_parameters():
        trace[f"parameter {name}"] = (
            id(parameter),
            parameter.requires_grad,
            tensor_bytes(parameter),
            parameter.stride(),
        )
        trace[f"gradient of {name}"] = (
            None if parameter.grad is None else (id(parameter.grad), tensor_bytes(parameter.grad))
        )
        trace[f"tensor hooks of {name}"] = bool(parameter._backward_hooks)
    for name, buffer in model.named_buffers():
        trace[f"buffer {name}"] = (id(buffer), tensor_bytes(buffer), buffer.stride())
    return trace


def global_trace() -> dict[str, Any]:
    """The process-wide state that library code must put back."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  the legacy global state is what is watched
    return {
        "torch seed state": tensor_bytes(torch.get_rng_state()),
        "python random state": random.getstate(),
        "numpy random state": (kind, np.asarray(keys).tobytes(), *rest),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "global hooks": {
            name: len(value)
            for name, value in vars(torch.nn.modules.module).items()
            if name.startswith("_global_") and isinstance(value, dict)
        },
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what differs, for a message that points at it."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def fingerprint(value: Any) -> Any:
    """A value that is equal for equal results, bit for bit, and that pytest can show the difference of."""
    if isinstance(value, Tensor):
        return tensor_bytes(value)
    if isinstance(value, nn.Module):
        tensors = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return {"module": repr(value), **{name: tensor_bytes(tensor) for name, tensor in tensors.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: fingerprint(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return tensor_bytes(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [fingerprint(item) for item in value]
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return value
