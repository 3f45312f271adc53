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

    Example:
        >>> Measured(2.4, low=2.3, high=2.6, relative=0.6).relative
        0.6
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

    Example:
        >>> row = Row("size", "byte", "counted", Measured(4e6), Measured(1e6, relative=0.25), control=None)
        >>> row.compressed.relative
        0.25
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

    Example:
        >>> decided = Decision("layer1.0.conv1", units=16, kept=8, loss=0.02, loss_error=0.001)
        >>> decided.kept / decided.units
        0.5
    """

    site: str
    units: int
    kept: int
    loss: float
    loss_error: float


@dataclass(frozen=True)
class Attempted:
    """One turn of the closed loop: latencies as shares of the teacher's.

    Example:
        >>> Attempted(predicted=0.58, measured=0.61).measured
        0.61
    """

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

    Example:
        >>> from torch import nn
        >>> from reverie.compress.sites import Problem
        >>> from reverie.core.source import noise_source
        >>> network = ImageNetwork(nn.Flatten(), image_shape=(1, 2, 2))
        >>> source = noise_source(count=1, image_shape=(1, 2, 2), seed=0)
        >>> row = Row("size", "byte", "counted", Measured(4e6), Measured(1e6, relative=0.25), control=None)
        >>> study = Study(Problem((), (), {}, {}), {}, {}, {})
        >>> found = Compressed(network, Plan(), Record(), (row,), (), (), source, b"", study, (), {"dreaming": 1.0})
        >>> found.figures()["rows"][0]["compressed"]["relative"]
        0.25
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
