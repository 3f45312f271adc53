"""What a network is made of, for whoever wants to take parts of it away. Pure data.

A *group* is a set of units (channels) with the slices of all tensors that can only be removed together. A *layer* is a
convolution or linear layer with the widths that groups decide. A *branch* is a residual block that may become the
identity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal

from reverie.core.errors import RangeError, ReferenceNotFound

__all__ = ["Branch", "Group", "Layer", "Rescale", "Role", "Slice", "Structure", "Width"]

Role = Literal["produce", "follow", "consume"]


@dataclass(frozen=True, slots=True)
class Slice:
    """Where the units of a group lie along one dimension of a tensor.

    Unit u covers the rows `offset + sum_k i_k * stride_k + u * block + b` for 0 <= i_k < count_k, 0 <= b < block. A
    plain layer has block 1 and nothing outer; concatenation gives an offset, flattening a block, groups of a
    convolution an outer repetition.

    Attributes:
        tensor: Qualified name of a parameter or buffer, or of an integer attribute that states a size.
        dim: Dimension of the tensor.
        units: Units of the group.
        offset: Row of the first unit.
        block: Adjacent rows per unit.
        outer: (count, stride) of each repetition, outermost first.
        role: `"produce"` makes the units, `"consume"` sums over them, `"follow"` treats each by itself.

    Example:
        >>> Slice("linear.weight", 1, units=3, offset=4, block=2, outer=(), role="consume").rows([0, 2])
        [4, 5, 8, 9]
    """

    tensor: str
    dim: int
    units: int
    offset: int
    block: int
    outer: tuple[tuple[int, int], ...]
    role: Role

    def rows(self, units: Iterable[int]) -> list[int]:
        """The rows of some units; each unit's rows stand together, in the order of the argument."""
        if self.block == 1 and not self.outer:
            return [self.offset + unit for unit in units]
        starts = [self.offset]
        for count, stride in self.outer:
            starts = [start + index * stride for start in starts for index in range(count)]
        return [start + unit * self.block + row for unit in units for start in starts for row in range(self.block)]


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rows that make up for a number which the code computes from how many units there are.

    When k of n units stay, the code's number changes by (k / n) ** power, and these rows, along the first dimension of
    the tensor, are multiplied by the inverse, so the network keeps its original scale.

    Attributes:
        tensor: Qualified name of a parameter.
        rows: Rows of the tensor as it is before the cut.
        power: Of the share of units that stay; -0.5 for the usual scale of attention.
    """

    tensor: str
    rows: tuple[int, ...]
    power: float


@dataclass(frozen=True, slots=True)
class Group:
    """Units that stand or fall one by one, and everything that goes with each.

    Attributes:
        name: Qualified name of the first layer that makes the units, with `[first row:last row + 1]` where the group is
            only a part of that layer's output.
        units: How many there are.
        slices: What goes with them, tensors only.
        attributes: Integer attributes that state a size, as slices of a list of that length; `dim` is the place in an
            attribute of several integers.
        producers: Layers that make the units, in order.
        consumers: Layers that sum over the units, in order.
        frozen: Why no unit may go, or None.
        crossed: The operation that runs across the units and is computed anew over those that stay, such as a layer
            normalization, or None. With one, a cut changes what stays, and no mask of the consumers stands for it.
        minimum: Units that must stay at least.
        multiple: The number that stays must be a multiple of this, or the group stays whole.
        rescales: What keeps attention at its original scale when units go.

    Example:
        >>> made = Slice("0.weight", 0, units=8, offset=0, block=1, outer=(), role="produce")
        >>> read = Slice("2.weight", 1, units=8, offset=0, block=1, outer=(), role="consume")
        >>> Group("0", 8, (made, read), (), ("0",), ("2",), multiple=4).counts
        (8, 4)
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    attributes: tuple[Slice, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None = None
    crossed: str | None = None
    minimum: int = 1
    multiple: int = 1
    rescales: tuple[Rescale, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """How many units may stay, the largest number first: all of them, or what the constraints allow."""
        fewer = range(self.units - 1, 0, -1) if self.frozen is None else ()
        allowed = (count for count in fewer if count >= self.minimum and count % self.multiple == 0)
        return (self.units, *allowed)

    @property
    def constraints(self) -> tuple[str, ...]:
        """What binds the choice of units, in words; empty where units are single rows that go one by one.

        Example:
            >>> heads = Slice("attn.qkv.weight", 0, units=3, offset=0, block=64, outer=((3, 192),), role="produce")
            >>> Group("attn.qkv", 3, (heads,), (), ("attn.qkv",), ()).constraints
            ('a unit is 3 x 64 rows of attn.qkv.weight: 64 adjacent ones in each of 3 parts',)
        """
        found = []
        widest = max(self.slices, key=lambda part: len(part.rows([0])), default=None)
        if widest is not None and len(widest.rows([0])) > 1:
            parts = len(widest.rows([0])) // widest.block
            rows = f"{parts} x {widest.block}" if min(parts, widest.block) > 1 else str(parts * widest.block)
            adjacent = f"{widest.block} adjacent ones" if widest.block > 1 else "one"
            inside = f" in each of {parts} parts" if parts > 1 else ""
            found.append(f"a unit is {rows} rows of {widest.tensor}: {adjacent}{inside}")
        if self.minimum > 1:
            found.append(f"at least {self.minimum} units stay")
        if self.multiple > 1:
            found.append(f"a multiple of {self.multiple} units stays")
        if self.rescales:
            found.append(f"{self.rescales[0].tensor} is scaled, so that attention keeps its original scale")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Width:
    """How many channels a layer has, as groups decide it: a sum of products.

    Attributes:
        terms: Each a product of factors: (group, units), (None, a fixed number), or a width again.

    Example:
        >>> both = Width(((("conv1", 8),), (("conv2", 4), (None, 2))))
        >>> both.size({}), both.size({"conv1": 3})
        (16, 11)
    """

    terms: tuple[tuple["tuple[str | None, int] | Width", ...], ...]

    def size(self, counts: Mapping[str, int]) -> int:
        """Channels when groups keep `counts` units; a group that is not named keeps all."""
        total = 0
        for term in self.terms:
            product = 1
            for factor in term:
                if isinstance(factor, Width):
                    product *= factor.size(counts)
                else:
                    group, units = factor
                    product *= units if group is None else counts.get(group, units)
            total += product
        return total

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that decide, in order, each once."""
        found: dict[str, None] = {}
        for term in self.terms:
            for factor in term:
                names = factor.groups if isinstance(factor, Width) else (factor[0],)
                found.update((name, None) for name in names if name is not None)
        return tuple(found)

    @property
    def group(self) -> str | None:
        """The group whose units are the channels one to one, or None where there is no such group."""
        if len(self.terms) == 1 and len(self.terms[0]) == 1 and not isinstance(self.terms[0][0], Width):
            return self.terms[0][0][0]
        return None


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a convolution or linear layer.

    Attributes:
        name: Qualified module name; a layer called twice appears twice.
        kind: `"conv"`, `"depthwise"` (one input channel per group), `"transposed"` or `"linear"`.
        incoming: What decides the input channels.
        outgoing: What decides the output channels.
        grouping: What decides the groups of the convolution.
        in_channels: Input channels now.
        out_channels: Output channels now.
        kernel: Spatial size of the kernel; () for linear layers, and so for the next three.
        stride: Of the convolution.
        padding: Of the convolution.
        dilation: Of the convolution.
        groups: Groups of the convolution now; 1 for linear layers.
        input_size: Spatial size of the input; rows per image for linear layers on token sequences, else ().
        output_size: The same of the output.
        macs: Multiply-adds per image.
        adds: Whether the output goes, perhaps through a normalization, straight into an addition of two feature maps.
        activation: Operation that follows directly, perhaps after a normalization, such as `"relu"`, or None.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1))
        >>> layer = probe(net, torch.zeros(1, 3, 6, 6)).layers[0]
        >>> layer.kind, layer.in_channels, layer.out_channels, layer.output_size, layer.macs
        ('conv', 3, 8, (6, 6), 7776)
    """

    name: str
    kind: Literal["conv", "depthwise", "transposed", "linear"]
    incoming: Width
    outgoing: Width
    grouping: Width
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    macs: int
    adds: bool
    activation: str | None

    @property
    def out_group(self) -> str | None:
        """The one group whose units are the output channels, or None; `outgoing` has the general case."""
        return self.outgoing.group

    def widths(self, counts: Mapping[str, int]) -> tuple[int, int, int]:
        """(input channels, output channels, groups) when groups of units keep `counts`."""
        return self.incoming.size(counts), self.outgoing.size(counts), self.grouping.size(counts)


@dataclass(frozen=True, slots=True)
class Branch:
    """A residual block that is the identity once its branch is silent, so the block may be bypassed.

    Attributes:
        module: Qualified name of the block.
        layers: Layers inside.
        groups: Groups that live entirely inside and go with it.
        silencers: Parameters that silence the branch when they are zero.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> from reverie.zoo.networks import CifarResNet
        >>> net = CifarResNet(blocks=1, widths=(4, 8), in_channels=1).eval()
        >>> branch = probe(net, torch.zeros(2, 1, 8, 8)).branch("layer1.0")
        >>> branch.layers, branch.groups
        (('layer1.0.conv1', 'layer1.0.conv2'), ('layer1.0.conv1',))
    """

    module: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    silencers: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What can be taken from a network, and what cannot and why.

    Attributes:
        groups: All groups, frozen ones included, in the order of their first layer.
        layers: Convolutions and linear layers, in the order of the forward pass.
        branches: Residual blocks that may be bypassed.
        unknown: Operations without a rule, each as "op in layer"; their axes are frozen.
        shapes: Shape of every parameter and buffer that a group touches.
        aliases: Tensor -> other names of the same tensor, which tied weights have.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> structure = probe(net, torch.zeros(1, 3))
        >>> [(group.name, group.units) for group in structure.free]
        [('0', 8)]
        >>> structure.constraining(multiple=4).group("0").counts
        (8, 4)
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    branches: tuple[Branch, ...]
    unknown: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose units may go."""
        return tuple(group for group in self.groups if group.frozen is None)

    @property
    def frozen(self) -> dict[str, str]:
        """Frozen group -> why."""
        return {group.name: group.frozen for group in self.groups if group.frozen is not None}

    def group(self, name: str) -> Group:
        """The group of a name.

        Raises:
            ReferenceNotFound: There is none; the message lists what there is.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise ReferenceNotFound(f"no group is named {name!r}; free groups are {_listed(one.name for one in self.free)}")

    def branch(self, module: str) -> Branch:
        """The branch of a module.

        Raises:
            ReferenceNotFound: There is none; the message lists what there is.
        """
        for branch in self.branches:
            if branch.module == module:
                return branch
        found = _listed(one.module for one in self.branches)
        raise ReferenceNotFound(f"{module!r} is no residual block that may be bypassed; those are {found}")

    def constraining(self, *, minimum: int = 1, multiple: int = 1, groups: Iterable[str] | None = None) -> "Structure":
        """The same structure with limits on how many units may stay; `cut` refuses all other counts.

        They add to the limits that are there. A group that has no count but its own within the limits stays whole. What
        the network itself asks for, whole heads or the same number in every group of a convolution, is in the units
        already.

        Args:
            minimum: Units that stay at least, at least 1.
            multiple: Of which the number that stays is a multiple, such as 8 for a runtime that computes in blocks.
            groups: Names of the groups meant; all of them where none are named.

        Raises:
            RangeError: A limit is below 1.
            ReferenceNotFound: A group does not exist.
        """
        if min(minimum, multiple) < 1:
            raise RangeError(f"minimum and multiple are at least 1, not {minimum} and {multiple}")
        named = {group.name for group in self.groups} if groups is None else {self.group(one).name for one in groups}
        return replace(
            self,
            groups=tuple(
                replace(group, minimum=max(group.minimum, minimum), multiple=lcm(group.multiple, multiple))
                if group.name in named
                else group
                for group in self.groups
            ),
        )

    def freezing(self, reasons: Mapping[str, str]) -> "Structure":
        """The same structure with more groups frozen; a group that was frozen keeps its reason."""
        return replace(
            self,
            groups=tuple(
                replace(group, frozen=reasons[group.name]) if group.frozen is None and group.name in reasons else group
                for group in self.groups
            ),
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
