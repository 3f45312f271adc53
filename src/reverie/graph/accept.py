"""Say at the door what is wrong with a network or an example, in one sentence, with the layer's name and a way out.

Nothing is run and nothing is changed. What is fine and stays as it is: train mode, frozen parameters, shared
parameters, hooks, any device.

Cost: one walk over the modules, less than a millisecond for a hundred layers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reverie.core.errors import ShapeError, UnsupportedOp

__all__ = ["accept"]

_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "AveragedModel": "module",
}
"""Class of a wrapper -> where the network is inside."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")


def accept(model: nn.Module, example: object) -> None:
    """Return if a network and an example can be looked at; else raise.

    Args:
        model: Any module; untouched.
        example: A batch, or a tuple of positional arguments that holds at least one tensor.

    Raises:
        UnsupportedOp: The network is wrapped, compiled, scripted, quantized, not yet initialized, or spread over
            devices; or a layer computes a weight in a way that cannot be copied.
        ShapeError: The example is of the wrong kind, empty, or lies on another device or in another precision than the
            network.

    Example:
        >>> accept(nn.Linear(3, 2), torch.zeros(1, 3))
        >>> accept(nn.DataParallel(nn.Linear(3, 2)), torch.zeros(1, 3))
        Traceback (most recent call last):
            ...
        reverie.core.errors.UnsupportedOp: the network is wrapped in DataParallel. Pass what is inside: model.module
    """
    _check_class(model)
    for name, module in model.named_modules():
        _check_module(name, module)
    tensors = _tensors(model, example)
    _check_place(model, tensors)


def _check_class(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedOp(
            f"a network is needed, a torch.nn.Module; got {type(model).__name__}. "
            "Wrap a function in a module whose forward calls it; load a checkpoint into the network that it belongs to."
        )


def _check_module(name: str, module: nn.Module) -> None:
    where = f"{name} is" if name else "the network is"
    path = f"model.{name}" if name else "model"
    kind = type(module).__name__
    if kind in _WRAPPERS and type(module).__module__.startswith("torch."):
        raise UnsupportedOp(f"{where} wrapped in {kind}. Pass what is inside: {path}.{_WRAPPERS[kind]}")
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedOp(
            f"{where} compiled TorchScript ({kind}), whose code cannot be followed. Pass the Python module that it was "
            "made from, with its state_dict loaded."
        )
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise UnsupportedOp(
            f"{where} compiled in place ({path}.compile()). Build it again without, load its state_dict, and compile "
            "after the cut."
        )
    if type(module).__module__.startswith(_QUANTIZED):
        raise UnsupportedOp(f"{where} quantized ({type(module).__module__}.{kind}). {_BEFORE_QUANTIZING}")
    for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None:
            _check_stored(f"{name}.{leaf}" if name else leaf, tensor)
    for leaf, value in vars(module).items():
        if isinstance(value, Tensor) and value.grad_fn is not None:
            raise UnsupportedOp(
                f"{where} {kind} and keeps a computed tensor as its attribute {leaf!r}, which cannot be copied. Where "
                "torch.nn.utils.weight_norm, spectral_norm or prune made it, take that off first "
                "(remove_weight_norm, prune.remove) or use torch.nn.utils.parametrizations; else compute it in forward."
            )


_BEFORE_QUANTIZING = "Cut the network in floating point and quantize the result."


def _check_stored(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise UnsupportedOp(
            f"{name} has no shape yet: its layer is lazy. Run the network once on a batch, then try again."
        )
    if tensor.is_quantized or type(tensor).__module__.startswith("torchao."):
        raise UnsupportedOp(f"{name} is quantized ({tensor.dtype}). {_BEFORE_QUANTIZING}")
    if tensor.is_sparse:
        raise UnsupportedOp(f"{name} is a sparse tensor. Store it dense: {name.rpartition('.')[2]}.to_dense()")


def _tensors(model: nn.Module, example: object) -> list[Tensor]:
    arguments: tuple[Any, ...] = example if isinstance(example, tuple) else (example,)
    found = [one for one in arguments if isinstance(one, Tensor)]
    if not found:
        raise ShapeError(
            f"{type(model).__name__} was to be shown an example batch, a tensor or a tuple of its arguments; "
            f"got {_described(example)}"
        )
    for one in found:
        if one.ndim == 0 or one.numel() == 0:
            raise ShapeError(
                f"the example has shape {tuple(one.shape)}, so there is nothing to follow. "
                "Give a batch of at least one example, its first dimension the batch."
            )
    return found


def _described(example: object) -> str:
    kind = type(example).__name__
    if isinstance(example, dict):
        return "a dictionary. Give the values in the order of forward's arguments, as a tuple."
    if isinstance(example, list):
        return "a list. Give a tuple of arguments, or torch.stack(...) of a list of images."
    if hasattr(example, "__array__"):
        return f"{kind}. Convert it: torch.from_numpy(numpy.asarray(...)), the batch first, in the network's type."
    if hasattr(example, "__iter__") and hasattr(example, "dataset"):
        return f"{kind}. Take one batch: next(iter(loader))[0]"
    if isinstance(example, torch.Size) or (isinstance(example, tuple) and all(isinstance(one, int) for one in example)):
        return "a shape. Give a batch of that shape: torch.zeros(shape)"
    return f"{kind}. Give a batch such as torch.zeros(1, 3, 224, 224)."


def _check_place(model: nn.Module, tensors: list[Tensor]) -> None:
    places: dict[torch.device, str] = {}
    precisions: dict[torch.dtype, str] = {}
    for name, tensor in _stored(model):
        places.setdefault(tensor.device, name)
        if tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
            precisions.setdefault(tensor.dtype, name)
    if len(places) > 1:
        listed = " and ".join(f"{name} on {device}" for device, name in list(places.items())[:2])
        raise UnsupportedOp(f"the network is spread over devices: {listed}. Move it to one: model.to(device)")
    for one in tensors:
        for device, name in places.items():
            if one.device != device:
                way = f"Move it: example.to({str(device)!r})"
                raise ShapeError(f"the example is on {one.device}, the network on {device} ({name}). {way}")
        if one.is_floating_point() and precisions and one.dtype not in precisions:
            dtype, name = next(iter(precisions.items()))
            raise ShapeError(
                f"the example is {one.dtype}, the network {dtype} ({name}). Convert it: example.to({dtype})"
            )


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
