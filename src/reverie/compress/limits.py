"""Budgets of one network: a study solved until the plan, counted and measured as it is, meets them.

What for: a study adds up what layers cost, which is not the last word: three widths may decide what one layer costs,
and a runtime schedules whole networks. `compress` and `prune` both meet their budgets in this one way.

Cost: the plan's network built and counted, a tenth of a second, mostly once; for latency see `meet_latency`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from reverie.compress.hand_over import count_network
from reverie.compress.latency_budget import MARGIN, TOLERANCE, Met, meet_latency
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.study import Solution, Study
from reverie.core.budget import Budget, Quantity
from reverie.core.errors import BudgetInfeasible
from reverie.core.events import Listener, silent
from reverie.core.network import ImageNetwork
from reverie.cost.backend import Backend, Servable
from reverie.cost.count import Count
from reverie.cost.latency import measure_networks
from reverie.cost.onnx import export_onnx
from reverie.cost.timing import Timing
from reverie.graph.structure import Structure

__all__ = ["UNITS", "Limits", "limits_of"]

UNITS = {"latency": "ms", "macs": "MAC", "size": "byte"}


@dataclass(frozen=True, eq=False)
class Limits:
    """What may be spent of a network.

    Attributes:
        network: Untouched.
        structure: Of `network.body`.
        budgets: Quantity -> its upper limit.
        whole: Quantity -> what the network has, in milliseconds, bytes or multiply-adds.
        backend: Where latency is measured.
        served: The network as the backend takes it; empty where latency has no budget.
    """

    network: ImageNetwork
    structure: Structure
    budgets: Mapping[Quantity, Budget]
    whole: Mapping[Quantity, float]
    backend: Backend
    served: Servable

    @property
    def shares(self) -> dict[str, float]:
        """Quantity -> its upper limit as a share of what the network has."""
        return {one: budget.limit(self.whole[one]) / self.whole[one] for one, budget in self.budgets.items()}

    def meet(self, study: Study, *, margin: float = MARGIN, on_event: Listener = silent) -> tuple[Solution, Met | None]:
        """The plan of least loss within the budgets, and how its latency was met where that has one.

        Args:
            study: Of this network, with a column for each budget.
            margin: As for `meet_latency`.
            on_event: As for `meet_latency`.

        Raises:
            BudgetInfeasible: No plan is within the budgets; says the cheapest, in the unit of the budget.
        """
        try:
            if "latency" not in self.budgets:
                return study.solve(self.shares, counted=self._counted), None
            counted = self._counted if len(self.budgets) > 1 else None
            met = meet_latency(study, self.shares, self._timed, counted=counted, margin=margin, on_event=on_event)
        except BudgetInfeasible as infeasible:
            raise self._unreachable(infeasible) from infeasible
        return met.solution, met

    def _counted(self, plan: Plan) -> dict[str, float]:
        """Budgets that need no clock -> the share of the network's that a plan leaves."""
        left = _whole(count_network(apply_plan(self.network, self.structure, plan)[0]))
        return {one: value / self.whole[one] for one, value in left.items() if one in self.budgets}

    def _timed(self, plan: Plan) -> Timing:
        candidate, _ = apply_plan(self.network, self.structure, plan)
        models = {"teacher": self.served, "candidate": _served(candidate, self.backend)}
        shape = self.network.image_shape
        return measure_networks(models, shape, backend=self.backend, tolerance=TOLERANCE)["candidate"]

    def _unreachable(self, infeasible: BudgetInfeasible) -> BudgetInfeasible:
        """The error in the words of who asked for the budget."""
        quantity = next(one for one in self.budgets if one == infeasible.budget)
        whole = self.whole[quantity]
        cheapest = infeasible.cheapest * whole
        budget = self.budgets[quantity]
        words = (
            f"cannot reach a latency of {budget}: the cheapest network that this one can be cut to measures "
            f"{infeasible.cheapest:.1%} of the given network's {whole:.3g} ms, which is {cheapest:.3g} ms."
            if quantity == "latency"
            else f"cannot reach a budget of {budget} for {quantity}: the cheapest network that this one can be cut to "
            f"has {cheapest:.4g} of the given network's {whole:.4g}, which is {infeasible.cheapest:.1%}."
        )
        return BudgetInfeasible(f"{words} Raise the budget.", cheapest=cheapest, budget=quantity)


def limits_of(
    network: ImageNetwork,
    structure: Structure,
    budgets: Mapping[Quantity, Budget],
    counted: Count,
    backend: Backend,
    *,
    onnx: bytes | None = None,
) -> Limits:
    """Time the network alone where latency has a budget.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        budgets: Quantity -> its upper limit.
        counted: What the network has of all but time.
        backend: Where latency is measured.
        onnx: The network's ONNX file, where the backend reads one and it is there already.
    """
    whole = _whole(counted)
    if "latency" not in budgets:
        return Limits(network, structure, budgets, whole, backend, b"")
    teacher = onnx or _served(network, backend)
    alone = measure_networks({"teacher": teacher}, network.image_shape, backend=backend)["teacher"].median_ms
    return Limits(network, structure, budgets, {**whole, "latency": alone}, backend, teacher)


def _whole(counted: Count) -> dict[Quantity, float]:
    return {"size": float(counted.size_bytes), "macs": float(counted.macs)}


def _served(network: ImageNetwork, backend: Backend) -> Servable:
    return network if backend.name in ("torch", "torch-compile", "cuda") else export_onnx(network)
