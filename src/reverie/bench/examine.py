"""Everything that is asked of one network: analyze, certify, cut, compare, carry away.

A step that fails leaves its reason in the row, and later steps that need it are not run.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reverie.bench.kinds import Subject
from reverie.bench.portable import answers, difference, fresh_process_difference, onnx_difference
from reverie.core.edit import Record
from reverie.core.environment import commit
from reverie.core.errors import ReverieError, VerificationFailed
from reverie.core.rng import derive_seed, generator
from reverie.graph import certify, cut, probe
from reverie.graph.numeric import randomized, settle
from reverie.graph.oracle import surviving
from reverie.graph.structure import Group, Structure

__all__ = ["REMOVED", "Row", "certified_share", "examine", "kept_units"]

REMOVED = 0.3
"""Share of the units of every group that is removed."""

_SETTLED_ON = 8
"""Examples for random statistics: of two, some channel's variance is nearly nothing, and rounding is blown up."""

_UNUSED = "not used in the forward pass"

_NO_UNITS = ("the network's input", "the network's output", "positions, not units", "a kernel position")
_NO_UNITS_AFTER = (
    "is read at positions that the input states",
    "is read at positions that a table states",
    "reads these as places of the kernel",
    _UNUSED,
)

_STEADY = 5e-6
"""What a network's own rounding may be, single precision, for a bound of twice that to speak of a cut."""

_HALVINGS = 4


