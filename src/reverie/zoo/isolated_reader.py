"""Read one PyTorch checkpoint in a process of its own, and write its tensors as safetensors.

What for: a `.pth` file is a pickle, and a hostile one aims at whoever opens it. `checkpoint.py` runs this file as a
script, in a process with bounded memory and time, and afterwards reads only the safetensors file and the small report
that it leaves. Every check here is made before a tensor is believed: no code from the file runs (`weights_only=True`,
sparse invariants checked), no size is taken from the file's own word.

Stands alone on purpose: it imports nothing of this package, so nothing but PyTorch has to be found by the child.
Cost: the start of a Python process that imports PyTorch, 1 to 3 s, and twice the file's size in memory.
"""

import json
import pickle
import pickletools
import re
import resource
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "network",
    "net",
    "params",
    "model_ema",
    "state_dict_ema",
    "ema",
)
DATA_MODULES = {"torch", "collections", "numpy", "_codecs"}
MEBIBYTE = 2**20


class Refused(Exception):
    """The file is not taken: `kind` is "corrupt" or "untrusted", the text continues the sentence "FILE ..."."""

    def __init__(self, kind: str, because: str) -> None:
        super().__init__(because)
        self.kind = kind


def main() -> None:
    """Read the request from standard input; leave `report.json` and `tensors.safetensors` in the current folder."""
    request = json.load(sys.stdin)
    sys.path.extend(request["search_path"])
    path = Path(request["path"])
    try:
        report = read(path)
    except Refused as refusal:
        report = {"refused": refusal.kind, "because": str(refusal)}
    Path("report.json").write_text(json.dumps(report))


def read(path: Path) -> dict[str, Any]:
    """Check and load one checkpoint; the report lists the tensor names in the file's order."""
    import torch

    torch.set_num_threads(1)
    size = path.stat().st_size
    limit_resources(size)
    with path.open("rb") as file:
        pickled = check_container(file, size)
        file.seek(0)
        torch.sparse.check_sparse_tensor_invariants.enable()
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
        except pickle.UnpicklingError as error:
            raise explain(error, pickled) from error
        # Whatever else a damaged pickle makes the reader raise means the same thing to the caller.
        except Exception as error:
            raise damage(error, pickled) from error
    tensors, container = find_tensors(loaded)
    check_tensors(tensors, size)
    import safetensors.torch

    clean = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(clean, "tensors.safetensors")
    return {"names": list(tensors), "container": container}


