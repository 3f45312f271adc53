"""PyTorch as a backend: eager or compiled, on the processor or on a CUDA device.

A layer is timed as PyTorch would run it alone: a convolution or linear map with bias, its addition and activation, one
call each. Batch normalization is not folded in PyTorch as the runtimes for deployment do it, and is not in a layer's
time; `Predictor` scales for it.
"""

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import MissingExtra, ShapeError
from reverie.core.rng import generator
from reverie.cost.backend import Servable, machine_text
from reverie.cost.layer_graph import LayerShape
from reverie.cost.timing import Run

__all__ = ["Torch"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
}


class Torch:
    """PyTorch, eager or compiled.

    Args:
        threads: Threads within an operator, at least 1; set around every call and put back.
        compiled: Whether `torch.compile` compiles what is timed. It takes seconds to minutes each, so this is for whole
            networks; it works for layers too, for the patient.
        device: `"cpu"` or `"cuda"`.

    Raises:
        RangeError: There is no thread.
        MissingExtra: No CUDA device is there, or no C++ compiler that `torch.compile` needs.
    """

    def __init__(self, *, threads: int = 1, compiled: bool = False, device: Literal["cpu", "cuda"] = "cpu") -> None:
        check_counts(threads=threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise MissingExtra("the backend cuda was asked for, but PyTorch finds no CUDA device. Choose another.")
        if compiled and device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise MissingExtra("the backend torch-compile needs a C++ compiler, and none is found. Install g++.")
        self.threads, self.compiled, self.device = threads, compiled, torch.device(device)
        self.name = device if device == "cuda" else "torch-compile" if compiled else "torch"
        kind = " compiled" if compiled else ""
        where = machine_text() if device == "cpu" else torch.cuda.get_device_name()
        self.environment = f"torch {torch.__version__}{kind}, float32, {threads} threads, {where}"

    def network(self, network: Servable, images: NDArray[np.float32]) -> Run:
        """As `Backend.network`.

        Raises:
            ShapeError: The network is given as an ONNX file.
        """
        if isinstance(network, bytes):
            raise ShapeError("PyTorch times networks, and got the content of an ONNX file. Give the network itself.")
        return self._run(copy.deepcopy(network).eval().requires_grad_(False), (torch.from_numpy(images),))

    def layer(self, shape: LayerShape, *, copies: int) -> Run:
        """As `Backend.layer`."""
        layers = _Layers(shape, copies)
        return self._run(layers.eval().requires_grad_(False), layers.examples())

    def empty(self) -> Run:
        """As `Backend.empty`."""
        return self._run(nn.Identity(), (torch.zeros(1),))

    def _run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        placed = module.to(self.device)
        given = tuple(one.to(self.device) for one in inputs)
        serve: Callable[..., object] = torch.compile(placed, dynamic=False) if self.compiled else placed
        wait: Callable[[], object] = torch.cuda.synchronize if self.device.type == "cuda" else _nothing

        def run() -> None:
            with _threads(self.threads), torch.inference_mode():
                serve(*given)
                wait()

        run()
        return run


def _nothing() -> None:
    return None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Layers(nn.Module):
    """Some copies of one layer, each with its own weights."""

    def __init__(self, shape: LayerShape, copies: int) -> None:
        super().__init__()
        self.shape = shape
        rng = generator(0, "layer", shape.key)
        weight = (copies, *shape.weight_size)
        self.weight = nn.Parameter(torch.rand(weight, generator=rng) * 0.02)
        self.bias = nn.Parameter(torch.rand((copies, shape.out_channels), generator=rng) * 0.02)
        self.rng = rng
        self.activate = None if shape.activation is None else ACTIVATIONS[shape.activation]

    def examples(self) -> tuple[Tensor, ...]:
        """The input, and where the layer adds what it adds."""
        shape = self.shape
        linear = shape.kind == "linear"
        rows = (shape.batch, *shape.input_size)
        size = (*rows, shape.in_channels) if linear else (rows[0], shape.in_channels, *rows[1:])
        first = torch.rand(size, generator=self.rng)
        if not shape.adds:
            return (first,)
        sides = shape.output_size
        added = (shape.batch, *sides, shape.out_channels) if linear else (shape.batch, shape.out_channels, *sides)
        return first, torch.zeros(added)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        value = x
        for weight, bias in zip(self.weight, self.bias, strict=True):
            value = self._one(x, weight, bias)
            if residual is not None:
                value = residual = value + residual
            if self.activate is not None:
                value = self.activate(value)
        return value

    def _one(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shape = self.shape
        if shape.kind == "linear":
            return F.linear(x, weight, bias)
        is_transposed, more = shape.kind == "transposed", shape.output_padding or (0,) * len(shape.kernel)
        window = (shape.stride, shape.padding, shape.dilation)
        return torch.convolution(x, weight, bias, *window, is_transposed, more, shape.groups)
