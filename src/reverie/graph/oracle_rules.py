"""Operations on tensors of which only some elements take part: one table, operation -> masked form.

`reverie.graph.oracle_sums` enters those that take statistics.

A masked form returns what the operation yields when elements that are gone do not exist, and which elements of the
result are there. Elements that are gone hold zero.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from reverie.core.errors import UnsupportedOp

__all__ = ["HANDLERS", "MOVES", "NAMED", "Arguments", "Handler"]

aten = torch.ops.aten


class Arguments:
    """One operation's arguments by name, with the masks of its tensors."""

    def __init__(
        self,
        func: torch._ops.OpOverload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        alive: Callable[[Tensor], Tensor],
    ) -> None:
        self.func = func
        self._alive = alive
        self.named: dict[str, Any] = {}
        for position, argument in enumerate(func._schema.arguments):
            if position < len(args):
                self.named[argument.name] = args[position]
            elif argument.name in kwargs:
                self.named[argument.name] = kwargs[argument.name]
            elif argument.has_default_value():
                self.named[argument.name] = argument.default_value

    @property
    def whole(self) -> bool:
        """Whether every element of every tensor is there."""
        return all(bool(self._alive(leaf).all()) for leaf in tree_leaves(self.named) if isinstance(leaf, Tensor))

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  arguments are of any kind
        return self.named[name]

    def get(self, name: str) -> Any:  # noqa: ANN401  arguments are of any kind
        """An argument, or None where there is none."""
        return self.named.get(name)

    def mask(self, name: str) -> Tensor:
        """Which elements of a tensor argument are there."""
        return self._alive(self.named[name])

    def masks(self) -> list[Tensor]:
        """The masks of all tensor arguments, in order."""
        return [self._alive(leaf) for leaf in tree_leaves(self.named) if isinstance(leaf, Tensor)]

    def call(self, /, **changed: Any) -> Any:  # noqa: ANN401  whatever the operation returns
        """Run the operation, some arguments being others."""
        named = self.named | changed
        kwargs = {}
        args = []
        for argument in self.func._schema.arguments:
            if argument.name in named:
                if argument.kwarg_only:
                    kwargs[argument.name] = named[argument.name]
                else:
                    args.append(named[argument.name])
        return self.func(*args, **kwargs)

    def filled(self, name: str, value: float = 0.0) -> Tensor:
        """A tensor argument with another number in the place of elements that are gone."""
        return fill(self.named[name], self.mask(name), value)

    def all_filled(self, value: float = 0.0) -> dict[str, Any]:
        """All tensor arguments so."""
        return {
            name: tree_map_only(Tensor, lambda one: fill(one, self._alive(one), value), given)
            for name, given in self.named.items()
        }

    def on_masks(self, name: str, *, dtype: torch.dtype = torch.bool) -> Any:  # noqa: ANN401  whatever it returns
        """Run the operation on the mask of one argument in its place."""
        return self.call(**{name: tree_map_only(Tensor, lambda one: self._alive(one).to(dtype), self.named[name])})


Handler: TypeAlias = Callable[[Arguments], tuple[Any, Sequence[Tensor]]]

HANDLERS: dict[torch._ops.OpOverloadPacket, Handler] = {}
"""Operation -> its masked form; pointwise operations stand under `aten.add`, views under `aten.view`."""

MOVES: frozenset[torch._ops.OpOverloadPacket] = frozenset(
    {
        aten._unsafe_view, aten.clone, aten.detach, aten.alias, aten.cat, aten.stack, aten.flip, aten.roll,
        aten.index_select, aten.repeat, aten._to_copy, aten.lift_fresh, aten.unfold, aten.unfold_copy,
        aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad2d, aten.pixel_shuffle,
        aten.pixel_unshuffle, aten.channel_shuffle, aten.native_channel_shuffle, aten.im2col, aten.contiguous,
        aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.tril, aten.triu,
        aten.diagonal, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like,
        aten.randn_like, aten.dropout, aten.repeat_interleave, aten.reshape, aten.view_copy, aten.expand_copy,
        aten.transpose_, aten.t_, aten.squeeze_, aten.unsqueeze_, aten.slice_backward, aten.unsafe_split,
        aten.unsafe_split_with_sizes, aten._reshape_alias, aten._upsample_nearest_exact2d,
    }
)  # fmt: skip
"""Operations whose result holds elements of their first argument, or constants in their place."""


_BOOLEAN = ("cat", "stack", "clone", "roll", "flip", "repeat", "index_select", "tril", "triu")
"""Moves that take a mask as it is; others take it as numbers."""


