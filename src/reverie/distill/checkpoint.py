"""The state of a distillation between two steps, as one file of tensors and JSON; nothing in it can run.

Cost: the student's weights twice (as they are, and at their best) and the optimizer's state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reverie.core.errors import CorruptFile, FolderInUse
from reverie.core.store import write_bytes

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What a distillation needs to go on as if it had never stopped.

    Attributes:
        digest: Of everything that decides the run; another digest is another run.
        tensors: By name, on the CPU.
        values: JSON values.
    """

    digest: str
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as a whole file.

    Raises:
        NotWritable: The file cannot be written.
    """
    # safetensors refuses tensors that share memory, as tied weights do; each gets its own.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata = {"digest": checkpoint.digest, "values": json.dumps(checkpoint.values, allow_nan=False)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def read_checkpoint(path: Path, *, digest: str) -> Checkpoint | None:
    """Read what `write_checkpoint` wrote, or None where there is no file.

    Raises:
        CorruptFile: The file is no checkpoint, or is damaged.
        FolderInUse: The file belongs to a run of other settings, networks or images.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found, values = metadata["digest"], json.loads(metadata["values"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CorruptFile(
            f"{path} is not a readable checkpoint of a distillation ({type(error).__name__}: {error}). "
            "Delete it to start over."
        ) from error
    if found != digest:
        raise FolderInUse(
            f"{path} is the checkpoint of another distillation: the settings, networks or images differ. "
            "Delete it to start over, or give another path."
        )
    return Checkpoint(found, tensors, values)
