"""Teach: a student answers as its teacher does, on any source of images."""

from reverie.distill.batchnorm import reestimate_batch_norm
from reverie.distill.loop import Distilled, Milestone, distill
from reverie.distill.losses import feature_loss, soft_label_loss
from reverie.distill.views import Views

__all__ = ["Distilled", "Milestone", "Views", "distill", "feature_loss", "reestimate_batch_norm", "soft_label_loss"]
