"""Teach: a student answers as its teacher does, on any source of images."""

from reverie.distill.batchnorm import reestimate_batch_norm
from reverie.distill.feature_losses import (
    angle_loss,
    attention_loss,
    contrastive_loss,
    distance_loss,
    feature_loss,
    similarity_loss,
)
from reverie.distill.loop import Distilled, Milestone, distill
from reverie.distill.losses import correlation_loss, decoupled_loss, soft_label_loss, standardized_loss
from reverie.distill.teachers import Averaged
from reverie.distill.views import Views

__all__ = [
    "Averaged",
    "Distilled",
    "Milestone",
    "Views",
    "angle_loss",
    "attention_loss",
    "contrastive_loss",
    "correlation_loss",
    "decoupled_loss",
    "distance_loss",
    "distill",
    "feature_loss",
    "reestimate_batch_norm",
    "similarity_loss",
    "soft_label_loss",
    "standardized_loss",
]
