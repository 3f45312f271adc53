"""Teach: a student answers as its teacher does, on any source of images."""

from reverie.distill.batchnorm import reestimate_batch_norm
from reverie.distill.blocks import Candidate, TaughtBlock, distill_blocks
from reverie.distill.feature_losses import (
    angle_loss,
    attention_loss,
    contrastive_loss,
    distance_loss,
    feature_loss,
    similarity_loss,
)
from reverie.distill.loop import Distilled, distill
from reverie.distill.losses import correlation_loss, decoupled_loss, soft_label_loss, standardized_loss
from reverie.distill.matches import Match, same_layers, stage_matches
from reverie.distill.orders import Draw, balanced_curriculum, shuffled
from reverie.distill.run import Milestone
from reverie.distill.schedules import cosine, flat, linear
from reverie.distill.subclone import Subcloned, subclone
from reverie.distill.teachers import Averaged
from reverie.distill.views import Views

__all__ = [
    "Averaged",
    "Candidate",
    "Distilled",
    "Draw",
    "Match",
    "Milestone",
    "Subcloned",
    "TaughtBlock",
    "Views",
    "angle_loss",
    "attention_loss",
    "balanced_curriculum",
    "contrastive_loss",
    "correlation_loss",
    "cosine",
    "decoupled_loss",
    "distance_loss",
    "distill",
    "distill_blocks",
    "feature_loss",
    "flat",
    "linear",
    "reestimate_batch_norm",
    "same_layers",
    "shuffled",
    "similarity_loss",
    "soft_label_loss",
    "stage_matches",
    "standardized_loss",
    "subclone",
]
