"""The networks that every method is tried on: 40 architectures of timm and 22 other kinds."""

from reverie.bench.kinds.others import OTHERS
from reverie.bench.kinds.subject import Input, Subject
from reverie.bench.kinds.timm_list import SPEED, TIMM
from reverie.bench.kinds.timm_modules import TIMM_MODULES

__all__ = ["OTHERS", "SPEED", "TIMM", "TIMM_MODULES", "Input", "Subject"]