def fill(tensor: Tensor, mask: Tensor, value: float) -> Tensor:
    """A tensor with a number in the place of elements that are gone."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or bool(mask.all()):
        return tensor
    return tensor.masked_fill(~mask, value)


def handles(*packets: torch._ops.OpOverloadPacket) -> Callable[[Handler], Handler]:
    """Enter a masked form into the table."""

    def enter(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(packets, handler))
        return handler

    return enter


@handles(aten.view)
def move(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Elements change places, and their masks with them."""
    first = given.func._schema.arguments[0].name
    # Before the operation: one that works in place changes the shape that an unknown mask would get.
    given.masks()
    result = given.call()
    name = given.func.overloadpacket.__name__
    if name in ("lift_fresh", "detach", "alias", "_to_copy", "dropout", "contiguous") or name.endswith("_like"):
        source = given.mask(first)
        same = name.endswith("_like") or name in ("_to_copy", "dropout")
        return result, [source.clone() if same else source.view(source.shape)]
    if name in ("view", "_unsafe_view", "reshape"):
        # A view where the strides of the mask let it be one.
        return result, [given.mask(first).reshape(result.shape)]
    as_it_is = name in _BOOLEAN or "split" in name or name.endswith("_")
    if given.func.is_view or as_it_is:
        moved = given.mask(first) if name in ("tril", "triu") else given.on_masks(first)
    else:
        dtype = next(leaf.dtype for leaf in tree_leaves(given[first]) if isinstance(leaf, Tensor))
        moved = tree_map_only(Tensor, lambda one: one > 0, given.on_masks(first, dtype=dtype))
    return result, [leaf for leaf in tree_leaves(moved) if isinstance(leaf, Tensor)]


