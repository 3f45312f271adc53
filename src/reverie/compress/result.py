"""What compression hands over, and the one form of every figure in it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reverie.compress.plan import Plan
from reverie.compress.study import Study
from reverie.core.edit import Record
from reverie.core.network import ImageNetwork
from reverie.core.source import Source

__all__ = ["Attempted", "Compressed", "Decision", "Measured", "Row"]

Unit = Literal["ms", "byte", "MAC", "share"]


@dataclass(frozen=True)
class Measured:
    """A figure with its spread.

    Attributes:
        value: In the unit of its row.
        low, high: The 95 % interval of a share, or the 10th and 90th percentile of a latency; None where the figure
            is counted and has no spread.
        relative: The figure as a share of the teacher's, where that says something; None elsewhere. A latency's is
            the median of ratios taken round by round, not the ratio of medians.
    """

    value: float
    low: float | None = None
    high: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the closing table: the same figure of three networks.

    Attributes:
        quantity: What it is, in a reader's words.
        unit: Of all three figures.
        how: How they were obtained.
        teacher: The network that was given.
        compressed: The network that is handed over.
        control: The network that the same pipeline made from Gaussian noise in place of dreams.
    """

    quantity: str
    unit: Unit
    how: str
    teacher: Measured
    compressed: Measured
    control: Measured | None

    @staticmethod
    def of(quantity: str, unit: Unit, how: str, figures: Mapping[str, Measured]) -> "Row":
        """A row from figures named "teacher", "compressed" and, where there is one, "control"."""
        return Row(quantity, unit, how, figures["teacher"], figures["compressed"], figures.get("control"))


@dataclass(frozen=True)
class Decision:
    """What was decided at one site.

    Attributes:
        site: Name of the group of coupled units.
        units: Units in the teacher.
        kept: Units left; 0 where the block around them is bypassed.
        loss: Evidence: what this choice alone does to the teacher's outputs, in nats of Kullback-Leibler divergence.
        loss_error: Standard error of `loss` over images.
    """

    site: str
    units: int
    kept: int
    loss: float
    loss_error: float


@dataclass(frozen=True)
class Attempted:
    """One turn of the closed loop: latencies as shares of the teacher's."""

    predicted: float
    measured: float


@dataclass(frozen=True)
class Compressed:
    """A smaller network, and everything that is known about it.

    Attributes:
        network: The compressed network; images in [0, 1] as before.
        plan: What each site keeps.
        record: The edit, ready to replay on the architecture it began with.
        rows: The closing table.
        decisions: The plan, site by site, with its evidence.
        attempts: The closed loop, turn by turn.
        source: What the network was measured and taught with: dreams, unless data was given.
        onnx: The network for ONNX Runtime, checked against PyTorch.
        study: Everything that the plan was chosen from; other budgets are solved from it, see `Study.solve`.
        notes: Sentences a reader should know, such as the difference in accuracy with its interval.
        seconds: Time spent, by stage; a stage that was read from the run folder counts what it took then.
    """

    network: ImageNetwork
    plan: Plan
    record: Record
    rows: tuple[Row, ...]
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempted, ...]
    source: Source
    onnx: bytes
    study: Study
    notes: tuple[str, ...]
    seconds: Mapping[str, float]

    def figures(self) -> dict[str, Any]:
        """The table, the plan, the loop and the times as one JSON value."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "decisions": [asdict(decision) for decision in self.decisions],
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "bypassed": list(self.plan.bypassed),
            "notes": list(self.notes),
            "seconds": {stage: round(value, 2) for stage, value in self.seconds.items()},
        }
