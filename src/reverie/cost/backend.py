"""Runtimes that serve networks, behind one small protocol: what can be timed in one can be timed in all.

What for: a network that is fast in one runtime need not be fast in another, so latency is measured in the one that
will serve it. A backend knows how to make a call without arguments out of a network, or out of some copies of one
layer; everything else about timing, tables and prediction is the same for all.
"""

import os
import platform
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reverie.core.environment import processor
from reverie.core.network import ImageNetwork
from reverie.cost.layer_graph import LayerShape
from reverie.cost.timing import Run

__all__ = ["Backend", "Servable", "machine_text"]

# A network, or the content of an ONNX file of one, which need not be exported again.
Servable = ImageNetwork | bytes


class Backend(Protocol):
    """A runtime with its settings.

    Attributes:
        name: As the command line calls it.
        environment: Runtime, version, number format, threads and processor: times of another are of no use here.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  said above

    @property
    def environment(self) -> str: ...  # noqa: D102  said above

    def network(self, network: Servable, images: NDArray[np.float32]) -> Run:
        """A call that runs the network on these images, and does nothing else that takes time.

        Shapes: images (n, c, h, w) in [0, 1].
        """
        ...

    def layer(self, shape: LayerShape, *, copies: int) -> Run:
        """A call that runs some copies of a layer, each with its addition and activation."""
        ...

    def empty(self) -> Run:
        """A call that computes nothing: what being called costs."""
        ...


def machine_text() -> str:
    """The processor's name and cores: what the times of a layer depend on, and no host name."""
    return f"{platform.machine()} {processor()} of {os.cpu_count()} cores"
