"""Turn a model reference into a network with its weights and its preprocessing.

| reference | what it gives |
|---|---|
| `zoo:NAME` | a network of the package; `zoo:imagenet-...` needs the extra `imagenet` |
| `timm:NAME@WEIGHTS` | an architecture of timm with your weights; preprocessing as timm states it |
| `package.module:factory@WEIGHTS` | your own architecture, built by calling the factory |
| `path/to/run` | the result of a run |
| `path/to/model.pt2` | a program saved by `torch.export`; only with `trust="pt2"`, because reading one may run code |

WEIGHTS is a file (`.safetensors`, or a PyTorch checkpoint), the folder of a run that this factory began, or the word
`initial`: the weights that the factory itself gives, which for timm are random. Both kinds of architecture take keyword
arguments: `timm:resnet18(num_classes=2)@dogs.safetensors`. Nothing is ever downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound, UntrustedFile, WeightsMismatch
from reverie.core.network import ImageNetwork, Origin
from reverie.zoo import references, timm_networks
from reverie.zoo.building import build
from reverie.zoo.checkpoint import read_checkpoint
from reverie.zoo.embedded import load_embedded
from reverie.zoo.matching import load_weights
from reverie.zoo.preprocessing import Preprocessing, read_sidecar, wrap
from reverie.zoo.references import ArchitectureReference, PathReference, ZooReference
from reverie.zoo.runs import RECORD_FILE, read_run

__all__ = ["load"]

WEIGHT_ENDINGS = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".th"}


def load(
    reference: str | Path,
    *,
    trust: str | None = None,
    image_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    positional: bool = False,
    like: ImageNetwork | None = None,
) -> ImageNetwork:
    """Load a network by reference; the module's table lists the forms.

    Preprocessing comes from the arguments here; else from a JSON file beside the weights that has their name and the
    ending `.json`; else from timm, the zoo or the run; else from `like`. Where none of them says, that is an error,
    never a guess.

    Args:
        reference: See the module's table.
        trust: `"pt2"` allows `torch.export.load`, which runs code from a hostile file; None allows nothing.
        image_shape: (channels, height, width).
        mean: Subtracted from images in [0, 1], one value for each channel or one for all.
        std: Divided by, likewise.
        class_names: One for each logit.
        positional: Pair tensors with the architecture by order instead of name; only for PyTorch checkpoints, which
            keep an order.
        like: Another network for the same images; class names are not taken from it.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        ReferenceNotFound: Nothing is there; the message names what was looked for, and the closest names.
        CorruptFile: A file is truncated or damaged.
        UntrustedFile: Reading a file would run code from it.
        WeightsMismatch: The weights, or the run, are another network's.
        ShapeError: The preprocessing is not known, or does not suit the network.
        MissingExtra: An extra has to be installed; the message says how.

    Example:
        >>> load("reverie.zoo.networks:CifarVGG(stages=[[8]])@initial", image_shape=(3, 32, 32), mean=[0], std=[1])(
        ...     torch.zeros(1, 3, 32, 32)
        ... ).shape
        torch.Size([1, 10])
    """
    if trust not in (None, "pt2"):
        raise RangeError(f"trust={trust!r} names nothing that can be trusted; the one choice is 'pt2'")
    given = Preprocessing(image_shape, mean, std, class_names)
    parsed = references.parse(reference)
    asked = str(reference)
    if isinstance(parsed, ZooReference):
        if parsed.name in timm_networks.IMAGENET_NETWORKS:
            return timm_networks.load_imagenet(parsed.name, given)
        return load_embedded(parsed.name, given)
    if isinstance(parsed, ArchitectureReference):
        return _load_architecture(parsed, given, asked=asked, positional=positional, like=_stated_by(like))
    return _load_path(parsed, given, asked=asked, trust=trust, like=_stated_by(like))


def _stated_by(network: ImageNetwork | None) -> Preprocessing:
    """What a network says of its images, as any network of them might."""
    if network is None:
        return Preprocessing()
    return Preprocessing(network.image_shape, network.mean.flatten().tolist(), network.std.flatten().tolist())


def _load_architecture(
    parsed: ArchitectureReference, given: Preprocessing, *, asked: str, positional: bool, like: Preprocessing
) -> ImageNetwork:
    if parsed.weights is None:
        raise ReferenceNotFound(
            f"{asked} names an architecture without weights. Add them: {asked}@weights.safetensors "
            f"(or {asked}@{references.INITIAL} for the weights that the factory itself gives)."
        )
    origin, stated = _origin(parsed)
    weights = Path(parsed.weights)
    if weights.is_dir():
        run = read_run(weights, factory=origin.factory, given=given)
        _check_arguments(origin, run.origin, asked=asked, folder=weights)
        return run.network
    # Before building: a wrong path should not cost the seconds that a big architecture takes.
    checkpoint = None if parsed.weights == references.INITIAL else read_checkpoint(weights)
    built = build(origin)
    if isinstance(built, ImageNetwork):
        stated = Preprocessing(class_names=built.class_names).over(_stated_by(built))
        built = built.body
    if checkpoint is not None:
        if positional and not checkpoint.ordered:
            raise WeightsMismatch(
                f"{weights} cannot be paired by order: safetensors files keep none. "
                "Rename its tensors to the network's names, or use the PyTorch checkpoint it was made from."
            )
        load_weights(built, checkpoint.tensors, positional=positional, origin=str(weights))
        stated = read_sidecar(weights).over(stated)
    return wrap(built, given.over(stated).over(like), asked=asked, origin=origin)


def _origin(parsed: ArchitectureReference) -> tuple[Origin, Preprocessing]:
    """How the architecture is built, and what its library says about images."""
    if not parsed.factory.startswith("timm:"):
        return Origin(parsed.factory, parsed.arguments), Preprocessing()
    name = parsed.factory.removeprefix("timm:")
    return Origin(timm_networks.FACTORY, {**parsed.arguments, "name": name}), timm_networks.timm_preprocessing(name)


def _check_arguments(named: Origin, begun: Origin, *, asked: str, folder: Path) -> None:
    """Refuse a run of another architecture than the one that is named; what is not named is the run's."""
    for name, value in named.arguments.items():
        if name not in begun.arguments or begun.arguments[name] != value:
            raise WeightsMismatch(
                f"{asked} asks for {name}={value!r}, and {folder} began with {dict(begun.arguments)}. Name only what "
                "the run began with."
            )


