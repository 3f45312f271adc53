"""Read files of weights without trusting them.

What for: `.safetensors` files, and PyTorch checkpoints of any age (`.pth`, `.pt`, `.bin`, zip or not). No code from a
file ever runs, and nothing a file says about itself is believed before it is checked. safetensors files are read here;
pickles only in a process of their own, whose memory and time are bounded (`isolated_reader.py`). What comes back is
dense tensors, finite, with variances that are not negative.

Cost: safetensors, the reading of the file; a pickle, 1 to 3 s more for the other process to import PyTorch.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from reverie.core.errors import CorruptFile, ReferenceNotFound, ReverieError, UntrustedFile
from reverie.core.store import sha256_file

__all__ = ["Checkpoint", "check_tensors", "read_checkpoint", "tensors_from_bytes"]

HEADER_LIMIT = 100_000_000
TORCH_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}
READER = Path(__file__).with_name("isolated_reader.py")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights that a file holds.

    Attributes:
        tensors: Name -> dense tensor; wrapper prefixes (`module.`, `_orig_mod.`) are gone.
        ordered: Whether the order of `tensors` is that of the network; safetensors files keep none.
        container: The key of the dictionary that held the tensors, such as `"state_dict"`; empty where at the top.
        sha256: Of the file, in hex.
    """

    tensors: Mapping[str, Tensor]
    ordered: bool
    container: str
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights; which kind it is, its content says, not its name.

    Raises:
        ReferenceNotFound: There is no such file, or it cannot be opened.
        CorruptFile: The file is truncated, damaged, no checkpoint, or holds values that no trained network has.
        UntrustedFile: The file is a program, or a pickle that would run code; the message names what it would call.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.safetensors"
        ...     safetensors.torch.save_file({"weight": torch.ones(2)}, path)
        ...     read_checkpoint(path).tensors
        {'weight': tensor([1., 1.])}
    """
    if not path.exists():
        raise ReferenceNotFound(f"no file of weights {path}. Check the path.")
    if not path.is_file():
        raise ReferenceNotFound(f"{path} is a folder or device, not a file of weights. Name the file itself.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        sha256 = sha256_file(path)
    except OSError as error:
        raise ReferenceNotFound(f"cannot open {path}: {error.strerror or error}. Check its permissions.") from error
    if not head:
        raise CorruptFile(f"{path} is empty. Copy or download it again.")
    is_safetensors = head[8:9] == b"{" or path.suffix == ".safetensors"
    if is_safetensors:
        tensors, container = tensors_from_bytes(path.read_bytes(), origin=str(path)), ""
    else:
        tensors, container = _read_isolated(path)
    check_tensors(tensors, origin=str(path))
    return Checkpoint(_without_wrappers(tensors), not is_safetensors, container, sha256)


def tensors_from_bytes(content: bytes, *, origin: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        content: The whole file.
        origin: What messages call it.

    Raises:
        CorruptFile: The header is damaged, or does not cover the content exactly.
    """
    declared = int.from_bytes(content[:8], "little")
    if declared > min(HEADER_LIMIT, len(content) - 8):
        raise CorruptFile(
            f"{origin} is no safetensors file, or truncated: it declares a header of {declared:,} bytes "
            f"and has {len(content):,} bytes in all. Copy or download it again."
        )
    try:
        header = json.loads(content[8 : 8 + declared])
        dtypes = {str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
        if unknown := dtypes - TORCH_DTYPES:
            raise CorruptFile(f"{origin} holds tensors of type {', '.join(sorted(unknown))}, which no weights have.")
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, ReverieError):
            raise
        raise CorruptFile(
            f"{origin} is truncated or damaged ({str(error)[:120] or type(error).__name__}). Copy or download it again."
        ) from error


def check_tensors(tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse values that no trained network has.

    Raises:
        CorruptFile: Nothing is there, or a value is not finite, or a running variance is negative.
    """
    if not tensors:
        raise CorruptFile(f"{origin} holds no tensors. Check that it is the right file.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise CorruptFile(
                f"{origin} holds {bad:,} of {tensor.numel():,} values as NaN or infinite in {name!r:.80}. "
                "The training diverged or the file is damaged: use another checkpoint."
            )
        if name.endswith("running_var") and float(tensor.min()) < 0:
            raise CorruptFile(
                f"{origin} holds a negative variance, {float(tensor.min()):.3g}, in {name!r:.80}. "
                "The file is damaged: use another checkpoint."
            )


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes that torch.compile and DataParallel put before names."""
    named = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        return dict(tensors)
    while all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    return named


def _read_isolated(path: Path) -> tuple[dict[str, Tensor], str]:
    """Run the isolated reader; return its tensors in the file's order, and the key that held them."""
    request = {"path": str(path.resolve()), "search_path": [entry for entry in sys.path if entry]}
    with tempfile.TemporaryDirectory(prefix="reverie-") as folder:
        child = subprocess.run(  # noqa: S603  our own script, by our own interpreter
            [sys.executable, "-I", "-W", "ignore", str(READER)],
            input=json.dumps(request).encode(),
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        report_path = Path(folder) / "report.json"
        if child.returncode != 0 or not report_path.exists():
            raise CorruptFile(_crash_message(path, child.returncode, child.stderr.decode(errors="replace")))
        report = json.loads(report_path.read_text())
        if "refused" in report:
            raise _refusal(path, report)
        tensors = tensors_from_bytes((Path(folder) / "tensors.safetensors").read_bytes(), origin=str(path))
    return {name: tensors[name] for name in report["names"]}, report["container"]


def _refusal(path: Path, report: Mapping[str, str]) -> ReverieError:
    if report["refused"] == "untrusted":
        return UntrustedFile(
            f"{path} {report['because']}. Nothing was run. Where you trust it, load it with its own tools and "
            "save only the weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
        )
    return CorruptFile(f"{path} {report['because']}. Copy or download it again, or use another checkpoint.")


def _crash_message(path: Path, status: int, stderr: str) -> str:
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    how = f"was stopped by signal {-status}" if status < 0 else f"ended with status {status}"
    return (
        f"{path} could not be read: the isolated reader {how} ({last[:160]}). The file is damaged, or asks for far "
        "more memory or time than its size. Copy or download it again, or use another checkpoint."
    )
