"""Multiply-adds, parameters and bytes of a network, without running it.

What for: budgets on MACs and size, and the share of a network that each layer is. One multiply-add counts as 1, of
matrix products, convolutions and attention; what is linear in the size of its tensors (activations, sums, pooling,
normalization) does not count, by the usual definition. An operator of neither kind is listed by name, not guessed.

Cost: one forward on fake tensors, a tenth of a second for twenty layers; no memory for activations.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from reverie.core.errors import ShapeError

__all__ = ["Count", "count"]

# Operators whose work is linear in the size of their tensors, besides those that PyTorch itself tags as pointwise,
# views and factories. By the definition above they count nothing.
LINEAR_WORK = """
    adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d affine_grid_generator all amax
    amin any argmax argmin avg_pool1d avg_pool2d avg_pool3d bernoulli cat channel_shuffle clone col2im
    constant_pad_nd copy_ cudnn_batch_norm cumsum embedding fill_ flip gather im2col index index_put index_select
    layer_norm linalg_vector_norm log_softmax _log_softmax max max_pool2d_with_indices max_pool3d_with_indices
    masked_fill mean min native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _batch_norm_no_update native_channel_shuffle native_group_norm native_layer_norm native_dropout norm
    _fused_rms_norm pixel_shuffle pixel_unshuffle prod reflection_pad1d reflection_pad2d replication_pad1d
    replication_pad2d replication_pad3d repeat repeat_interleave roll scatter scatter_add select_scatter
    slice_scatter softmax _softmax stack std sum topk tril triu unfold_copy upsample_bicubic2d upsample_bilinear2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa var var_mean _to_copy lift_fresh_copy
    _unsafe_view as_strided_ hardswish hardswish_
    """
LINEAR_NAMES = frozenset(LINEAR_WORK.split())


@dataclass(frozen=True)
class Count:
    """What a network is made of.

    Attributes:
        macs: Multiply-adds per image; a lower bound where `uncounted` is not empty.
        parameters: Numbers that were learned, shared ones once.
        size_bytes: Bytes of parameters and buffers that a file of its weights holds.
        by_layer: Qualified module name -> multiply-adds per image of its own operators, in the order of execution.
        uncounted: Operator -> calls of those that may multiply and add, and have no rule.
    """

    macs: int
    parameters: int
    size_bytes: int
    by_layer: Mapping[str, int]
    uncounted: Mapping[str, int]


def count(model: nn.Module, example: Tensor) -> Count:
    """Count a network as it runs in evaluation mode.

    Args:
        model: Any module; it is as before afterwards, and no value of it is read.
        example: (n, ...) input of the shape in question; the figures are per image.

    Raises:
        ShapeError: The example holds no image.

    Example:
        >>> counted = count(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 4, 4))
        >>> counted.macs, counted.parameters
        (3456, 224)

    Fails when: the network looks at the values of its input; nothing is computed, so there are none.
    """
    if example.ndim < 1 or len(example) < 1:
        raise ShapeError(f"counting needs at least one image, got an example of shape {tuple(example.shape)}")
    counter = _Counter()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # A copy, so that no fake tensor stays in a network that keeps what it has computed.
    with FakeCopyMode(fake):
        subject = copy.deepcopy(model).eval()
    _follow(subject, counter)
    with torch.no_grad(), fake, counter:
        subject(fake.from_tensor(example))
    state = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)}
    return Count(
        macs=sum(counter.macs.values()) // len(example),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        by_layer={name: macs // len(example) for name, macs in counter.macs.items()},
        uncounted=dict(counter.uncounted),
    )


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of every operator under the module that called it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # not annotated in PyTorch
        self.path: list[str] = [""]
        self.macs: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  whatever the operator returns
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
            # PyTorch counts a multiply-add as two operations.
            self.macs[self.path[-1]] += flops // 2
        elif not _is_linear_work(func):
            self.uncounted[str(packet)] += 1
        return result


def _is_linear_work(func: torch._ops.OpOverload) -> bool:
    factory = not any("Tensor" in str(argument.type) for argument in func._schema.arguments)
    by_name = func.namespace == "prim" or func.overloadpacket.__name__ in LINEAR_NAMES
    return factory or by_name or func.is_view or torch.Tag.pointwise in func.tags


def _follow(model: nn.Module, counter: _Counter) -> None:
    """Keep `counter.path` at the module that is running."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: counter.path.append(name)

    def leave(*_: object) -> None:
        counter.path.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(leave)