def _load_path(
    parsed: PathReference, given: Preprocessing, *, asked: str, trust: str | None, like: Preprocessing
) -> ImageNetwork:
    path = parsed.path
    if path.is_dir():
        return read_run(path, given=given).network
    if path.name == RECORD_FILE and path.is_file():
        return read_run(path.parent, given=given).network
    if not path.exists():
        raise ReferenceNotFound(f"no model {asked!r}: no such file or folder. Give one of: {references.FORMS}.")
    if path.suffix == ".pt2":
        return _load_program(path, given, trust=trust, like=like)
    if path.suffix in WEIGHT_ENDINGS:
        raise ReferenceNotFound(
            f"{asked} holds weights, which do not say their architecture. "
            f"Name it: package.module:factory@{asked} or timm:NAME@{asked}."
        )
    raise ReferenceNotFound(f"{asked} is no model. Give one of: {references.FORMS}.")


def _load_program(path: Path, given: Preprocessing, *, trust: str | None, like: Preprocessing) -> ImageNetwork:
    """Read a `torch.export` archive, where the caller vouches for it."""
    if trust != "pt2":
        raise UntrustedFile(
            f"{path} is a torch.export archive, and reading one may run code from it. Where you trust it, say so: "
            "trust='pt2' (--trust pt2)."
        )
    try:
        program = torch.export.load(path)
    # The reader of a damaged archive raises whatever its parts raise.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CorruptFile(
            f"{path} is no torch.export archive, or damaged ({type(error).__name__}: {reason[:160]}). Export it again."
        ) from error
    body: nn.Module = program.module()
    # Exported modules refuse .train() and .eval(); their graph has one mode, so the flag may be set freely.
    for name in ("train", "eval"):
        body.__dict__.pop(name, None)
    known = given.over(Preprocessing(_exported_shape(program))).over(like)
    return wrap(body, known, asked=str(path), origin=None)


def _exported_shape(program: torch.export.ExportedProgram) -> tuple[int, ...] | None:
    """(channels, height, width) of the program's first input, where they are fixed."""
    wanted = program.graph_signature.user_inputs[:1]
    for node in program.graph.nodes:
        if node.name in wanted and (shape := getattr(node.meta.get("val"), "shape", None)) is not None:
            sizes = tuple(shape)[1:]
            return sizes if all(isinstance(size, int) for size in sizes) else None
    return None
