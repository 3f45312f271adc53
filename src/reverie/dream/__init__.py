"""See: images of what a network learned, by one optimization loop over canvases, views and terms."""

from reverie.dream.bank import Bank
from reverie.dream.canvas import Canvas, PixelCanvas, ShiftAndFlip
from reverie.dream.dream import balanced_targets, default_term, dream
from reverie.dream.loop import Optimized, choose_precision, optimize
from reverie.dream.statistics import BatchNormWithMoments, Moments, moments
from reverie.dream.terms import Part, Term, View, class_term, norm_term, statistics_term, total_variation_term

__all__ = [
    "Bank",
    "BatchNormWithMoments",
    "Canvas",
    "Moments",
    "Optimized",
    "Part",
    "PixelCanvas",
    "ShiftAndFlip",
    "Term",
    "View",
    "balanced_targets",
    "choose_precision",
    "class_term",
    "default_term",
    "dream",
    "moments",
    "norm_term",
    "optimize",
    "statistics_term",
    "total_variation_term",
]
