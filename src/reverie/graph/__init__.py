"""What a network is made of: probe it, certify what was found, cut it."""

from reverie.graph import aten as aten
from reverie.graph import moves as moves
from reverie.graph import recurrent as recurrent
from reverie.graph import sampling as sampling
from reverie.graph.carry import cut_optimizer, fold_constants
from reverie.graph.certify import certify, permute
from reverie.graph.cut import bypass, cut
from reverie.graph.mask import masked
from reverie.graph.oracle import surviving
from reverie.graph.probe import probe
from reverie.graph.rules import RULES, Step, register_rule
from reverie.graph.structure import Branch, Group, Layer, Slice, Structure, Width
from reverie.graph.trace import Trace, record

__all__ = [
    "RULES",
    "Branch",
    "Group",
    "Layer",
    "Slice",
    "Step",
    "Structure",
    "Trace",
    "Width",
    "bypass",
    "certify",
    "cut",
    "cut_optimizer",
    "fold_constants",
    "masked",
    "permute",
    "probe",
    "record",
    "register_rule",
    "surviving",
]
