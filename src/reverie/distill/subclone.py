"""A student that starts from its teacher's weights: the most important units of each layer, some blocks of each stage.

What for: a student of the teacher's family, narrower, shallower or both, learns in a fraction of the steps where it
does not start from nothing. Cost: one recorded pass of the teacher, and copies.

Source: Samragh et al., 2023, arXiv:2312.09299.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.errors import ShapeError
from reverie.graph.probe import probe
from reverie.graph.structure import Group, Slice, Structure

__all__ = ["Subcloned", "subclone"]


@dataclass(frozen=True, eq=False)
class Subcloned:
    """A student with its teacher's weights in it.

    Attributes:
        network: A copy of the student.
        left: Names of the student's tensors that have no counterpart in the teacher, and stayed as they were.

    Example:
        >>> teacher, student = (nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in (8, 4))
        >>> found = subclone(teacher, student, torch.zeros(1, 3))
        >>> found.network[0].weight.shape, found.left
        (torch.Size([4, 3]), ())
    """

    network: nn.Module
    left: tuple[str, ...]


def subclone(teacher: nn.Module, student: nn.Module, example: Tensor) -> Subcloned:
    """Fill a copy of the student with slices of the teacher's weights.

    Tensors are paired by name. Where both count children in a row (`layer1.0`, `layer1.1`, ...) and the student has
    fewer, its first and last stand for the teacher's first and last, and the others are spread evenly between. Where
    the student is narrower, each group of coupled units keeps those whose weights are largest: the product of the
    Euclidean norms of what makes a unit and of what reads it.

    Args:
        teacher: A body, without its normalization; untouched.
        student: A body of the same family, at most as wide; untouched.
        example: Input of the teacher, (n, c, h, w).

    Raises:
        ShapeError: No tensor of the student has a counterpart, or the student is wider than its teacher, or wants
            different widths of one group of coupled units.

    Example:
        >>> teacher, student = (nn.Sequential(nn.Linear(3, w), nn.ReLU(), nn.Linear(w, 2)) for w in (8, 4))
        >>> made = subclone(teacher, student, torch.zeros(1, 3))
        >>> made.left, bool(torch.equal(made.network[2].bias, teacher[2].bias))
        ((), True)

    Fails when: the networks name their layers differently; then nothing is paired, which is an error.

    Reference: Samragh et al., 2023, arXiv:2312.09299, section 3. Differs: units are ranked by weights, not activations,
    so no image is needed; blocks are spread evenly.
    """
    structure = probe(teacher, example)
    made = copy.deepcopy(student)
    theirs, ours = teacher.state_dict(), made.state_dict()
    pairs = {name: other for name, other in _pairs(teacher, student).items() if other in theirs and name in ours}
    kept = _kept_units(structure, theirs, {other: ours[name] for name, other in pairs.items()})
    left = [name for name in ours if name not in pairs]
    with torch.no_grad():
        for name, other in pairs.items():
            sliced = _sliced(theirs[other], structure, other, kept)
            if sliced.shape == ours[name].shape:
                ours[name].copy_(sliced)
            else:
                left.append(name)
    if len(left) == len(ours):
        raise ShapeError(
            f"no tensor of the student ({next(iter(ours), 'none')}, ...) has a counterpart in the teacher "
            f"({next(iter(theirs), 'none')}, ...). A subclone needs a student of the teacher's family."
        )
    return Subcloned(made, tuple(left))


def _pairs(teacher: nn.Module, student: nn.Module) -> dict[str, str]:
    """The student's tensor names -> the teacher's, places in rows of children translated."""
    rows = {name: _row(module) for name, module in student.named_modules()}
    wanted = {name: _row(module) for name, module in teacher.named_modules()}
    translated = {}
    for name in student.state_dict():
        own: list[str] = []
        other: list[str] = []
        for part in name.split("."):
            mine, theirs = rows.get(".".join(own), 0), wanted.get(".".join(other), 0)
            place = part
            if mine and theirs > mine and part.isdecimal():
                place = str(round(int(part) * (theirs - 1) / (mine - 1)) if mine > 1 else 0)
            own.append(part)
            other.append(place)
        translated[name] = ".".join(other)
    return translated


def _row(module: nn.Module) -> int:
    """How many children are counted 0, 1, 2, ...; 0 where any has another name."""
    names = [name for name, _ in module.named_children()]
    return len(names) if names and names == [str(place) for place in range(len(names))] else 0


def _kept_units(
    structure: Structure, theirs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """For each group the units that the student has room for, the most important ones."""
    kept: dict[str, tuple[int, ...]] = {}
    for group in structure.groups:
        room: set[int] = set()
        for part in group.slices:
            if part.tensor in wanted and wanted[part.tensor].ndim == theirs[part.tensor].ndim:
                room.add(_room(part, group, theirs[part.tensor].shape[part.dim], wanted[part.tensor].shape[part.dim]))
        if len(room) > 1:
            raise ShapeError(
                f"the student wants {' and '.join(map(str, sorted(room)))} units of the teacher's coupled group "
                f"{group.name}, which has {group.units}. Give it one width where the teacher has one."
            )
        units = next(iter(room), group.units)
        if units > group.units:
            raise ShapeError(
                f"the student wants {units} units where the teacher's {group.name} has {group.units}. "
                "A subclone is at most as wide as its teacher."
            )
        if units < group.units:
            ranked = _importance(group, theirs).argsort(descending=True, stable=True)[:units]
            kept[group.name] = tuple(sorted(ranked.tolist()))
    return kept


def _room(part: Slice, group: Group, whole: int, size: int) -> int:
    """How many units of a group fit where the teacher has `whole` rows and the student `size`."""
    rows_per_unit = len(part.rows([0]))
    others = whole - group.units * rows_per_unit
    return max(0, size - others) // rows_per_unit if others == 0 else group.units


def _importance(group: Group, theirs: Mapping[str, Tensor]) -> Tensor:
    """(units,): the product over roles of the norm of the rows of each unit."""
    importance = torch.ones(group.units)
    for role in ("produce", "consume"):
        squares = torch.zeros(group.units)
        for part in group.slices:
            if part.role == role and part.tensor in theirs:
                tensor = theirs[part.tensor].float().movedim(part.dim, 0)
                rows = tensor.reshape(len(tensor), -1).square().sum(1)
                squares += rows[torch.tensor(part.rows(range(group.units)))].view(group.units, -1).sum(1)
        if bool(squares.any()):
            importance *= squares.sqrt()
    return importance


def _sliced(tensor: Tensor, structure: Structure, name: str, kept: Mapping[str, tuple[int, ...]]) -> Tensor:
    """The rows of a teacher's tensor that belong to kept units, along every dimension."""
    for dim in range(tensor.ndim):
        gone: set[int] = set()
        for group in structure.groups:
            for part in group.slices:
                if part.tensor == name and part.dim == dim and group.name in kept:
                    gone.update(part.rows(sorted(set(range(group.units)) - set(kept[group.name]))))
        if gone:
            rows = [row for row in range(tensor.shape[dim]) if row not in gone]
            tensor = tensor.index_select(dim, torch.tensor(rows, device=tensor.device))
    return tensor
