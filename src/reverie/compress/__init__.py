"""Choose: what may go, what that costs and loses, one exact allocation, and the whole way from network to network."""

from reverie.compress.allocator import Allocation, Option, PairCost, Site, allocate
from reverie.compress.compress import compress
from reverie.compress.plan import Plan
from reverie.compress.result import Attempted, Compressed, Decision, Measured, Row

__all__ = [
    "Allocation",
    "Attempted",
    "Compressed",
    "Decision",
    "Measured",
    "Option",
    "PairCost",
    "Plan",
    "Row",
    "Site",
    "allocate",
    "compress",
]
