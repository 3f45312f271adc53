"""What was decided, site by site: the only thing that strategies exchange."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reverie.compress.kinds import parted
from reverie.core.edit import Record, replay
from reverie.core.network import ImageNetwork
from reverie.graph import bypass, cut
from reverie.graph.structure import Structure

__all__ = ["Plan", "apply_plan"]


@dataclass(frozen=True)
class Plan:
    """The units each group keeps, the blocks that are bypassed, and what else is done; the empty plan changes nothing.

    Attributes:
        kept: Group name -> indices of the units kept, ascending. A group that is not named stays whole.
        bypassed: Qualified names of modules that become the identity.
        levels: Site of another kind -> the number chosen there, such as `{"rank of conv1": 16}`; see `kinds`.

    Example:
        >>> plan = Plan({"conv1": (0, 2, 5)}, bypassed=("layer2.1",))
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()
    levels: Mapping[str, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        return int(self.digest()[:15], 16)

    def digest(self) -> str:
        """SHA-256 of the plan's JSON, in hex."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back."""
        kept = {name: list(units) for name, units in self.kept.items()}
        stored: dict[str, Any] = {"kept": kept, "bypassed": list(self.bypassed)}
        return {**stored, "levels": dict(self.levels)} if self.levels else stored

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote.

        Example:
            >>> plan = Plan({"conv1": (0, 2)}, ("layer1.1",))
            >>> Plan.from_json(plan.to_json()) == plan
            True
        """
        kept = {name: tuple(int(unit) for unit in units) for name, units in value["kept"].items()}
        levels = {str(site): int(level) for site, level in value.get("levels", {}).items()}
        return Plan(kept, tuple(value["bypassed"]), levels)


def apply_plan(network: ImageNetwork, structure: Structure, plan: Plan) -> tuple[ImageNetwork, Record]:
    """Do what a plan says, in a copy; the record replays it on `network.body`.

    Raises:
        ReferenceNotFound: The plan names a group, block, layer or kind of option that there is not.
        RangeError: A group cannot keep these units.
    """
    body, kept = cut(network.body, structure, plan.kept)
    body, bypassed = bypass(body, structure, plan.bypassed)
    record = kept + bypassed
    for site, level in plan.levels.items():
        kind, layer = parted(site)
        edit = kind.edit(body, layer, level)
        if edit is not None:
            change = Record((edit,))
            body, record = replay(change, body), record + change
    return network.with_body(body), record
