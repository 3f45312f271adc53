"""OpenVINO on the processor, as a backend. Needs the extra `openvino`.

Networks and layers come as the same ONNX graphs that ONNX Runtime is given, with the batch fixed, in float32: the
runtime would else choose bfloat16 by itself where the processor has it, and its answers would no longer be the same.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.core.counts import check_counts
from reverie.core.errors import CorruptFile, MissingExtra
from reverie.cost.backend import Servable, machine_text
from reverie.cost.layer_graph import LayerShape, empty_graph, layer_graph
from reverie.cost.onnx import INPUT, export_onnx
from reverie.cost.timing import Run

__all__ = ["OpenVino"]


class OpenVino:
    """OpenVINO on the processor, one request at a time.

    Args:
        threads: Threads of one request, at least 1.

    Raises:
        RangeError: There is no thread.
        MissingExtra: The package `openvino` is not installed.
    """

    name = "openvino"

    def __init__(self, *, threads: int = 1) -> None:
        check_counts(threads=threads)
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra(
                "the backend openvino needs the package openvino, which is not installed. "
                'Install it: pip install "reverie[openvino]".'
            ) from error
        self.threads = threads
        version = openvino.__version__.partition("-")[0]
        self.environment = f"openvino {version}, float32, synchronous, {threads} threads, {machine_text()}"
        self._core: Any = openvino.Core()

    def network(self, network: Servable, images: NDArray[np.float32]) -> Run:
        """As `Backend.network`."""
        model = network if isinstance(network, bytes) else export_onnx(network)
        return self._run(model, {INPUT: images})

    def layer(self, shape: LayerShape, *, copies: int) -> Run:
        """As `Backend.layer`."""
        graph = layer_graph(shape, copies=copies)
        return self._run(graph.model, graph.feeds)

    def empty(self) -> Run:
        """As `Backend.empty`."""
        graph = empty_graph()
        return self._run(graph.model, graph.feeds)

    def _run(self, model: bytes, feeds: dict[str, NDArray[np.float32]]) -> Run:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            read = self._core.read_model(model=model)
            read.reshape({name: value.shape for name, value in feeds.items()})
            compiled = self._core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CorruptFile(f"OpenVINO cannot load the model: {reason}. Export it again.") from error
        request = compiled.create_infer_request()
        for name, value in feeds.items():
            request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(value)))
        return _Request(request)


class _Request:
    """A request bound to its inputs, computed in the thread that asks.

    Waiting for another thread costs a switch each way: on a busy machine that was several times what a small network
    takes, and no two of them were alike.
    """

    def __init__(self, request: Any) -> None:  # noqa: ANN401  not annotated in OpenVINO
        self._request = request

    def __call__(self) -> None:
        self._request.infer()
