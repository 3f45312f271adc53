"""From a classifier to a detector: boxes, scenes, a small detector, and what a classifier can teach it."""

from reverie.distill.detector.boxes import anchors, assign, decode, encode, suppress
from reverie.distill.detector.crop import crop
from reverie.distill.detector.losses import Assigned, assign_batch, box_loss, class_loss, detection_loss
from reverie.distill.detector.network import SmallDetector
from reverie.distill.detector.scenes import Scenes, make_scenes
from reverie.distill.detector.teach import ClassifierLessons, detector_precision, teach_detector

__all__ = [
    "Assigned",
    "ClassifierLessons",
    "Scenes",
    "SmallDetector",
    "anchors",
    "assign",
    "assign_batch",
    "box_loss",
    "class_loss",
    "crop",
    "decode",
    "detection_loss",
    "detector_precision",
    "encode",
    "make_scenes",
    "suppress",
    "teach_detector",
]
