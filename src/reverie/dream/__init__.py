"""See: images of what a network learned, by one optimization loop over canvases, views and terms."""

from reverie.core.augment import RandomAffine, ShiftAndFlip
from reverie.dream.adaptive import Adapted, Round, Teach, adaptive_dreams
from reverie.dream.answering import answering
from reverie.dream.bank import Bank
from reverie.dream.calibrate import calibrate_statistics, choose_statistics
from reverie.dream.canvas import Canvas, PixelCanvas
from reverie.dream.crops import CurriculumCrop, RandomCrop
from reverie.dream.disagreement import disagreement_term, jensen_shannon, masked_disagreement_term
from reverie.dream.distilled import SoftLabels, distill_dataset, soft_labels
from reverie.dream.dream import dream
from reverie.dream.export import export_folder, export_webdataset
from reverie.dream.fourier import FourierCanvas
from reverie.dream.generator import generate, load_generator
from reverie.dream.heads import Head, dense_map, embedding, multi_label, single_label
from reverie.dream.inverter import Inverter, refine_inversion, train_inverter
from reverie.dream.layer_statistics import (
    BatchNormStatistics,
    NoStatistics,
    Statistics,
    StatisticsSource,
    capture_statistics,
)
from reverie.dream.leaves import leaves_source
from reverie.dream.loop import Optimized, optimize
from reverie.dream.network_canvas import CodesCanvas, NetworkCanvas, deep_image_prior, recover_codes
from reverie.dream.patches import attention_layers, patch_similarity_term
from reverie.dream.pool import join_banks, replay
from reverie.dream.published import PublishedWeights, published_term
from reverie.dream.recipe import (
    Recipe,
    default_augment,
    default_term,
    prior_term,
    published_recipe,
    usual_learning_rate,
    white_noise,
)
from reverie.dream.running import running_statistics_term
from reverie.dream.stages import MakeCanvas, Stage, finishing_stages, halving_stages, optimize_stages
from reverie.dream.statistics import BatchNormWithMoments, Moments, moments
from reverie.dream.targets import balanced_targets, random_targets
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
    "MakeCanvas",
    "Moments",
    "NetworkCanvas",
    "NoStatistics",
    "Optimized",
    "Part",
    "PixelCanvas",
    "PublishedWeights",
    "RandomAffine",
    "RandomCrop",
    "Recipe",
    "Round",
    "ShiftAndFlip",
    "SoftLabels",
    "Stage",
    "Statistics",
    "StatisticsSource",
    "Teach",
    "Term",
    "View",
    "adaptive_dreams",
    "answering",
    "attention_layers",
    "balanced_targets",
    "calibrate_statistics",
    "capture_statistics",
    "choose_statistics",
    "class_term",
    "deep_image_prior",
    "default_augment",
    "default_term",
    "dense_map",
    "disagreement_term",
    "distill_dataset",
    "dream",
    "embedding",
    "export_folder",
    "export_webdataset",
    "finishing_stages",
    "generate",
    "halving_stages",
    "jensen_shannon",
    "join_banks",
    "leaves_source",
    "load_generator",
    "masked_disagreement_term",
    "moments",
    "multi_label",
    "norm_term",
    "optimize",
    "optimize_stages",
    "patch_similarity_term",
    "prior_term",
    "published_recipe",
    "published_term",
    "random_targets",
    "recover_codes",
    "refine_inversion",
    "replay",
    "running_statistics_term",
    "single_label",
    "soft_labels",
    "statistics_term",
    "total_variation_term",
    "train_inverter",
    "usual_learning_rate",
    "white_noise",
]
