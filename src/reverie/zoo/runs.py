"""A network on disk: `model.safetensors` and `record.json`, which together rebuild it in any process.

The record says how the untouched architecture is built, what was done to it since, and which images it takes; the
weights are loaded into the result. Both files carry checksums, so damage is an error and never a slightly wrong
network. `docs/loading_without_reverie.md` shows a reader that needs only PyTorch and safetensors.

Law: loading runs no code that a file chooses. A record may build only the architectures of this package and of timm;
any other factory has to be named by the caller: `package.module:factory@path/to/run`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from reverie.core.edit import Record, replay
from reverie.core.errors import CorruptFile, ReferenceNotFound, ReverieError, UntrustedFile, VerificationFailed
from reverie.core.network import ImageNetwork, Origin
from reverie.core.run_folder import RUN_FILE
from reverie.core.store import read_json, write_bytes, write_json
from reverie.zoo import timm_networks
from reverie.zoo.building import build
from reverie.zoo.checkpoint import check_tensors, tensors_from_bytes
from reverie.zoo.matching import load_weights
from reverie.zoo.preprocessing import Preprocessing, from_json, wrap

__all__ = ["RECORD_FILE", "WEIGHTS_FILE", "Run", "edited_network", "read_run", "save"]

FORMAT = 1
RECORD_FILE = "record.json"
WEIGHTS_FILE = "model.safetensors"
EDITED = "reverie.zoo.runs:edited_network"
KNOWN_FACTORIES = frozenset(
    {"reverie.zoo.networks:CifarResNet", "reverie.zoo.networks:CifarVGG", timm_networks.FACTORY}
)


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        network: Rebuilt, with its weights, in evaluation mode.
        origin: How the untouched architecture is built.
        record: What was done to it.
        extra: What `save` was given.
    """

    network: ImageNetwork
    origin: Origin
    record: Record
    extra: Mapping[str, Any] = field(default_factory=dict)


def edited_network(*, factory: str, arguments: Mapping[str, Any], record: Mapping[str, Any]) -> nn.Module:
    """Build an architecture and replay a record on it: the factory of every network that came from a run folder."""
    return replay(Record.from_json(record), _bare(build(Origin(factory, arguments))))


