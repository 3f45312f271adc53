"""Proof by execution that a structure is right: permute, cut, compare. What is not proven is frozen.

Four checks, in float64, with random parameters and statistics:

1. Permutation: put the units of every group into another order, in all its slices. The output must stay. A slice that
   is missing, shifted or of another group moves it.
2. Sensitivity: the output must depend on what makes the units and on what sums over them, or check 1 proves nothing.
3. Trial cut: the network without some units of every group must equal its reference at full width: the masked network
   where zeroing is removing, and the survivors' answer where an operation runs across the units.
4. Another size: the same with one example more, and with more positions where the network takes such an input. A number
   in the code that is a size of the example, and not a width, shows itself there.

Cost: one pass with gradient and fourteen without where all is right; about 2 log2(groups) more for each that fails.

Sources: the permutation symmetry of hidden units, Hecht-Nielsen 1990, doi:10.1016/B978-0-444-88400-8.50019-4.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from reverie.core.edit import Keep, Record, replay
from reverie.core.errors import UnsupportedOp
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.graph.cut import cut
from reverie.graph.mask import masked
from reverie.graph.numeric import distance, floats, outputs, randomized, settle
from reverie.graph.oracle import surviving
from reverie.graph.structure import Group, Role, Structure
from reverie.graph.trace import Example, positional

__all__ = ["TOLERANCE", "certify", "permute"]

_DRAWS = 8

TOLERANCE = 1e-9
"""Largest difference between two outputs that are to be equal, relative to the largest output, in float64."""


def certify(model: nn.Module, structure: Structure, example: Example, *, seed: int = 0) -> Structure:
    """The same structure with every group frozen that does not pass; see the module's text for the checks.

    Args:
        model: The network that was probed; untouched.
        structure: From `probe`.
        example: A batch the network accepts, or a tuple of its positional arguments.
        seed: Of the random parameters, permutations and units.

    Raises:
        ShapeError: The structure belongs to a network of other widths.
        UnsupportedOp: The network lies on the device meta, where there are no numbers to run it on.

    Example:
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [group.name for group in certify(net, probe(net, torch.zeros(1, 3)), torch.ones(1, 3)).free]
        ['0']

    Fails when: the network is random in evaluation mode; then every group fails.
    """
    _check_numbers(model)
    batch = _noise(example, seed)
    subject = _subject(model, batch, seed)
    wanted = outputs(subject, batch)
    checks = _Checks(subject, structure, batch, wanted, _larger(subject, batch, wanted), seed)
    idle = _idle(model, structure.free, example, seed)
    reasons = dict.fromkeys(idle, "not certified: the output does not depend on these units")
    left = [group for group in structure.free if group.name not in reasons]
    plain = [group for group in left if not group.crossed]
    for groups, holds, reason in (
        (left, checks.permutes, "the output moves when its units change places"),
        (plain, checks.masks, "a cut is no mask"),
        (left, checks.survives, "a cut does not answer as the units that survive do"),
        (left, checks.follows, "with an input of another size a cut does not follow"),
    ):
        failed = _failing([group for group in groups if group.name not in reasons], holds)
        reasons.update(dict.fromkeys(failed, f"not certified: {reason}"))
    return structure.freezing(reasons)


def _check_numbers(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedOp(
                f"{name} lies on meta, where there are no numbers, and certify runs the network. Build it on another "
                "device; cut the one on meta by the structure certified there."
            )


@dataclass(frozen=True)
class _Checks:
    """What groups must pass together; `larger` is a batch of another size, or None where the network takes none."""

    subject: nn.Module
    structure: Structure
    batch: Example
    wanted: list[Tensor]
    larger: "Example | None"
    seed: int

    def permutes(self, groups: Sequence[Group]) -> bool:
        orders = {group.name: _order(group, self.seed) for group in groups}
        return _within(lambda: outputs(permute(self.subject, self.structure, orders), self.batch), self.wanted)

    def masks(self, groups: Sequence[Group]) -> bool:
        kept = self._kept(groups)
        reference = outputs(masked(self.subject, self.structure, kept), self.batch)
        return _within(lambda: outputs(cut(self.subject, self.structure, kept)[0], self.batch), reference)

    def survives(self, groups: Sequence[Group]) -> bool:
        # Of groups that nothing runs across, the mask was the reference.
        if not any(group.crossed for group in groups):
            return True
        small, record = cut(self.subject, self.structure, self._kept(groups))
        try:
            reference = floats(surviving(self.subject, record, *positional(self.batch)))
        except UnsupportedOp:
            return False
        return _within(lambda: outputs(small, self.batch), reference)

    def follows(self, groups: Sequence[Group]) -> bool:
        larger = self.larger
        if larger is None:
            return True
        kept = self._kept(groups)
        small, record = cut(self.subject, self.structure, kept)
        try:
            reference = floats(surviving(self.subject, record, *positional(larger)))
        except UnsupportedOp:
            if any(group.crossed for group in groups):
                return False
            reference = outputs(masked(self.subject, self.structure, kept), larger)
        return _within(lambda: outputs(small, larger), reference)

    def _kept(self, groups: Sequence[Group]) -> dict[str, list[int]]:
        return {group.name: _some(group, self.seed) for group in groups}


def permute(
    model: nn.Module,
    structure: Structure,
    orders: Mapping[str, Sequence[int]],
    *,
    roles: Collection[Role] = ("produce", "follow", "consume"),
) -> nn.Module:
    """A copy of the model with the units of some groups in another order.

    Args:
        model: The network that was probed; untouched.
        structure: From `probe`.
        orders: Group name -> a permutation of its units: position u gets the unit `order[u]`.
        roles: Which slices move; all of them leave the network's output as it is.

    Example:
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> turned = permute(net, probe(net, torch.zeros(1, 3)), {"0": [*range(7, -1, -1)]})
        >>> torch.equal(turned[0].weight, net[0].weight.flip(0))
        True
        >>> torch.allclose(turned(torch.ones(1, 3)), net(torch.ones(1, 3)))
        True
    """
    edits: list[Keep] = []
    for name, order in orders.items():
        for part in structure.group(name).slices:
            if part.role in roles:
                rows = list(range(structure.shapes[part.tensor][part.dim]))
                for target, source in zip(part.rows(range(part.units)), part.rows(order), strict=True):
                    rows[target] = source
                tensors = (part.tensor, *structure.aliases.get(part.tensor, ()))
                edits.extend(Keep({tensor: {part.dim: tuple(rows)}}) for tensor in tensors)
    return replay(Record(tuple(edits)), model)


def _order(group: Group, seed: int) -> list[int]:
    """A permutation without fixed points: random units, each moved to the next one's place."""
    units = torch.randperm(group.units, generator=generator(seed, "order", group.name)).tolist()
    order = [0] * group.units
    for unit, successor in zip(units, units[1:] + units[:1], strict=True):
        order[unit] = successor
    return order