@dataclass
class Row:
    """What was seen of one network; None where a step did not run.

    Attributes:
        name: Of the subject.
        kind: What it exercises.
        parameters: Of the network that was cut.
        seconds: Processor time of the analysis, of the network in its own size.
        units: Units of all groups, inputs, outputs and positions not counted.
        free: Units of the groups that are certified.
        removed: Units that the cut removed.
        certified: Share of the parameters' elements that belong to certified groups.
        unused: Elements of parameters that the forward pass does not use; no group holds them.
        rounding: Uncut network in single precision against itself in double precision.
        calmed: How often the scales of its normalizations were halved, in single precision, to get there.
        cut_difference: Cut network against its reference, single precision.
        exact_difference: The same in double precision, on the weights as drawn.
        fresh_difference: In a fresh process without Reverie against here.
        onnx_difference: In ONNX Runtime against here.
        frozen: Reason -> units.
        failures: Step -> what went wrong.
        step_seconds: Step -> wall time.
        commit: Of the source tree that it was examined with; None where that was not known.
    """

    name: str
    kind: str
    parameters: int = 0
    seconds: float | None = None
    units: int | None = None
    free: int | None = None
    removed: int | None = None
    certified: float | None = None
    unused: int = 0
    rounding: float | None = None
    calmed: int = 0
    cut_difference: float | None = None
    exact_difference: float | None = None
    fresh_difference: float | None = None
    onnx_difference: float | None = None
    frozen: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Row(**value)` reads back."""
        return asdict(self)


def examine(subject: Subject, *, portable: bool = True) -> Row:
    """Do everything that is asked of one network.

    Args:
        subject: Which.
        portable: Also carry the cut network to a fresh process and to ONNX Runtime.
    """
    row = Row(subject.name, subject.kind, commit=commit())
    torch.set_num_threads(1)
    with _step(row, "analysis"):
        _warm_up()
        whole = subject.build(full=True)
        example = _example(subject.example(1, full=True))
        began = time.process_time()
        probe(whole, example)
        row.seconds = time.process_time() - began
        del whole
    with _step(row, "structure"):
        net = subject.build()
        row.parameters = sum(parameter.numel() for parameter in net.parameters())
        inputs = subject.example(2)
        probed = probe(net, _example(inputs))
        structure = certify(net, probed, _example(inputs))
        _count(row, net, structure)
    if "structure" in row.failures or not structure.free:
        return row
    with _step(row, "cut"):
        kept = kept_units(structure, share=REMOVED)
        row.removed = sum(group.units - len(kept[group.name]) for group in structure.free)
        exact, plain = _steady(row, net, subject.example(_SETTLED_ON), inputs)
        small, record = cut(exact, structure, kept)
        row.exact_difference = _finite(_gap(exact, small, record, _double(inputs)))
        small, record = cut(plain, structure, kept)
        row.cut_difference = _finite(_gap(plain, small, record, inputs))
        del exact, plain
    if not portable or "cut" in row.failures:
        return row
    with _step(row, "fresh process"):
        row.fresh_difference = _finite(
            fresh_process_difference(small, record, inputs, factory=subject.factory, arguments=dict(subject.arguments))
        )
    with _step(row, "onnx"):
        row.onnx_difference = _finite(onnx_difference(small, inputs))
    return row


def kept_units(structure: Structure, *, share: float, seed: int = 0) -> dict[str, list[int]]:
    """Units to keep when at least a share of every free group is removed, as far as its minimum and multiple allow."""
    kept = {}
    for group in structure.free:
        count = _allowed(group, int(group.units * (1 - share)))
        rng = generator(seed, "kept", group.name)
        kept[group.name] = sorted(torch.randperm(group.units, generator=rng).tolist()[:count])
    return kept


def certified_share(model: nn.Module, structure: Structure) -> float:
    """Share of the parameters' elements that go with some unit of a free group."""
    touched: dict[str, dict[int, set[int]]] = {}
    for group in structure.free:
        for part in group.slices:
            touched.setdefault(part.tensor, {}).setdefault(part.dim, set()).update(part.rows(range(part.units)))
    total = covered = 0
    for name, parameter in model.named_parameters():
        left = parameter.numel()
        for dim, rows in touched.get(name, {}).items():
            left = left // parameter.shape[dim] * (parameter.shape[dim] - len(rows))
        total += parameter.numel()
        covered += parameter.numel() - left
    return covered / max(1, total)


def _allowed(group: Group, count: int) -> int:
    count = max(count - count % group.multiple, group.minimum, group.multiple)
    return min(count, group.units)


def _count(row: Row, net: nn.Module, structure: Structure) -> None:
    row.certified = certified_share(net, structure)
    row.free = sum(group.units for group in structure.free)
    row.units = row.free
    stored = {name: parameter.numel() for name, parameter in net.named_parameters()}
    unused = {
        part.tensor
        for name, reason in structure.frozen.items()
        for part in structure.group(name).slices
        if reason == _UNUSED
    }
    row.unused = sum(stored.get(name, 0) for name in unused)
    for name, reason in structure.frozen.items():
        # Tables of numbers that nobody trains, such as of relative positions, hold no units.
        is_table = not any(part.tensor in stored for part in structure.group(name).slices)
        if not is_table and reason not in _NO_UNITS and not reason.endswith(_NO_UNITS_AFTER):
            units = structure.group(name).units
            row.units += units
            row.frozen[reason] = row.frozen.get(reason, 0) + units


def _gap(whole: nn.Module, small: nn.Module, record: Record, inputs: Sequence[Tensor]) -> float:
    from torch.utils._pytree import tree_leaves

    reference = [leaf for leaf in tree_leaves(surviving(whole, record, *inputs)) if isinstance(leaf, Tensor)]
    return difference(answers(small, inputs), reference)


def _finite(gap: float) -> float:
    if gap == float("inf"):
        raise VerificationFailed("the answers differ in shape, or are not finite")
    return gap


def _double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [one.double() if one.is_floating_point() else one for one in inputs]


def _steady(row: Row, net: nn.Module, many: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[nn.Module, nn.Module]:
    """Random weights and statistics, in double and in single precision: nothing is hidden by an initialization.

    Some deep networks of random weights blow up rounding, as no trained one does: there two orders of the same sum
    differ by more than the bound, with no cut at all. In double precision that does not matter, and the law is proven
    there, on the weights as drawn. Where the uncut network shows it of itself in single precision, the scales of its
    normalizations are halved there, which makes every residual branch smaller beside what it is added to.
    """
    drawn = exact = _lively(net, many, 1.0)
    while True:
        plain = copy.deepcopy(exact).to(torch.float32)
        row.rounding = difference(answers(plain, inputs), answers(exact, _double(inputs)))
        if row.rounding <= _STEADY or row.calmed >= _HALVINGS:
            return drawn, plain
        row.calmed += 1
        exact = _lively(net, many, 0.5**row.calmed)


def _lively(net: nn.Module, inputs: Sequence[Tensor], scale: float) -> nn.Module:
    lively = randomized(net, seed=derive_seed(0, "coverage"), dtype=torch.float64)
    with torch.no_grad():
        for module in lively.modules():
            if "norm" in type(module).__name__.lower() and isinstance(getattr(module, "weight", None), nn.Parameter):
                module.get_parameter("weight").mul_(scale)
    settle(lively, _example(_double(inputs)))
    return lively


def _example(inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401  what `probe` takes: one tensor, or a tuple
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


def _warm_up() -> None:
    """What PyTorch loads at the first analysis of a process is no part of an analysis."""
    probe(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 2, 2))


class _step:  # noqa: N801  reads as a statement
    """Notes the time of a step, and what went wrong in it."""

    def __init__(self, row: Row, name: str) -> None:
        self._row, self._name = row, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._row.step_seconds[self._name] = round(time.monotonic() - self._began, 2)
        if error is None or not isinstance(error, Exception):
            return False
        text = str(error).strip().partition("\n")[0]
        self._row.failures[self._name] = (text if isinstance(error, ReverieError) else f"{kind.__name__}: {text}")[:400]  # type: ignore[union-attr]
        return True
