"""How well a network does, with the uncertainty of every figure."""

from reverie.metrics.classify import PairedDifference, Share, accuracy, agreement, paired_difference, share
from reverie.metrics.duplicates import duplicates
from reverie.metrics.evaluate import Evaluation, evaluate, predict

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
    "share",
]
