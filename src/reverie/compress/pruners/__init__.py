"""Pruning while a network trains: callbacks for the user's own loop, one per published method.

A pruner is told after every backward pass and after every optimizer step. It keeps its own count of steps, silences
units in place, and says at the end what is left as a `Plan`, which `reverie.graph.cut` makes small.
"""

from reverie.compress.baselines import exponential_targets
from reverie.compress.pruners.epi import EarlyPruning, kept_counts, similarity
from reverie.compress.pruners.halp import HalpPruner
from reverie.compress.pruners.nvit import NVitPruner, Redistributed, redistribution
from reverie.compress.pruners.pruner import Pruner
from reverie.compress.pruners.silenced import Silenced
from reverie.compress.pruners.taylor import TaylorPruner

__all__ = [
    "EarlyPruning",
    "HalpPruner",
    "NVitPruner",
    "Pruner",
    "Redistributed",
    "Silenced",
    "TaylorPruner",
    "exponential_targets",
    "kept_counts",
    "redistribution",
    "similarity",
]
