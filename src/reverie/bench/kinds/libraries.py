"""Networks of torchvision without weights, with the parts that depend on data taken off.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Detectors end in their raw scores: what
comes after (sorting, suppression) has no parameters. Only PyTorch and torchvision are imported, so a fresh process
without Reverie can build them from this file alone.

Sources: SSD, Liu et al. 2016, arXiv:1512.02325; Faster R-CNN with feature pyramid, Lin et al. 2017, arXiv:1612.03144;
all others as torchvision cites them.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

__all__ = [
    "alexnet",
    "deeplab",
    "googlenet",
    "lraspp",
    "r3d",
    "shufflenet",
    "ssd",
    "ssdlite",
    "swin3d",
    "two_stage",
    "vgg16_bn",
]


def _quietly(build: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    with warnings.catch_warnings():
        # torchvision announces changes of its own defaults.
        warnings.simplefilter("ignore")
        return build(**arguments)


def alexnet() -> nn.Module:
    """Convolutions, a pool to 6 x 6, three wide linear layers."""
    return _quietly(torchvision.models.alexnet, num_classes=10)


def vgg16_bn() -> nn.Module:
    """Timm's VGG-16 with batch normalization and its head of convolutions, an eighth as wide."""
    from timm.models.vgg import VGG

    width, pool = (8, 16, 32, 64), "M"
    cfg = [width[0]] * 2 + [pool] + [width[1]] * 2 + [pool] + ([width[2]] * 3 + [pool]) + ([width[3]] * 3 + [pool]) * 2
    return VGG(cfg, num_classes=10, norm_layer=nn.BatchNorm2d, mlp_ratio=0.125)


def googlenet() -> nn.Module:
    """Branches with batch normalization, concatenated."""
    return _quietly(torchvision.models.googlenet, num_classes=10, aux_logits=False, init_weights=False)


def shufflenet() -> nn.Module:
    """Channel split, depthwise convolutions, channel shuffle."""
    return _quietly(torchvision.models.shufflenet_v2_x0_5, num_classes=10)


def r3d() -> nn.Module:
    """A residual network over video."""
    return _quietly(torchvision.models.video.r3d_18, num_classes=10)


def swin3d() -> nn.Module:
    """Shifted windows over video."""
    return _quietly(torchvision.models.video.swin3d_t, num_classes=10)


class Segmenter(nn.Module):
    """The mask alone of a segmentation network, which answers with a dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Scores at the size of the image."""
        return self.net(x)["out"]


def deeplab() -> nn.Module:
    """Dilated residual network with parallel dilated convolutions."""
    return Segmenter(
        _quietly(torchvision.models.segmentation.deeplabv3_resnet50, weights=None, weights_backbone=None, num_classes=6)
    )


def lraspp() -> nn.Module:
    """Mobile segmentation: a gated branch and a fine one are added."""
    build = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    return Segmenter(_quietly(build, weights=None, weights_backbone=None, num_classes=6))


class BoxHeads(nn.Module):
    """The features and raw heads of a one-stage detector."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.get_submodule("backbone")
        self.head = detector.get_submodule("head")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Regressions and scores of all anchors."""
        return self.head(list(self.backbone(x).values()))


def ssd() -> nn.Module:
    """Boxes from six resolutions over VGG."""
    build = torchvision.models.detection.ssd300_vgg16
    return BoxHeads(_quietly(build, weights=None, weights_backbone=None, num_classes=6))


def ssdlite() -> nn.Module:
    """Boxes from six resolutions, depthwise separable heads."""
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    return BoxHeads(_quietly(build, weights=None, weights_backbone=None, num_classes=6))


class TwoStage(nn.Module):
    """Feature pyramid, proposal head shared by its levels, and a box head over regions at fixed places.

    Shapes: images (n, 3, h, w) -> objectness and boxes of each level, scores and boxes of 4 regions per image.
    """

    regions: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.rpn import RPNHead
        from torchvision.ops import FeaturePyramidNetwork

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(12, 20, 3, 2, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU())
        self.pyramid = FeaturePyramidNetwork([12, 20], width)
        self.proposals, self.boxes = RPNHead(width, 3), TwoMLPHead(width * 25, 24)
        self.predictor = FastRCNNPredictor(24, 5)
        regions = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.1, 0.9, 0.8], [0.5, 0.5, 1.0, 1.0], [0.0, 0.3, 1.0, 0.6]])
        self.register_buffer("regions", regions)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Everything that has parameters behind it."""
        fine = self.layer1(self.stem(x))
        levels = self.pyramid({"0": fine, "1": self.layer2(fine)})
        objectness, offsets = self.proposals(list(levels.values()))
        regions = self.regions * x.shape[-1]
        # Not `len(x)`, which exporters take for a constant.
        count = x.shape[0]
        batch = torch.arange(count, device=x.device, dtype=x.dtype)[:, None].expand(count, len(regions)).reshape(-1, 1)
        rois = torch.cat([batch, regions.repeat(count, 1)], 1)
        seen = torchvision.ops.roi_align(levels["0"], rois, (5, 5), spatial_scale=0.25, sampling_ratio=2, aligned=True)
        scores, boxes = self.predictor(self.boxes(seen))
        return {"objectness": objectness, "offsets": offsets, "scores": scores, "boxes": boxes}


def two_stage() -> nn.Module:
    """The pyramid detector."""
    return TwoStage()
