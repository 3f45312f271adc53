"""Networks as ONNX files: export, run in ONNX Runtime, and compare with PyTorch.

What for: the network that is handed over, and the one whose time counts, is the one that the runtime executes.
Normalization is inside the graph, so it takes images in [0, 1].

Cost: two seconds to export a network of twenty layers, almost all of it PyTorch tracing the network twice.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.core.counts import check_counts
from reverie.core.errors import CorruptFile, ShapeError, VerificationFailed
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.store import write_bytes
from reverie.cost.faithful import Faithful

__all__ = ["INPUT", "OPSET", "OUTPUT", "check_onnx", "export_onnx", "quiet_exporter", "run_onnx", "session"]

INPUT = "images"
OUTPUT = "logits"
OPSET = 20

TALKATIVE = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")


def export_onnx(network: ImageNetwork, path: Path | None = None) -> bytes:
    """The network as one ONNX file: input "images" (n, c, h, w) in [0, 1], output "logits" (n, classes), n free.

    The export is of a copy in evaluation mode; the argument is untouched. Names of files and functions that the
    exporter leaves in the graph are taken out.

    Args:
        network: At most 2 GB of parameters, the limit of a single ONNX file.
        path: Where to write the file as well; whole or not at all.

    Raises:
        NotWritable: The path cannot be written.
        ShapeError: The file would be larger than 2 GB.
        VerificationFailed: PyTorch's exporter returns nothing. What it raises of its own for a network that it cannot
            follow is raised as it is.

    Example:
        >>> from torch import nn
        >>> network = ImageNetwork(nn.Flatten(), image_shape=(1, 2, 2), mean=[0.5], std=[0.5])
        >>> run_onnx(session(export_onnx(network)), np.ones((3, 1, 2, 2), np.float32)).shape
        (3, 4)
    """
    bare = copy.deepcopy(network).eval().requires_grad_(False)
    size = sum(tensor.numel() * tensor.element_size() for tensor in bare.state_dict().values())
    if size >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ShapeError(f"the network holds {size / 1e9:.1f} GB; one ONNX file holds at most 2 GB. Compress it first.")
    example = torch.zeros(2, *network.image_shape, device=network.mean.device)
    with preserved_rng(), quiet_exporter():
        program = torch.onnx.export(
            bare,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise VerificationFailed("the ONNX exporter of PyTorch returned nothing for this network")
    model = program.model_proto
    _strip(model)
    content: bytes = model.SerializeToString()
    if path is not None:
        write_bytes(path, content)
    return content


def session(model: bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the processor with a fixed number of threads, which rest between runs.

    Args:
        model: An ONNX file's content.
        threads: Threads within an operator, at least 1.

    Raises:
        CorruptFile: The content is not an ONNX model that the runtime can load.
        RangeError: There is no thread.
    """
    check_counts(threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads of one session would otherwise spin and slow the session that is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if _is_of_runtime(error):
            reason = str(error).partition("\n")[0]
            raise CorruptFile(f"ONNX Runtime cannot load the model: {reason}. Export it again.") from error
        raise


def _is_of_runtime(error: Exception) -> bool:
    # ONNX Runtime raises classes that share no root but Exception.
    return type(error).__module__.startswith("onnxruntime")


def run_onnx(running: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of images.

    Shapes: (n, c, h, w) in [0, 1] -> (n, classes).
    """
    logits: NDArray[np.float32] = running.run([OUTPUT], {INPUT: images})[0]
    return logits


def check_onnx(model: bytes, network: ImageNetwork, images: Tensor, *, tolerance: float = 1e-4) -> float:
    """The largest difference between the logits of the ONNX file and of the network, on these images.

    The images are run one alone and all together, so a file that only takes one batch size fails.

    Args:
        model: The content of the ONNX file.
        network: What it was exported from; untouched.
        images: (n, c, h, w) float32 in [0, 1].
        tolerance: Largest difference allowed, as a share of the largest logit where that is above 1.

    Raises:
        CorruptFile: The content is not an ONNX model that the runtime can load.
        VerificationFailed: The difference is above the tolerance, or not finite, the shapes differ, or the file does
            not take one of the batches.
    """
    with frozen(network), torch.no_grad():
        expected = network(images).cpu().numpy()
    running = session(model)
    pixels = images.cpu().numpy()
    differences = []
    for count in sorted({1, len(pixels)}):
        try:
            found = run_onnx(running, pixels[:count])
        except Exception as error:
            if not _is_of_runtime(error):
                raise
            reason = str(error).partition("\n")[0]
            raise VerificationFailed(
                f"the ONNX file does not run {count} images ({reason}); it is not handed over. "
                "Export it with a free batch."
            ) from error
        if found.shape != expected[:count].shape:
            raise VerificationFailed(
                f"the ONNX file returns {found.shape} for {count} images, the network {expected[:count].shape}"
            )
        differences.append(np.abs(found - expected[:count]).max(initial=0.0))
    # NumPy's maximum keeps what is not a number; Python's drops it.
    worst = float(np.max(differences))
    allowed = tolerance * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if not worst <= allowed:
        raise VerificationFailed(
            f"the ONNX file differs from the network by {worst:.3g} in a logit, above {allowed:.3g}; "
            "it is not handed over. Look for an operator that the exporter translates inexactly."
        )
    return worst


def bound_run(running: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[np.float32]]) -> "_Bound":
    """A call without arguments that runs a session on fixed inputs, and does nothing else that takes time."""
    return _Bound(running, feeds)


class _Bound:
    def __init__(self, running: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[np.float32]]) -> None:
        self._session = running
        self._binding = running.io_binding()
        for name, value in feeds.items():
            self._binding.bind_cpu_input(name, value)
        for output in running.get_outputs():
            self._binding.bind_output(output.name)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _strip(model: onnx.ModelProto) -> None:
    """Take out the exporter's notes: source paths, stack traces, original names."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    # The inferred types of inner values are the runtime's to infer again.
    del graph.value_info[:]


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's prints and warnings to itself, and from it what it gets wrong; all as before afterwards."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            Faithful(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
