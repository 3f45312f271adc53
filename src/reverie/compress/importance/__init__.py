"""Which units matter: kinds of evidence about single units, all with a standard error, none in need of labels.

Every kind is a function of a network, its structure and a source that returns group -> `Scored`; higher means keep.
"""

from reverie.compress.importance.gates import Gates
from reverie.compress.importance.gradients import gate_scores, parameter_scores, second_order_scores
from reverie.compress.importance.magnitude import magnitude_scores
from reverie.compress.importance.oracle import oracle_changes
from reverie.compress.importance.products import Score, fisher_score, gate_score, normalization_score, weight_score
from reverie.compress.importance.reconstruction import reconstruction_scores
from reverie.compress.importance.scored import Scored
from reverie.compress.importance.tangent import tangent_changes

__all__ = [
    "Gates",
    "Score",
    "Scored",
    "fisher_score",
    "gate_score",
    "gate_scores",
    "magnitude_scores",
    "normalization_score",
    "oracle_changes",
    "parameter_scores",
    "reconstruction_scores",
    "second_order_scores",
    "tangent_changes",
    "weight_score",
]
