"""The backends by name. Each imports its runtime when it is made, and says what to install where it is missing."""

from collections.abc import Callable, Mapping

from reverie.core.errors import ReferenceNotFound
from reverie.cost.backend import Backend
from reverie.cost.onnx_runtime import OnnxRuntime

__all__ = ["BACKENDS", "backend_of"]


def _openvino(threads: int) -> Backend:
    from reverie.cost.openvino import OpenVino

    return OpenVino(threads=threads)


def _torch(threads: int) -> Backend:
    from reverie.cost.torch_backend import Torch

    return Torch(threads=threads)


def _torch_compile(threads: int) -> Backend:
    from reverie.cost.torch_backend import Torch

    return Torch(threads=threads, compiled=True)


def _cuda(threads: int) -> Backend:
    from reverie.cost.torch_backend import Torch

    return Torch(threads=threads, device="cuda")


# Name on the command line -> how to make it for a number of threads.
BACKENDS: Mapping[str, Callable[[int], Backend]] = {
    "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
    "openvino": _openvino,
    "torch": _torch,
    "torch-compile": _torch_compile,
    "cuda": _cuda,
}


def backend_of(name: str, *, threads: int = 1) -> Backend:
    """The backend of a name.

    Args:
        name: A key of `BACKENDS`.
        threads: Threads of the runtime, at least 1.

    Raises:
        ReferenceNotFound: There is no such backend.
        MissingExtra: Its runtime is not installed, or its device is not there.
        RangeError: There is no thread.

    Example:
        >>> backend_of("onnxruntime", threads=2).threads
        2
    """
    if name not in BACKENDS:
        raise ReferenceNotFound(f"no backend {name!r} measures latency; there is {', '.join(BACKENDS)}")
    return BACKENDS[name](threads)
