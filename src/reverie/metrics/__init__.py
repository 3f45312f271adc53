"""How well a network does, with the uncertainty of every figure."""

from reverie.metrics.classify import PairedDifference, Share, accuracy, agreement, paired_difference, share
from reverie.metrics.evaluate import Evaluation, evaluate, predict
from reverie.metrics.repeats import duplicates, repeated

__all__ = [
    "Evaluation",
    "PairedDifference",
    "Share",
    "accuracy",
    "agreement",
    "duplicates",
    "evaluate",
    "paired_difference",
    "predict",
    "repeated",
    "share",
]