@handles(aten.as_strided, aten.as_strided_)
def laid_out(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """The same elements in the same places, as PyTorch lays out the result of a mean; strides can say far more."""
    before, mask = given["self"].clone(), given.mask("self")
    result = given.call()
    if result.shape == before.shape and torch.equal(result, before):
        return result, [mask]
    if not bool(mask.all()):
        raise UnsupportedOp(f"{given.func.overloadpacket} lays elements out anew; a cut through it has no reference")
    return result, [torch.ones(result.shape, dtype=torch.bool, device=result.device)]


@handles(
    aten.add, aten.hardswish, aten.hardswish_, aten._prelu_kernel, aten.copy_, aten.copy, aten.masked_fill, aten.where,
    aten.masked_fill_,
)  # fmt: skip
def pointwise(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Position by position: an element of the result is there if all that it is made from are."""
    masks = given.masks()
    result = given.call()
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    found = []
    for output in outputs:
        mask = torch.ones(output.shape, dtype=torch.bool, device=output.device)
        for one in masks[1:] if given.func.overloadpacket in (aten.copy_, aten.copy) else masks:
            mask &= one
        if output.is_floating_point() and not bool(mask.all()):
            output.masked_fill_(~mask, 0.0)
        found.append(mask)
    return result, found


@handles(aten.zero_, aten.fill_, aten.uniform_, aten.normal_, aten.bernoulli_)
def overwrite(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """A constant in every place; what is gone stays gone."""
    mask = given.mask("self")
    return given.call(), [mask]


@handles(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty)
def factory(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Made anew, in a size that the code states: all of it is there."""
    out = given.call()
    return out, [torch.ones(out.shape, dtype=torch.bool, device=out.device)]


@handles(aten.constant_pad_nd)
def pad(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """What is added around is there, except around what is gone as a whole."""
    mask, amounts = given.mask("self"), given["pad"]
    dims = [mask.ndim - 1 - index for index in range(len(amounts) // 2) if any(amounts[2 * index : 2 * index + 2])]
    padded = F.pad(mask, amounts, value=True)
    return given.call(), [padded & mask.any(dims, keepdim=True) if dims else padded]


@handles(aten.convolution)
def convolution(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Products with elements that are gone are none; an output channel is there if weights of it are."""
    weight, groups = given.mask("weight"), given["groups"]
    out = given.call(input=given.filled("input"), weight=given.filled("weight"), bias=_bias(given))
    if given["transposed"]:
        per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        channels = per_group.any(-1).any(1).flatten()
    else:
        channels = weight.flatten(1).any(1)
    mask = torch.zeros(out.shape, dtype=torch.bool, device=out.device)
    mask |= channels.reshape(1, -1, *[1] * (out.ndim - 2))
    return fill(out, mask, 0.0), [mask]


@handles(
    aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot, aten.vdot, aten.linear, aten.matmul, aten.addmv
)
def product(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Sums over elements that both factors have."""
    tensors = [name for name, value in given.named.items() if isinstance(value, Tensor)]
    added = given.func.overloadpacket in (aten.addmm, aten.baddbmm, aten.addmv)
    factors = tensors[1:] if added else tensors[:2]
    changed: dict[str, Any] = {name: given.filled(name) for name in tensors}
    out = given.call(**changed)
    dtype = given[factors[0]].dtype
    counted: dict[str, Any] = {name: given.mask(name).to(dtype) for name in factors}
    if added:
        counted[tensors[0]] = torch.zeros_like(given[tensors[0]])
    elif "bias" in given.named:
        counted["bias"] = None
    mask = given.call(**counted) > 0
    return fill(out, mask, 0.0), [mask]


@handles(
    aten._scaled_dot_product_flash_attention_for_cpu, aten.scaled_dot_product_attention,
    aten._scaled_dot_product_attention_math, aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_attention_math_for_mps,
)  # fmt: skip
def attention(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Queries and keys meet in the widths that are there; the scale stays that of the original width.

    Keys that are gone get no attention.
    """
    changed: dict[str, Any] = {name: given.filled(name) for name in ("query", "key", "value")}
    there = given.mask("key").any(-1)
    # Of a head that is gone as a whole nothing is left to attend.
    there = there | ~there.any(-1, keepdim=True)
    if not bool(there.all()):
        name = "attn_bias" if "attn_bias" in given.named else "attn_mask"
        if name not in (one.name for one in given.func._schema.arguments) or given.get("is_causal"):
            raise UnsupportedOp(
                f"{given.func.overloadpacket} takes no mask; a cut of what it attends to has no reference"
            )
        query = given["query"]
        known = given.get(name)
        blocked = query.new_zeros(there.shape).masked_fill(~there, -torch.inf)[..., None, :]
        blocked = blocked.repeat_interleave(query.shape[1] // blocked.shape[1], 1)
        added = torch.zeros_like(blocked) if known is None else known
        if added.dtype == torch.bool:
            added = query.new_zeros(added.shape).masked_fill(~added, -torch.inf)
        changed[name] = (added + blocked).expand(*query.shape[:-1], there.shape[-1]).contiguous()
    result = given.call(**changed)
    out = next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    mask = given.mask("value").any(-2, keepdim=True)
    if mask.shape[1] != out.shape[1]:
        mask = mask.repeat_interleave(out.shape[1] // mask.shape[1], 1)
    mask = mask & given.mask("query").any(-1, keepdim=True)
    out.masked_fill_(~mask, 0.0)
    return result, [mask]


@handles(aten.embedding, aten.index, aten.gather)
def look_up(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Rows by number."""
    first = given.func._schema.arguments[0].name
    return given.call(), [given.on_masks(first)]


@handles(aten.grid_sampler_2d, aten.grid_sampler_3d, aten.upsample_bilinear2d, aten.upsample_bicubic2d,
         aten.upsample_linear1d, aten.upsample_trilinear3d, aten._upsample_bilinear2d_aa,
         aten._upsample_bicubic2d_aa, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d,
         aten._adaptive_avg_pool3d, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.max_pool2d_with_indices,
         aten.max_pool3d_with_indices, aten.adaptive_max_pool2d, aten.adaptive_max_pool1d, aten.col2im)  # fmt: skip
def spatial(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Channel by channel; a channel is there or not, at all places alike."""
    first = given.func._schema.arguments[0].name
    mask = given.mask(first)
    channels = mask.flatten(2).any(2)
    if not torch.equal(channels[..., None].expand_as(mask.flatten(2)), mask.flatten(2)):
        raise UnsupportedOp(
            f"{given.func.overloadpacket} mixes places of which some are gone; such a cut has no reference"
        )
    result = given.call(**{first: given.filled(first)})
    out = next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    # Folding adds places of a channel up, so its rows are channel x place.
    shape = channels.reshape(channels.shape[0], out.shape[1], -1)[:, :, 0] if out.ndim == 4 else channels
    shape = shape.reshape(*shape.shape, *[1] * (out.ndim - 2))
    return result, [shape.expand(out.shape).contiguous()]


def regions(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Regions of feature maps: a channel is there or not, in every image alike."""
    mask = given.mask("input")
    channels = mask.transpose(0, 1).flatten(1)
    if not torch.equal(channels.any(1), channels.all(1)):
        raise UnsupportedOp("torchvision.roi_align reads channels of which parts are gone; such a cut has no reference")
    out = given.call(input=given.filled("input"))
    return out, [channels.any(1)[:, None, None].expand(out.shape).contiguous()]


def deformed(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """A convolution whose taps move."""
    out = given.call(input=given.filled("input"), weight=given.filled("weight"), bias=_bias(given))
    mask = torch.zeros(out.shape, dtype=torch.bool, device=out.device)
    mask |= given.mask("weight").flatten(1).any(1)[:, None, None]
    return fill(out, mask, 0.0), [mask]


NAMED: dict[str, Handler] = {"torchvision.roi_align": regions, "torchvision.deform_conv2d": deformed}
"""The same by name, for libraries that need not be there."""


def _bias(given: Arguments) -> Tensor | None:
    return None if given.get("bias") is None else given.filled("bias")
