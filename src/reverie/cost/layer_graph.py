"""Small ONNX graphs that time one layer as a runtime will run it inside a network.

A graph holds the layer several times over, each with its own weights. The time of one layer is the difference between
a graph with many copies and a graph with one, per extra copy, so what a graph costs just by being called cancels.

Inside a network ONNX Runtime keeps feature maps in blocks of channels, adds a residual inside the convolution and
applies the activation there too. So that this happens here: copies share one input, which is put in blocks once; a
residual runs from copy to copy and dies there, so it is added in place; where nothing is added, a pooling that reads
one pixel stands for whatever comes next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from reverie.core.errors import RangeError, UnsupportedOp
from reverie.cost.onnx import OPSET

__all__ = ["ACTIVATIONS", "Kind", "LayerGraph", "LayerShape", "empty_graph", "layer_graph"]

IR_VERSION = 10

Arrays = dict[str, NDArray[np.float32]]
Kind = Literal["conv", "depthwise", "transposed", "linear"]


def _one(operator: str, **attributes: Any) -> Callable[[str, str], list[NodeProto]]:
    return lambda source, target: [helper.make_node(operator, [source], [target], **attributes)]


def _silu(source: str, target: str) -> list[NodeProto]:
    gate = f"{target}.gate"
    return [helper.make_node("Sigmoid", [source], [gate]), helper.make_node("Mul", [source, gate], [target])]


def _relu6(source: str, target: str) -> list[NodeProto]:
    return [helper.make_node("Clip", [source, "zero", "six"], [target])]


ACTIVATIONS: dict[str, Callable[[str, str], list[NodeProto]]] = {
    "relu": _one("Relu"),
    "relu6": _relu6,
    "hardtanh": _relu6,
    "leaky_relu": _one("LeakyRelu", alpha=0.01),
    "elu": _one("Elu"),
    "sigmoid": _one("Sigmoid"),
    "hardsigmoid": _one("HardSigmoid", alpha=1 / 6),
    "tanh": _one("Tanh"),
    "hardswish": _one("HardSwish"),
    "silu": _silu,
    "gelu": _one("Gelu"),
}


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer whose time is asked for; it need not exist.

    Attributes:
        kind: `"conv"`, `"depthwise"`, `"transposed"` or `"linear"`.
        in_channels: Input channels, at least 1.
        out_channels: Output channels, at least 1.
        kernel: Spatial size of the kernel; () for linear layers, and so for the next three.
        stride: Of the convolution.
        padding: Of the convolution, on both sides.
        dilation: Of the convolution.
        groups: Groups of the convolution.
        input_size: Spatial size of the input; rows per image for linear layers on token sequences, else ().
        batch: Images at once.
        adds: Whether the output is added to a feature map of its shape.
        activation: What is applied afterwards, a key of `ACTIVATIONS`, or None.
        output_padding: By how much a transposed convolution makes its output larger, at its end; () for not at all.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    input_size: tuple[int, ...] = ()
    batch: int = 1
    adds: bool = False
    activation: str | None = None
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.in_channels, self.out_channels, self.groups, self.batch, *self.input_size, 1) < 1:
            raise RangeError(f"a layer needs at least one channel, group, image and pixel, got {self}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise RangeError(
                f"{self.in_channels} -> {self.out_channels} channels do not divide into {self.groups} groups"
            )
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise UnsupportedOp(
                f"no latency for the activation {self.activation!r} after a {self.kind} layer; known are "
                f"{', '.join(ACTIVATIONS)}. Give None to time the layer alone."
            )
        if self.kind != "linear" and min(self.output_size) < 1:
            if self.kind == "transposed":
                raise RangeError(f"the padding takes away all of the output of {self}")
            raise RangeError(f"the kernel is larger than the padded input of {self}")

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        if self.kind == "linear":
            return self.input_size
        sides = zip(self.input_size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.kind == "transposed":
            more = self.output_padding or (0,) * len(self.kernel)
            return tuple(
                (size - 1) * step - 2 * pad + hole * (kernel - 1) + 1 + extra
                for (size, kernel, step, pad, hole), extra in zip(sides, more, strict=True)
            )
        return tuple((size + 2 * pad - hole * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, hole in sides)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch."""
        rows = self.batch * int(np.prod(self.input_size if self.kind == "transposed" else self.output_size))
        return rows * self.out_channels * self.in_channels // self.groups * int(np.prod(self.kernel))

    @property
    def weight_size(self) -> tuple[int, ...]:
        """Shape of the weight in PyTorch, and of a convolution's in ONNX too."""
        first, second = self.out_channels, self.in_channels
        if self.kind == "transposed":
            first, second = second, first
        return first, second // self.groups, *self.kernel

    @property
    def key(self) -> str:
        """The shape in one line; equal shapes have equal keys."""
        parts = [self.kind, f"{self.in_channels}->{self.out_channels}", f"at {_by(self.input_size)}", f"n{self.batch}"]
        if self.kind != "linear":
            window = (self.kernel, self.stride, self.padding, self.dilation)
            parts += [f"{letter}{_by(value)}" for letter, value in zip("kspd", window, strict=True)]
            parts.append(f"g{self.groups}")
            parts += [f"o{_by(self.output_padding)}"] * any(self.output_padding)
        parts += ["add"] * self.adds + ([self.activation] if self.activation else [])
        return " ".join(parts)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "1"


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A graph and what to feed it.

    Attributes:
        model: The content of an ONNX file.
        feeds: Input name -> array.
    """

    model: bytes
    feeds: Arrays


@dataclass
class _Draft:
    """A graph while it is put together."""

    shape: LayerShape
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    feeds: Arrays = field(default_factory=dict)

    def random(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.random(shape, dtype=np.float32) * np.float32(0.02)

    def constant(self, name: str, value: NDArray[np.float32]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, sources: Sequence[str], target: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, sources, [target], **attributes))
        return target

    def copy(self, index: int, residual: str | None) -> str:
        """One layer with its addition and activation."""
        shape, name = self.shape, f"layer{index}"
        bias = self.constant(f"{name}.bias", self.random(shape.out_channels))
        if shape.kind == "linear":
            weight = self.constant(f"{name}.weight", self.random(shape.in_channels, shape.out_channels))
            value = self.node("Gemm", ["input", weight, bias], name)
        else:
            weight = self.constant(f"{name}.weight", self.random(*shape.weight_size))
            more = {"output_padding": shape.output_padding} if shape.output_padding else {}
            value = self.node(
                "ConvTranspose" if shape.kind == "transposed" else "Conv",
                ["input", weight, bias],
                name,
                kernel_shape=shape.kernel,
                strides=shape.stride,
                pads=shape.padding * 2,
                dilations=shape.dilation,
                group=shape.groups,
                **more,
            )
        if residual is not None:
            value = self.node("Add", [value, residual], f"{name}.sum")
        if shape.activation is not None:
            self.nodes += ACTIVATIONS[shape.activation](value, f"{name}.active")
            value = f"{name}.active"
        return value

    def first_residual(self) -> str:
        """A feature map of the output's shape, made by a cheap layer so that it is laid out as a layer's output is."""
        shape = self.shape
        linear = shape.kind == "linear"
        self.feeds["seed"] = self.random(*self.output_dims(channels=shape.out_channels if linear else 1))
        if linear:
            return "seed"
        weight = self.constant("seed.weight", self.random(shape.out_channels, 1, *(1 for _ in shape.kernel)))
        return self.node("Conv", ["seed", weight], "residual")

    def output_dims(self, *, channels: int) -> tuple[int, ...]:
        shape = self.shape
        if shape.kind == "linear":
            return (shape.batch * int(np.prod(shape.output_size)), channels)
        return (shape.batch, channels, *shape.output_size)

    def one_pixel(self, value: str) -> str:
        """A tensor that needs `value` and costs next to nothing."""
        if self.shape.kind == "linear":
            return value
        size = self.shape.output_size
        return self.node("MaxPool", [value], f"{value}.pixel", kernel_shape=[1] * len(size), strides=size)


def layer_graph(shape: LayerShape, *, copies: int) -> LayerGraph:
    """A graph with the layer `copies` times over.

    Args:
        shape: The layer.
        copies: At least 1.
    """
    draft = _Draft(shape)
    if shape.activation is not None and ACTIVATIONS[shape.activation] is _relu6:
        draft.constant("zero", np.zeros((), np.float32))
        draft.constant("six", np.full((), 6, np.float32))
    if shape.kind == "linear":
        rows = shape.batch * int(np.prod(shape.input_size))
        draft.feeds["input"] = draft.random(rows, shape.in_channels)
    else:
        draft.feeds["input"] = draft.random(shape.batch, shape.in_channels, *shape.input_size)
    if shape.adds:
        value = draft.first_residual()
        for index in range(copies):
            value = draft.copy(index, value)
        draft.node("Identity", [draft.one_pixel(value)], "output")
        channels = shape.out_channels
    else:
        ends = [draft.one_pixel(draft.copy(index, None)) for index in range(copies)]
        draft.node("Concat", ends, "output", axis=1)
        channels = copies * shape.out_channels
    rows, _, *sides = draft.output_dims(channels=channels)
    dims = (rows, channels, *(1 for _ in sides))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in draft.feeds.items()]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, dims)
    graph = helper.make_graph(draft.nodes, "layer", inputs, [output], draft.constants)
    return _packed(graph, draft.feeds)


def empty_graph() -> LayerGraph:
    """A graph that hands its one number on: what is left of a call when nothing is computed."""
    one = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1,))
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, (1,))
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "empty", [one], [output])
    return _packed(graph, {"input": np.zeros(1, np.float32)})


def _packed(graph: GraphProto, feeds: Arrays) -> LayerGraph:
    opsets = [helper.make_opsetid("", OPSET)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return LayerGraph(model.SerializeToString(), feeds)
