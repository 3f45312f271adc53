"""Edits of a network's structure, as data, and the record that replays them.

An edit says what changes, not how it was found: which slices of which tensors stay, which attributes follow, which
modules are bypassed, which layer becomes two. A record is a tuple of edits; records join by `+`; replaying one on a
fresh model of the same architecture gives the edited network, so a saved network is its weights, a JSON file, and
nothing that runs code.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from reverie.core.errors import CorruptFile, ReferenceNotFound, ShapeError

__all__ = ["Bypass", "Edit", "Factorize", "Keep", "Record", "Scale", "factorable", "replay"]

FORMAT = 1


@dataclass(frozen=True)
class Keep:
    """Keep some slices of tensors, and set the attributes that say their sizes.

    Attributes:
        slices: Tensor name -> dimension -> indices kept, in the order of the result.
        attributes: "module.attribute" -> its new integer, such as `"conv1.out_channels"`, or all of its new integers
            where it is a tuple or list, such as `"norm.normalized_shape"`.
    """

    slices: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> None:
        """Cut the tensors of `model` in place; names of one tensor that are cut alike stay names of one tensor."""
        done: dict[int, tuple[Tensor, Mapping[int, tuple[int, ...]], Tensor]] = {}
        for name, by_dim in self.slices.items():
            owner, _, leaf = name.rpartition(".")
            module = _module(model, owner)
            tensor = getattr(module, leaf, None)
            if not isinstance(tensor, Tensor):
                raise ReferenceNotFound(f"the record cuts {name}, but {type(module).__name__} holds no such tensor")
            _, kept, cut = done.get(id(tensor), (tensor, None, tensor))
            if kept != by_dim:
                cut = _cut(name, tensor, by_dim)
            # The whole tensor stays alive, so that no other gets its id.
            done[id(tensor)] = tensor, by_dim, cut
            setattr(module, leaf, cut)
        for path, value in self.attributes.items():
            owner, _, leaf = path.rpartition(".")
            module = _module(model, owner)
            if not hasattr(module, leaf):
                raise ReferenceNotFound(f"the record sets {path}, but {type(module).__name__} has no {leaf}")
            setattr(module, leaf, list(value) if isinstance(value, tuple) and _is_list(module, leaf) else value)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        slices = {name: {str(dim): list(kept) for dim, kept in dims.items()} for name, dims in self.slices.items()}
        sizes = {path: list(size) if isinstance(size, tuple) else size for path, size in self.attributes.items()}
        return {"slices": slices, "attributes": sizes}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Keep":
        """Read what `to_json` wrote."""
        slices = {
            name: {int(dim): tuple(int(index) for index in kept) for dim, kept in dims.items()}
            for name, dims in value["slices"].items()
        }
        attributes = {
            str(path): tuple(int(one) for one in size) if isinstance(size, list) else int(size)
            for path, size in value["attributes"].items()
        }
        return Keep(slices, attributes)


def _cut(name: str, tensor: Tensor, by_dim: Mapping[int, tuple[int, ...]]) -> Tensor:
    """Some rows of a tensor, as a parameter where it was one."""
    is_parameter, needs_gradient = isinstance(tensor, nn.Parameter), tensor.requires_grad
    with torch.no_grad():
        for dim, indices in by_dim.items():
            if not 0 <= dim < tensor.ndim:
                raise ShapeError(
                    f"the record cuts dimension {dim} of {name}, which has {tensor.ndim} dimensions; "
                    "the record belongs to another network"
                )
            size = tensor.shape[dim]
            if indices and not 0 <= min(indices) <= max(indices) < size:
                outside = next(index for index in indices if not 0 <= index < size)
                raise ShapeError(
                    f"the record keeps index {outside} of {name} dimension {dim}, which has {size}; "
                    "the record belongs to another network"
                )
            if tensor.is_meta:
                # Shapes alone: PyTorch would take as long as with data.
                tensor = tensor.new_empty((*tensor.shape[:dim], len(indices), *tensor.shape[dim + 1 :]))
                continue
            tensor = tensor.index_select(dim, torch.tensor(indices, dtype=torch.int64, device=tensor.device))
        tensor = tensor.contiguous()
    return nn.Parameter(tensor, requires_grad=needs_gradient) if is_parameter else tensor


def _is_list(module: nn.Module, leaf: str) -> bool:
    return isinstance(getattr(module, leaf), list)


@dataclass(frozen=True)
class Bypass:
    """Replace modules by the identity: residual blocks that only pass their input on.

    Attributes:
        modules: Qualified names.
    """

    modules: tuple[str, ...]

    def apply(self, model: nn.Module) -> None:
        """Replace the modules of `model` in place."""
        for name in self.modules:
            owner, _, leaf = name.rpartition(".")
            if not name or _module(model, name) is model:
                raise ReferenceNotFound(f"the record bypasses all of {type(model).__name__}; only parts of it may go")
            setattr(_module(model, owner), leaf, nn.Identity())

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {"modules": list(self.modules)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Bypass":
        """Read what `to_json` wrote."""
        return Bypass(tuple(str(name) for name in value["modules"]))


@dataclass(frozen=True)
class Scale:
    """Multiply rows of tensors, along their first dimension.

    Attributes:
        rows: Tensor name -> the rows.
        factor: The number.
    """

    rows: Mapping[str, tuple[int, ...]]
    factor: float

    def apply(self, model: nn.Module) -> None:
        """Multiply in place; a tensor of several names is multiplied once."""
        done: set[int] = set()
        for name, indices in self.rows.items():
            owner, _, leaf = name.rpartition(".")
            tensor = getattr(_module(model, owner), leaf, None)
            if not isinstance(tensor, Tensor):
                raise ReferenceNotFound(f"the record scales {name}, but the network holds no such tensor")
            if id(tensor) in done:
                continue
            done.add(id(tensor))
            if any(not 0 <= index < tensor.shape[0] for index in indices):
                raise ShapeError(f"the record scales rows of {name} that its {tensor.shape[0]} rows do not have")
            with torch.no_grad():
                tensor[torch.tensor(indices, dtype=torch.int64, device=tensor.device)] *= self.factor

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {"rows": {name: list(rows) for name, rows in self.rows.items()}, "factor": self.factor}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Scale":
        """Read what `to_json` wrote."""
        rows = {str(name): tuple(int(row) for row in found) for name, found in value["rows"].items()}
        return Scale(rows, float(value["factor"]))


@dataclass(frozen=True)
class Factorize:
    """Replace a linear layer, or a convolution of one group, by two in a row with few channels between them.

    The first has the kernel, the second is pointwise and has the bias. As a matrix of outputs by everything that an
    output reads, their product is the nearest to the layer's of all of that rank, in the sum of squares: its singular
    values after the first `rank` are left out, and the root of each that stays goes into either layer.

    Attributes:
        module: Qualified name of an `nn.Linear` or `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`.
        rank: Channels between the two, from 1 to the rank that the matrix can have.

    Reference: Eckart and Young, 1936, doi:10.1007/BF02288367.
    """

    module: str
    rank: int

    def apply(self, model: nn.Module) -> None:
        """Replace the layer of `model` in place."""
        owner, _, leaf = self.module.rpartition(".")
        found = _module(model, self.module)
        layer = factorable(found)
        if layer is None:
            raise ReferenceNotFound(
                f"the record factorizes {self.module!r}, which is {type(found).__name__} and no plain linear layer or "
                "convolution of one group"
            )
        matrix = layer.weight.detach().flatten(1)
        if not 1 <= self.rank <= min(matrix.shape):
            raise ShapeError(
                f"the record factorizes {self.module} at rank {self.rank}, and its matrix is "
                f"{matrix.shape[0]} x {matrix.shape[1]}"
            )
        first, second = _empty_pair(layer, self.rank)
        left, right = _factors(matrix, self.rank)
        needs_gradient = layer.weight.requires_grad
        first.weight = nn.Parameter(right.reshape(first.weight.shape), needs_gradient)
        second.weight = nn.Parameter(left.reshape(second.weight.shape), needs_gradient)
        second.bias = layer.bias
        setattr(_module(model, owner), leaf, nn.Sequential(first, second).train(layer.training))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {"module": self.module, "rank": self.rank}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Factorize":
        """Read what `to_json` wrote."""
        return Factorize(str(value["module"]), int(value["rank"]))


Factorable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def factorable(module: nn.Module) -> Factorable | None:
    """The module where `Factorize` can replace it: no class derived from a layer, which may compute what it likes."""
    if isinstance(module, Factorable) and type(module) in get_args(Factorable):
        return module if getattr(module, "groups", 1) == 1 else None
    return None


def _empty_pair(layer: Factorable, rank: int) -> tuple[Factorable, Factorable]:
    """Two layers for one, without numbers: those that PyTorch would draw move the caller's random state."""
    if isinstance(layer, nn.Linear):
        narrow = nn.Linear(layer.in_features, rank, bias=False, device="meta")
        return narrow, nn.Linear(rank, layer.out_features, bias=False, device="meta")
    make: Any = type(layer)
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    first = make(layer.in_channels, rank, *window, bias=False, padding_mode=layer.padding_mode, device="meta")
    return first, make(rank, layer.out_channels, 1, bias=False, device="meta")


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(rows, rank) and (rank, columns)."""
    if matrix.is_meta:
        # Shapes alone: there are no numbers to factorize.
        return matrix.new_empty(matrix.shape[0], rank), matrix.new_empty(rank, matrix.shape[1])
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = values[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype).contiguous(), (root[:, None] * v[:rank]).to(matrix.dtype).contiguous()


Edit = Keep | Bypass | Scale | Factorize
KINDS: Mapping[str, type[Edit]] = {"keep": Keep, "bypass": Bypass, "scale": Scale, "factorize": Factorize}


@dataclass(frozen=True)
class Record:
    """What was done to a network, in order.

    Records compose: `(a + b) + c == a + (b + c)`, and `Record()` changes nothing.
    """

    edits: tuple[Edit, ...] = ()

    def __add__(self, later: "Record") -> "Record":
        return Record(self.edits + later.edits)

    def merged(self) -> "Record":
        """The same in as few edits as can be: cuts that follow each other become one, their indices composed.

        Law: replaying it gives what replaying the record gives, bit for bit.

        Raises:
            ShapeError: A cut keeps indices that the cut before it has not left.

        Example:
            >>> twice = Record((Keep({"weight": {0: (1, 3, 5)}}), Keep({"weight": {0: (0, 2), 1: (4,)}})))
            >>> twice.merged().edits
            (Keep(slices={'weight': {0: (1, 5), 1: (4,)}}, attributes={}),)
        """
        done: list[Edit] = []
        for edit in self.edits:
            last = done[-1] if done else None
            if isinstance(last, Keep) and isinstance(edit, Keep):
                done[-1] = _composed(last, edit)
            elif isinstance(last, Keep) and isinstance(edit, Scale):
                done[-1:] = [_earlier(edit, last), last]
            else:
                done.append(edit)
        return Record(tuple(done))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back."""
        return {"format": FORMAT, "edits": [_edit_to_json(edit) for edit in self.edits]}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Record":
        """Read what `to_json` wrote.

        Raises:
            CorruptFile: The value is no record, or of a later format.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            found = repr(value.get("format")) if isinstance(value, Mapping) else f"none, being a {type(value).__name__}"
            raise CorruptFile(f"the record has format {found}; this version reads format {FORMAT}")
        try:
            return Record(tuple(_edit_from_json(edit) for edit in value["edits"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(f"the record is damaged ({type(error).__name__}: {error})") from error


def replay(record: Record, model: nn.Module) -> nn.Module:
    """Apply a record to a copy of a model; the argument is untouched.

    Args:
        record: What was done.
        model: A model of the architecture that the record began with.

    Raises:
        ReferenceNotFound: The record names a tensor, module or attribute that the model lacks.
        ShapeError: The record keeps indices that the model's tensors do not have.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> cut = replay(Record((Keep({"weight": {1: (0, 2)}}, {"in_features": 2}),)), layer)
        >>> cut.weight.shape, layer.weight.shape
        (torch.Size([2, 2]), torch.Size([2, 3]))
    """
    edited = copy.deepcopy(model)
    for edit in record.edits:
        edit.apply(edited)
    return edited


def _composed(first: Keep, second: Keep) -> Keep:
    """One cut in place of two."""
    slices = {name: dict(by_dim) for name, by_dim in first.slices.items()}
    for name, by_dim in second.slices.items():
        rows = slices.setdefault(name, {})
        for dim, kept in by_dim.items():
            rows[dim] = _picked(name, rows[dim], kept) if dim in rows else kept
    return Keep(slices, {**first.attributes, **second.attributes})


def _earlier(scale: Scale, cut: Keep) -> Scale:
    """What is scaled after a cut, as rows before it."""
    rows = {
        name: _picked(name, cut.slices[name][0], indices) if 0 in cut.slices.get(name, {}) else indices
        for name, indices in scale.rows.items()
    }
    return Scale(rows, scale.factor)


def _picked(name: str, kept: tuple[int, ...], indices: tuple[int, ...]) -> tuple[int, ...]:
    outside = [index for index in indices if not 0 <= index < len(kept)]
    if outside:
        raise ShapeError(f"the record keeps {len(kept)} rows of {name}, and then row {outside[0]} of those")
    return tuple(kept[index] for index in indices)


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ReferenceNotFound(f"the record names module {name!r}, which {type(model).__name__} lacks") from error


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    kind = next(name for name, one in KINDS.items() if isinstance(edit, one))
    return {"kind": kind, **edit.to_json()}


def _edit_from_json(value: Mapping[str, Any]) -> Edit:
    if value["kind"] not in KINDS:
        raise ValueError(f"unknown edit {value['kind']!r}")
    return KINDS[value["kind"]].from_json(value)
