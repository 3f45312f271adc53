"""ONNX Runtime on the processor, as a backend: the one that is always there."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from reverie.core.counts import check_counts
from reverie.cost.backend import Servable, machine_text
from reverie.cost.layer_graph import LayerShape, empty_graph, layer_graph
from reverie.cost.onnx import INPUT, bound_run, export_onnx, session
from reverie.cost.timing import Run

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """ONNX Runtime on the processor.

    Args:
        threads: Threads within an operator, at least 1.

    Raises:
        RangeError: There is no thread.
    """

    name = "onnxruntime"

    def __init__(self, *, threads: int = 1) -> None:
        check_counts(threads=threads)
        self.threads = threads
        self.environment = f"onnxruntime {onnxruntime.__version__}, float32, {threads} threads, {machine_text()}"

    def network(self, network: Servable, images: NDArray[np.float32]) -> Run:
        """As `Backend.network`."""
        model = network if isinstance(network, bytes) else export_onnx(network)
        return bound_run(session(model, threads=self.threads), {INPUT: images})

    def layer(self, shape: LayerShape, *, copies: int) -> Run:
        """As `Backend.layer`."""
        graph = layer_graph(shape, copies=copies)
        return bound_run(session(graph.model, threads=self.threads), graph.feeds)

    def empty(self) -> Run:
        """As `Backend.empty`."""
        graph = empty_graph()
        return bound_run(session(graph.model, threads=self.threads), graph.feeds)