def _some(group: Group, seed: int) -> list[int]:
    """About half of the units, at least one, not the same number in every group."""
    rng = generator(seed, "some", group.name)
    count = int(torch.randint(max(1, group.units // 3), max(2, group.units * 2 // 3 + 1), (), generator=rng))
    legal = min(group.counts[1:] or group.counts, key=lambda one: abs(one - count))
    return sorted(torch.randperm(group.units, generator=rng).tolist()[:legal])


def _within(run: Callable[[], list[Tensor]], wanted: list[Tensor]) -> bool:
    try:
        return distance(run(), wanted) <= TOLERANCE
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        # What a user's forward raises on a wrongly cut network is a failed check, not an error.
        return False


def _failing(groups: Sequence[Group], holds: Callable[[Sequence[Group]], bool]) -> list[str]:
    """Groups without which the check holds for all others together."""
    passed: list[Group] = []
    failed: list[str] = []

    def add(more: Sequence[Group]) -> None:
        if not more or holds([*passed, *more]):
            passed.extend(more)
        elif len(more) == 1:
            failed.append(more[0].name)
        else:
            add(more[: len(more) // 2])
            add(more[len(more) // 2 :])

    add(groups)
    return failed


def _idle(model: nn.Module, groups: Sequence[Group], example: Example, seed: int) -> list[str]:
    """Groups of which the output's gradient sees no unit, on the producing or on the consuming side.

    Few units may all be silent by chance, behind a ReLU for instance, so idle groups get other random parameters.
    """
    idle = list(groups)
    for attempt in range(_DRAWS):
        if not idle:
            break
        batch = _noise(example, derive_seed(seed, "sensitivity", attempt))
        try:
            gradients = _gradients(_subject(model, batch, derive_seed(seed, "sensitivity", attempt)), batch)
        except RuntimeError:
            # An operation without a derivative, as those of the user may be: the answers alone must do.
            break
        idle = [
            group for group in idle if not (_felt(group, "produce", gradients) and _felt(group, "consume", gradients))
        ]
    return [group.name for group in idle if not _moves(model, group, example, seed)]


def _moves(model: nn.Module, group: Group, example: Example, seed: int) -> bool:
    """Whether the output changes when what makes the units does; steps, as in spiking networks, have no gradient."""
    batch = _noise(example, seed)
    subject = _subject(model, batch, seed)
    before = outputs(subject, batch)
    tensors = {**dict(subject.named_parameters()), **dict(subject.named_buffers())}
    for role in ("produce", "consume"):
        parts = [part for part in group.slices if part.role == role]
        changed = copy.deepcopy(tensors)
        for part in parts:
            rows = torch.tensor(part.rows(range(part.units)), device=changed[part.tensor].device)
            changed[part.tensor].detach().index_fill_(part.dim, rows, 0)
        with torch.no_grad(), preserved_rng():
            after = floats(torch.func.functional_call(subject, changed, positional(batch)))
        if parts and distance(after, before) <= TOLERANCE:
            return False
    return True


def _gradients(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """Parameter -> gradient of a random mixture of the outputs, where it has one."""
    parameters = {name: parameter.requires_grad_() for name, parameter in model.named_parameters()}
    with preserved_rng(), torch.enable_grad():
        answer = model(*positional(example))
        found = [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.requires_grad]
        mixed = [
            (one * torch.randn(one.shape, generator=generator(0, "mix"), dtype=one.dtype).to(one.device)).sum()
            for one in found
        ]
        gradients = torch.autograd.grad(mixed, list(parameters.values()), allow_unused=True) if mixed else ()
    return {name: one for name, one in zip(parameters, gradients, strict=False) if one is not None}


def _felt(group: Group, role: Role, gradients: Mapping[str, Tensor]) -> bool:
    parts = [part for part in group.slices if part.role == role]
    # Units that only computed weights sum over, as in attention, are consumed by no parameter.
    if not parts and role == "consume" and group.crossed:
        return True
    for part in parts:
        gradient = gradients.get(part.tensor)
        if gradient is not None:
            rows = torch.tensor(part.rows(range(part.units)), device=gradient.device)
            if bool(gradient.index_select(part.dim, rows).any()):
                return True
    return False


def _subject(model: nn.Module, batch: Example, seed: int) -> nn.Module:
    subject = randomized(model, seed=seed, dtype=torch.float64)
    settle(subject, batch)
    return subject


def _larger(model: nn.Module, batch: Example, answers: Sequence[Tensor]) -> "Example | None":
    """A batch of one example more, and of more positions where the network takes it; None where it takes neither."""
    given = positional(batch)
    tensors = [one for one in given if isinstance(one, Tensor) and one.ndim]
    count = len(tensors[0]) if tensors and len({len(one) for one in tensors}) == 1 else 0
    for grown in (True, False):
        tried = tuple(_grown(one, grown) if isinstance(one, Tensor) and one.ndim else one for one in given)
        try:
            found = outputs(model, tried)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            # Fixed positions, or a fixed number of examples: what the network itself refuses says nothing of a cut.
            continue
        # Code that folds positions into examples answers another question.
        rows = [one.shape[:1] for one in answers], [one.shape[:1] for one in found]
        alike = [after == (before[0] + 1,) for before, after in zip(*rows, strict=True) if before == (count,)]
        if count and alike and all(alike) and all(bool(torch.isfinite(one).all()) for one in found):
            return tried if isinstance(batch, tuple) else tried[0]
    return None


def _grown(tensor: Tensor, positions: bool) -> Tensor:
    """One example more; with `positions`, also twice the positions behind the channels, at most 32 more."""
    more = torch.cat([tensor, tensor[:1]])
    for dim in range(2, tensor.ndim if positions else 2):
        more = torch.cat([more, more.narrow(dim, 0, min(32, more.shape[dim]))], dim)
    return more


def _noise(example: Example, seed: int) -> Example:
    """The example with random numbers in float64 for its own; whole numbers, which may be classes, stay."""
    drawn = tuple(_drawn(one, seed, index) for index, one in enumerate(positional(example)))
    return drawn if isinstance(example, tuple) else drawn[0]


def _drawn(value: Any, seed: int, index: int) -> Any:  # noqa: ANN401  any positional argument
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    names = ("noise", index) if index else ("noise",)
    return torch.randn(value.shape, generator=generator(seed, *names), dtype=torch.float64).to(value.device)
