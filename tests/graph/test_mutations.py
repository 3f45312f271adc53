"""Fifty seeded errors in the table of rules: each is caught, by the rehearsal, by a certificate or by a law.

An error is one action of one rule left out or twisted: a coupling, a sum or a freeze forgotten, axes of an output
swapped or made anew, a product read in the other order. Errors that change nothing on a network, or that lead to groups
which are right as well, are no errors there, and others are drawn in their place.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graph.networks import CASES, example, lively
from graph.test_certify import claims
from graph.test_norms_and_attention import TOKENS, Attention, Recurrent, Rotary, Standardized
from reverie.graph import RULES, Step, Structure, certify, cut, probe, record, surviving
from reverie.graph.coupling import Axis
from reverie.graph.describe import describe
from reverie.graph.numeric import distance, floats, outputs
from reverie.graph.rules import analyze
from reverie.graph.trace import Trace
from reverie.zoo.networks import CifarResNet

ERRORS = 50
EXACT = 1e-9


@dataclass(frozen=True)
class Subject:
    """A network on which rules are broken."""

    name: str
    build: Callable[[], nn.Module]
    batch: Tensor


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
SUBJECTS = [
    *(Subject(case.name, case.build, example(case)) for case in CASES if case.name != "vgg"),
    Subject("residual", lambda: CifarResNet(blocks=1, widths=(6, 6, 6)), IMAGES),
    Subject("attention", Attention, TOKENS),
    Subject("tied attention", lambda: Attention(tied=True), TOKENS),
    Subject("recurrent", lambda: Recurrent(nn.LSTM, True), TOKENS),
    Subject("rotary", Rotary, TOKENS),
    Subject("standardized", lambda: nn.Sequential(Standardized(3, 6, 1), nn.ReLU(), Standardized(6, 4, 1)), IMAGES),
]


class Twisted:
    """The algebra of axes, with one product read in the other order."""

    def __init__(self, coupling: Any, broken: "Broken") -> None:
        self._coupling, self._broken = coupling, broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coupling, name)

    def product(self, *axes: Axis) -> Axis:
        return self._coupling.product(*(reversed(axes) if self._broken.hits("product") else axes))

    def concat(self, *axes: Axis) -> Axis:
        return self._coupling.concat(*(reversed(axes) if self._broken.hits("concat") else axes))


class Broken(Step):
    """A step that goes wrong at one action."""

    def __init__(self, step: Step, kind: str, at: int) -> None:
        self.__dict__.update(step.__dict__)
        self._kind, self._left = kind, at
        self.coupling = Twisted(step.coupling, self)

    def hits(self, kind: str) -> bool:
        """Whether this is the action that goes wrong."""
        self._left -= kind == self._kind
        return kind == self._kind and self._left == -1

    def couple(self, left: Axis, right: Axis) -> None:
        if not self.hits("couple"):
            super().couple(left, right)

    def consume(self, *axes: Axis) -> None:
        if not self.hits("consume"):
            super().consume(*axes)

    def cross(self, axis: Axis, why: str) -> None:
        if not self.hits("cross"):
            super().cross(axis, why)

    def freeze(self, axis: Axis, why: str) -> None:
        if not self.hits("freeze"):
            super().freeze(axis, why)

    def emit(self, *made: tuple[Axis, ...]) -> None:
        super().emit(*self._changed(made))

    def emit_moved(self, *made: tuple[Axis, ...]) -> None:
        super().emit_moved(*self._changed(made))

    def _changed(self, made: tuple[tuple[Axis, ...], ...]) -> list[tuple[Axis, ...]]:
        changed = []
        for axes in made:
            new = list(axes)
            for dim, axis in enumerate(axes):
                if self.hits("renew"):
                    new[dim] = self.coupling.atom(self.coupling.size(axis))
                same = [one for one in range(dim) if self.coupling.size(axes[one]) == self.coupling.size(axis)]
                if same and self.hits("swap"):
                    new[dim], new[same[0]] = new[same[0]], new[dim]
            changed.append(tuple(new))
        return changed


KINDS = ("couple", "consume", "cross", "freeze", "product", "concat", "renew", "swap")


def errors() -> list[tuple[Subject, Any, str, int]]:
    """Every (network, operation, kind of error, place) at which a rule acts, in a seeded order."""
    found = []
    for subject in SUBJECTS:
        trace = record(lively(subject.build()), subject.batch)
        for packet in sorted({call.op.overloadpacket for call in trace.calls}, key=str):
            for kind in KINDS:
                acts = [0]

                def counting(step: Step, packet: Any = packet, kind: str = kind, acts: list[int] = acts) -> None:
                    broken = Broken(step, kind, -2)
                    honest(packet)(broken)
                    acts.append(-2 - broken._left)

                analyze(trace, RULES | {packet: counting})
                found += [(subject, packet, kind, at) for at in range(max(acts))]
    random.Random(0).shuffle(found)
    return found


def honest(packet: Any) -> Callable[[Step], None]:
    return RULES.get(packet, RULES[torch.ops.aten.add])


def broken_rules(packet: Any, kind: str, at: int) -> dict[Any, Any]:
    return RULES | {packet: lambda step: honest(packet)(Broken(step, kind, at))}


def is_exact(net: nn.Module, structure: Structure, batch: Tensor) -> bool:
    """Whether every group may really go: other units than the certificate took, one group after the other."""
    for group in structure.free:
        kept = range(1, group.units)
        try:
            small, edits = cut(net, structure, {group.name: kept})
            if distance(outputs(small, batch), floats(surviving(net, edits, batch))) > EXACT:
                return False
        except Exception:  # noqa: BLE001  a wrong structure may break anything
            return False
    return True


def drawn(trace: Trace, rules: dict[Any, Any]) -> list[tuple[object, ...]]:
    """What the rules alone say, before any rehearsal or proof."""
    structure, _ = describe(trace, analyze(trace, rules))
    return [(one.slices, one.attributes, one.crossed is None, one.frozen is None) for one in structure.groups]


def wrong_ones() -> Iterator[tuple[str, bool]]:
    """Errors that make a structure wrong, each with whether it was caught."""
    known: dict[str, tuple[nn.Module, Trace, Any, set[tuple[object, ...]]]] = {}
    for subject, packet, kind, at in errors():
        if subject.name not in known:
            net = lively(subject.build())
            trace, right = record(net, subject.batch), claims(certify(net, probe(net, subject.batch), subject.batch))
            known[subject.name] = net, trace, drawn(trace, RULES), right
        net, trace, plain, right = known[subject.name]
        name, rules = f"{subject.name}: {packet} {kind} {at}", broken_rules(packet, kind, at)
        try:
            if drawn(trace, rules) == plain:
                continue
            found = probe(net, subject.batch, rules=rules)
        except Exception:  # noqa: BLE001  an error that stops the analysis is caught
            yield name, True
            continue
        if claims(found) <= right:
            continue
        certified = certify(net, found, subject.batch)
        exact = is_exact(net.double(), certified, subject.batch.double())
        net.float()
        if claims(certified) == claims(found) and exact:
            continue
        yield name, claims(certified) <= right or exact


@pytest.mark.nightly
def test_fifty_errors_in_the_table_of_rules_are_caught():
    found = [one for one, _ in zip(wrong_ones(), range(ERRORS), strict=False)]
    assert len(found) == ERRORS
    assert [name for name, caught in found if not caught] == []