def limit_resources(size: int) -> None:
    """Bound memory and time from here on, in proportion to the file; PyTorch itself is already loaded."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        allowed = used + 4 * size + 256 * MEBIBYTE
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    seconds = 30 + size // (4 * MEBIBYTE)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    written = 4 * size + MEBIBYTE
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))


def check_container(file: IO[bytes], size: int) -> bytes:
    """Say no to what is no checkpoint, by its first bytes and its zip directory; return the pickle inside."""
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return check_zip(file, size)
    if head.startswith(b"\x80"):
        # The tail of a legacy file is raw tensor data; its pickles come first.
        return file.read(16 * MEBIBYTE)
    if head.startswith(b"\x89HDF"):
        raise Refused("corrupt", "is an HDF5 file, not a PyTorch checkpoint")
    raise Refused("corrupt", "is neither a PyTorch checkpoint nor a safetensors file")


def check_zip(file: IO[bytes], size: int) -> bytes:
    """Take only zips as `torch.save` writes them: entries stored as they are, once each, within the file."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise Refused("corrupt", "is truncated or damaged: its zip directory cannot be read") from error
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or any(name.endswith("serialized_exported_program.json") for name in names):
        raise Refused("untrusted", "is a torch.export archive, and reading one may run code from it")
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise Refused("untrusted", "is a TorchScript archive: a program, not weights")
    if len(set(names)) < len(names):
        raise Refused("corrupt", "has two zip entries of one name")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise Refused("corrupt", "has compressed or encrypted zip entries, which torch.save never writes")
    declared = sum(entry.file_size for entry in entries)
    if declared > size:
        raise Refused("corrupt", f"has {size:,} bytes, but its zip directory declares {declared:,}")
    pickles = [name for name in names if name.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise Refused("corrupt", "is a zip file without the data.pkl of a PyTorch checkpoint")
    try:
        return archive.read(pickles[0])
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise Refused("corrupt", "is truncated or damaged: its data.pkl cannot be read") from error


def explain(error: Exception, pickled: bytes) -> Refused:
    """Why the restricted unpickler refused: code, named where the pickle names it, or mere damage."""
    named = re.search(r"GLOBAL ([\w.]*\.(\w+))(?![\w.])", str(error))
    # A whole name ends with its line; one that was cut off says nothing about what it would have been.
    if named and f"{named[2]}\n".encode() in pickled:
        return code_refusal(named[1])
    blocked = re.search(r"(?:reduce|build|instantiate)[^<']*[<']([^>']+)", str(error))
    return code_refusal(blocked[1]) if blocked else damage(error, pickled)


def damage(error: Exception, pickled: bytes) -> Refused:
    """Damage, unless the pickle names code that a checkpoint has no use for."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return Refused("corrupt", "asks for far more memory than its size")
    foreign = next((name for name in named_globals(pickled) if name.partition(".")[0] not in DATA_MODULES), None)
    if foreign is not None:
        return code_refusal(foreign)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines and not isinstance(error, pickle.UnpicklingError) else "its pickle cannot be read"
    return Refused("corrupt", f"is truncated or damaged ({type(error).__name__}: {reason[:120]})")


def code_refusal(name: str) -> Refused:
    """The sentence for a pickle that wants to call something."""
    return Refused("untrusted", f"is a pickle that would run code: it calls {name[:120]}")


def named_globals(pickled: bytes) -> Iterator[str]:
    """The globals that a pickle names, as "module.name". An explanation only: the restricted unpickler decides."""
    strings: list[str] = []
    start = 0
    try:
        # A legacy checkpoint begins with several pickles, one after another.
        for _ in range(5):
            end = 0
            for opcode, argument, position in pickletools.genops(pickled[start:]):
                end = position or 0
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
            start += end + 1
    except Exception:  # noqa: BLE001  a damaged pickle has no more to tell
        return


def find_tensors(loaded: object) -> tuple[dict[str, Any], str]:
    """The state dict in what was loaded: at the top, or under one of the names that training scripts use."""
    import torch

    def tensors_in(value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {}
        return {str(name): entry for name, entry in value.items() if isinstance(entry, torch.Tensor)}

    if found := tensors_in(loaded):
        return found, ""
    if isinstance(loaded, Mapping):
        for container in CONTAINERS:
            if found := tensors_in(loaded.get(container)):
                return found, container
        keys = ", ".join(repr(key)[:40] for key in list(loaded)[:8])
        raise Refused("corrupt", f"holds no tensors, only {keys or 'an empty dictionary'}")
    raise Refused("corrupt", f"holds a {type(loaded).__name__}, not a dictionary of tensors")


def check_tensors(tensors: Mapping[str, Any], size: int) -> None:
    """Only plain dense tensors whose values are all in the file."""
    import torch

    known = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    known |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
    total = 0
    for name, tensor in tensors.items():
        label = repr(name)[:80]
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            raise Refused("corrupt", f"holds {label} as a {tensor.layout} tensor; weights are dense")
        if tensor.dtype not in known or tensor.is_quantized:
            raise Refused("corrupt", f"holds {label} as {tensor.dtype}, which no weights have")
        asked, stored = tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()
        if asked > stored:
            raise Refused(
                "corrupt", f"declares {label} with {tensor.numel():,} values, more than the {stored:,} bytes it stores"
            )
        total += asked
    if total > 4 * size:
        raise Refused("corrupt", f"has {size:,} bytes, but its tensors declare {total:,}")


if __name__ == "__main__":
    main()