def save(network: ImageNetwork, folder: str | Path, *, record: Record, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network so that `read_run` rebuilds it: the weights first, then the record that makes them valid.

    Args:
        network: The edited network; its `origin` builds the architecture that `record` began with.
        folder: Made if need be; the two files in it are replaced.
        record: What was done to `network.body` since `network.origin` built it; `Record()` for an untouched network.
        extra: Values to keep with it, as JSON holds them, such as `{"base": "zoo:fashion-resnet20"}`.

    Raises:
        ReferenceNotFound: The network has no origin, so no record could rebuild it.
        VerificationFailed: Origin and record do not lead to the network's tensors; nothing is written.
        NotWritable: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> from reverie.zoo.load import load
        >>> network = load("zoo:fashion-vgg")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(network, folder, record=Record())
        ...     load(folder).image_shape
        (1, 28, 28)
    """
    if network.origin is None:
        raise ReferenceNotFound(
            f"this {type(network.body).__name__} does not say how it is built, so it could not be rebuilt from a file. "
            "Load it by a reference, or give ImageNetwork an origin: Origin('package.module:factory', {...})."
        )
    origin, record = _flattened(network.origin, record)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.body.state_dict().items()}
    _verify(origin, record, tensors)
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    value: dict[str, Any] = {
        "format": FORMAT,
        "origin": {"factory": origin.factory, "arguments": dict(origin.arguments)},
        "preprocessing": {
            "image_shape": list(network.image_shape),
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
        },
        "class_names": list(network.class_names),
        "record": record.to_json(),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "torch": str(torch.__version__),
        "extra": dict(extra or {}),
    }
    # Through JSON once, so that the digest is of exactly what a reader will see.
    value = json.loads(json.dumps(value, allow_nan=False))
    target = Path(folder)
    write_bytes(target / WEIGHTS_FILE, content)
    write_json(target / RECORD_FILE, value | {"record_sha256": _digest(value)})


def read_run(folder: str | Path, *, factory: str | None = None, given: Preprocessing | None = None) -> Run:
    """Rebuild the network that `save` wrote.

    Args:
        folder: The run.
        factory: `"package.module:factory"` that the caller vouches for; needed where the record names a factory outside
            this package, because building runs that factory.
        given: Parts of the preprocessing that the caller wants otherwise, such as another image shape.

    Raises:
        ReferenceNotFound: The folder, its record or its weights are not there, or the factory cannot be imported.
        CorruptFile: A file is damaged, of a later format, or the weights are not those of the record.
        UntrustedFile: The record names a factory that the caller did not vouch for.
        WeightsMismatch: The weights do not fit the network that the record leads to.
    """
    path = Path(folder) / RECORD_FILE
    if not path.is_file():
        found = "a run that has not finished" if (Path(folder) / RUN_FILE).is_file() else "no run"
        raise ReferenceNotFound(
            f"{folder} is {found}: it holds no {RECORD_FILE}. Give the folder of a run that left a network."
        )
    value = _read_record(path)
    try:
        origin = Origin(str(value["origin"]["factory"]), dict(value["origin"]["arguments"]))
        record = Record.from_json(value["record"])
        stated = from_json({**value["preprocessing"], "class_names": value["class_names"]}, origin=str(path))
        weights_sha256, extra = value["weights_sha256"], dict(value["extra"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ReverieError):
            raise
        raise CorruptFile(f"{path} is damaged ({type(error).__name__}: {error}). Restore it, or run again.") from error
    _check_factory(origin, factory, path)
    tensors = _read_weights(Path(folder) / WEIGHTS_FILE, weights_sha256)
    as_factory = Origin(EDITED, {"factory": origin.factory, "arguments": origin.arguments, "record": value["record"]})
    body = _bare(build(as_factory if record.edits else origin))
    load_weights(body, tensors, origin=str(Path(folder) / WEIGHTS_FILE))
    known = (given or Preprocessing()).over(stated)
    network = wrap(body, known, asked=str(folder), origin=as_factory if record.edits else origin)
    return Run(network, origin, record, extra)


def _flattened(origin: Origin, record: Record) -> tuple[Origin, Record]:
    """The first origin and the whole record, for a network that itself came from a run folder."""
    if origin.factory != EDITED:
        return origin, record
    inner = Origin(origin.arguments["factory"], origin.arguments["arguments"])
    return inner, Record.from_json(origin.arguments["record"]) + record


def _bare(built: nn.Module) -> nn.Module:
    return built.body if isinstance(built, ImageNetwork) else built


def _verify(origin: Origin, record: Record, tensors: Mapping[str, Tensor]) -> None:
    """Build and replay, and compare every name, shape and type."""
    rebuilt = replay(record, _bare(build(origin))).state_dict()
    wanted = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in rebuilt.items()}
    if wanted != got:
        name = next(name for name in (*wanted, *got) if wanted.get(name) != got.get(name))
        raise VerificationFailed(
            f"the record does not rebuild this network: {name} is {wanted.get(name, 'absent')} in the network and "
            f"{got.get(name, 'absent')} after {origin.factory} and {len(record.edits)} edits. Nothing was written: "
            "pass the record of everything that was done since the network's origin built it."
        )


def _read_record(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or "record_sha256" not in value:
        raise CorruptFile(f"{path} is no record of a run. Restore it, or run again.")
    if value.get("format") != FORMAT:
        raise CorruptFile(
            f"{path} has format {value.get('format')!r}; this version reads format {FORMAT}. Update the package."
        )
    stated = value.pop("record_sha256")
    if stated != _digest(value):
        raise CorruptFile(f"{path} was changed after it was written (its SHA-256 differs). Restore it, or run again.")
    return value


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReferenceNotFound(f"cannot read {path}: {error.strerror or error}. Restore it, or run again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CorruptFile(
            f"{path} is not the file that its record describes (SHA-256 {found[:12]}, expected {str(sha256)[:12]}): "
            "it is damaged, truncated or another run's. Restore it, or run again."
        )
    tensors = tensors_from_bytes(content, origin=str(path))
    check_tensors(tensors, origin=str(path))
    return tensors


def _check_factory(origin: Origin, vouched: str | None, path: Path) -> None:
    if vouched is not None and vouched != origin.factory:
        raise UntrustedFile(
            f"{path} asks for the factory {origin.factory!r:.120}, but {vouched!r} was named. Name its own."
        )
    if vouched is None and origin.factory not in KNOWN_FACTORIES:
        raise UntrustedFile(
            f"{path} asks to run the factory {origin.factory!r:.120}, which is not part of this package. Where you "
            f"trust it, name it yourself: {origin.factory:.120}@{path.parent}"
        )


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
