"""How well a network does, with the uncertainty of every figure; how far two sets of images lie apart."""

from reverie.metrics.classify import PairedDifference, Share, accuracy, agreement, paired_difference, share
from reverie.metrics.distribution import frechet_distance, inception_score, kernel_distance
from reverie.metrics.diversity import coverage, relative_diversity, within_class_diversity
from reverie.metrics.evaluate import Evaluation, evaluate, predict
from reverie.metrics.feature_space import features, layer_features
from reverie.metrics.repeats import duplicates, repeated
from reverie.metrics.stored_moments import MomentFit, moment_fit

__all__ = [
    "Evaluation",
    "MomentFit",
    "PairedDifference",
    "Share",
    "accuracy",
    "agreement",
    "coverage",
    "duplicates",
    "evaluate",
    "features",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "layer_features",
    "moment_fit",
    "paired_difference",
    "predict",
    "relative_diversity",
    "repeated",
    "share",
    "within_class_diversity",
]
