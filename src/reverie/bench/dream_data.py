"""What the dream benchmark measures against and does not carry: real images and independently trained judges.

They are looked for in the folder `data` where the command runs: `cifar10-test.npz` and `cifar10-train.npz` with
arrays `images`, uint8 (n, 3, 32, 32), and `labels`; `cifar10_resnet20.safetensors`, `-32` and `-56`, the published
residual networks with padded shortcuts. Without them, the figures that need them say so.
"""

from pathlib import Path

from safetensors.torch import load_file

from reverie.core.errors import ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.zoo.datasets import folder_source
from reverie.zoo.networks import CifarResNet

__all__ = ["DATA", "cifar_images", "cifar_judge"]

DATA = Path("data")
SHAPE = (3, 32, 32)
# The normalization that the judges were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cifar_images(part: str) -> Source:
    """The real images of one part, `"test"` or `"train"`.

    Raises:
        ReferenceNotFound: They are not there.
    """
    return folder_source(_present(f"cifar10-{part}.npz"), image_shape=SHAPE)


def cifar_judge(depth: int) -> ImageNetwork:
    """A residual network of another depth, trained by others.

    Raises:
        ReferenceNotFound: Its weights are not there.
    """
    body = CifarResNet(blocks=(depth - 2) // 6, shortcut="pad")
    body.load_state_dict(load_file(_present(f"cifar10_resnet{depth}.safetensors")))
    return ImageNetwork(body, image_shape=SHAPE, mean=MEAN, std=STD).eval()


def _present(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        raise ReferenceNotFound(f"needs {path}, which is not here; see reverie.bench.dream_data for what it holds")
    return path
