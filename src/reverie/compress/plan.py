"""What was decided, site by site: the only thing that strategies exchange."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reverie.core.edit import Record
from reverie.core.network import ImageNetwork
from reverie.graph import bypass, cut
from reverie.graph.structure import Structure

__all__ = ["Plan", "apply_plan"]


@dataclass(frozen=True)
class Plan:
    """The units each group keeps and the blocks that are bypassed; the empty plan changes nothing.

    Attributes:
        kept: Group name -> indices of the units kept, ascending. A group that is not named stays whole.
        bypassed: Qualified names of modules that become the identity.

    Example:
        >>> plan = Plan({"conv1": (0, 2, 5)}, bypassed=("layer2.1",))
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return int(self.digest()[:15], 16)

    def digest(self) -> str:
        """SHA-256 of the plan's JSON, in hex."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back."""
        return {"kept": {name: list(units) for name, units in self.kept.items()}, "bypassed": list(self.bypassed)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote.

        Example:
            >>> plan = Plan({"conv1": (0, 2)}, ("layer1.1",))
            >>> Plan.from_json(plan.to_json()) == plan
            True
        """
        kept = {name: tuple(int(unit) for unit in units) for name, units in value["kept"].items()}
        return Plan(kept, tuple(value["bypassed"]))


def apply_plan(network: ImageNetwork, structure: Structure, plan: Plan) -> tuple[ImageNetwork, Record]:
    """Cut and bypass what a plan says, in a copy; the record replays it on `network.body`."""
    body, kept = cut(network.body, structure, plan.kept)
    body, bypassed = bypass(body, structure, plan.bypassed)
    return network.with_body(body), kept + bypassed
