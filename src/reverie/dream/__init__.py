"""See: images of what a network learned, by one optimization loop over canvases, views and terms."""

from reverie.dream.adaptive import Adapted, Round, Teach, adaptive_dreams
from reverie.dream.bank import Bank, teacher_sha256
from reverie.dream.calibrate import calibrate_statistics, choose_statistics
from reverie.dream.canvas import Canvas, PixelCanvas, RandomAffine, ShiftAndFlip
from reverie.dream.crops import CurriculumCrop, RandomCrop
from reverie.dream.disagreement import disagreement_term, jensen_shannon, masked_disagreement_term
from reverie.dream.distilled import SoftLabels, distill_dataset, soft_labels
from reverie.dream.dream import balanced_targets, default_augment, default_term, dream, prior_term
from reverie.dream.export import export_folder, export_webdataset
from reverie.dream.fourier import FourierCanvas
from reverie.dream.generator import generate
from reverie.dream.heads import Head, dense_map, embedding, multi_label, single_label
from reverie.dream.inverter import Inverter, train_inverter
from reverie.dream.layer_statistics import (
    BatchNormStatistics,
    NoStatistics,
    Statistics,
    StatisticsSource,
    capture_statistics,
)
from reverie.dream.leaves import leaves_source
from reverie.dream.loop import Optimized, optimize
from reverie.dream.network_canvas import CodesCanvas, NetworkCanvas, recover_codes
from reverie.dream.patches import attention_layers, patch_similarity_term
from reverie.dream.pool import join_banks, replay
from reverie.dream.published import PublishedWeights, published_term
from reverie.dream.running import running_statistics_term
from reverie.dream.statistics import BatchNormWithMoments, Moments, moments
from reverie.dream.terms import Part, Term, View, class_term, norm_term, statistics_term, total_variation_term

__all__ = [
    "Adapted",
    "Bank",
    "BatchNormStatistics",
    "BatchNormWithMoments",
    "Canvas",
    "CodesCanvas",
    "CurriculumCrop",
    "FourierCanvas",
    "Head",
    "Inverter",
    "Moments",
    "NetworkCanvas",
    "NoStatistics",
    "Optimized",
    "Part",
    "PixelCanvas",
    "PublishedWeights",
    "RandomAffine",
    "RandomCrop",
    "Round",
    "ShiftAndFlip",
    "SoftLabels",
    "Statistics",
    "StatisticsSource",
    "Teach",
    "Term",
    "View",
    "adaptive_dreams",
    "attention_layers",
    "balanced_targets",
    "calibrate_statistics",
    "capture_statistics",
    "choose_statistics",
    "class_term",
    "default_augment",
    "default_term",
    "dense_map",
    "disagreement_term",
    "distill_dataset",
    "dream",
    "embedding",
    "export_folder",
    "export_webdataset",
    "generate",
    "jensen_shannon",
    "join_banks",
    "leaves_source",
    "masked_disagreement_term",
    "moments",
    "multi_label",
    "norm_term",
    "optimize",
    "patch_similarity_term",
    "prior_term",
    "published_term",
    "recover_codes",
    "replay",
    "running_statistics_term",
    "single_label",
    "soft_labels",
    "statistics_term",
    "teacher_sha256",
    "total_variation_term",
    "train_inverter",
]
