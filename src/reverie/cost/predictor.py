"""The latency of a whole network from the times of its layers, as a share of the teacher's.

What for: the sum of isolated layers is not the time of a network: pooling and normalization are in no layer, and inside
a network a layer finds its input where the layer before left it. Both grow with the network, so a scale takes most of
it away: the teacher itself is one point of that scale, and networks that were measured are more.

Cost: none beside the measurements that it is given.

Reference: Molchanov et al., 2021, arXiv:2107.10624, for tables that add up. Differs: shares of the teacher's latency,
so the machine's load cancels, and a correction by what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.core.errors import RangeError

__all__ = ["Predictor", "fit_predictor"]

# With fewer networks a line is worse than a scale through the teacher.
ENOUGH_FOR_A_LINE = 20


@dataclass(frozen=True)
class Predictor:
    """Share of the teacher's latency = constant + scale * (sum of a network's layers / sum of the teacher's).

    Attributes:
        constant: What does not shrink, as a share of the teacher's latency, at least 0.
        scale: The rest; `constant + scale` is 1 where only the teacher is known.
        measured: Networks that it was fitted to, the teacher not counted.
    """

    constant: float
    scale: float
    measured: int

    def share(self, summed: float) -> float:
        """The share predicted for a sum of layers, as a share of the teacher's sum."""
        return self.constant + self.scale * summed

    def limit(self, share: float) -> float:
        """The sum of layers, as a share of the teacher's, that is predicted to take a share of its latency."""
        return (share - self.constant) / self.scale


def fit_predictor(points: Sequence[tuple[float, float]], *, overhead: float = 0.0) -> Predictor:
    """Fit to networks that were measured.

    Up to 19 networks bend the line through the teacher, which is the point (1, 1), at its constant: the constant is the
    weighted mean of what each network asks for and of `overhead`, which counts as one network. From 20 on, constant and
    scale are fitted by least squares of relative errors.

    Args:
        points: (sum of layers as a share of the teacher's, measured share of its latency), each above 0.
        overhead: Share of the teacher's latency that a call costs which computes nothing, in [0, 1).

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> fit_predictor([]).share(0.6)
        0.6
        >>> fit_predictor([], overhead=0.1).share(0.5)
        0.55
    """
    if not 0 <= overhead < 1 or any(not (summed > 0 and share > 0) for summed, share in points):
        raise RangeError(f"sums and shares must be above 0 and the overhead in [0, 1), got {points} and {overhead}")
    if len(points) >= ENOUGH_FOR_A_LINE:
        summed, share = np.array(points).T
        rows = np.stack([1 / share, summed / share], axis=1)
        constant, scale = np.linalg.lstsq(rows, np.ones(len(share)), rcond=None)[0]
        if constant >= 0 and scale > 0:
            return Predictor(float(constant), float(scale), len(points))
    # A network of sum s and share r lies on the line through the teacher whose constant is (r - s) / (1 - s); the more
    # a network differs from the teacher, the better it tells.
    weighted = [((share - summed) * (1 - summed), (1 - summed) ** 2) for summed, share in points]
    spread = 0.25
    constant = (overhead * spread + sum(a for a, _ in weighted)) / (spread + sum(b for _, b in weighted))
    constant = min(max(constant, 0.0), 0.95)
    return Predictor(constant, 1 - constant, len(points))
