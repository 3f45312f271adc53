"""The 22 kinds of networks that timm has not, as one or several small networks each."""

from collections.abc import Mapping

from reverie.bench.kinds.subject import Input, Subject

__all__ = ["OTHERS"]

_NONE: Mapping[str, object] = {}
_HERE = "reverie.bench.kinds"
_ZOO = "reverie.zoo.networks:CifarResNet"


def _image(size: int, channels: int = 3) -> tuple[Input, ...]:
    return (Input((channels, size, size)),)


def _one(
    name: str, place: str, inputs: tuple[Input, ...], arguments: Mapping[str, object] = _NONE
) -> tuple[str, str, tuple[Input, ...], Mapping[str, object]]:
    return name, place if ":" in place and place.startswith("reverie") else f"{_HERE}.{place}", inputs, arguments


_TIME = Input((), positive=True)
_TEN = Input((10,))

_KINDS = {
    "small-image classifiers": (
        _one("cifar-resnet20", _ZOO, _image(16), {"blocks": 3, "widths": [8, 16, 32], "shortcut": "pad"}),
        _one("cifar-resnet56", _ZOO, _image(16), {"blocks": 9, "widths": [8, 16, 32], "shortcut": "pad"}),
        _one("wrn-16-2", "images:wrn_16_2", _image(16)),
        _one("wrn-40-2", "images:wrn_40_2", _image(16)),
        _one("simplenet", "images:SimpleNet", _image(32)),
    ),
    "torchvision classifiers": (
        _one("alexnet", "libraries:alexnet", _image(64)),
        _one("googlenet", "libraries:googlenet", _image(64)),
        _one("shufflenet-v2", "libraries:shufflenet", _image(64)),
    ),
    "one-stage box heads": (
        _one("ssd300-vgg16", "libraries:ssd", _image(300)),
        _one("ssdlite320", "libraries:ssdlite", _image(128)),
    ),
    "two-stage detector": (_one("two-stage-fpn", "libraries:two_stage", _image(32)),),
    "yolo": (_one("yolo", "images:Yolo", _image(64)),),
    "dilated segmentation": (
        _one("deeplabv3-resnet50", "libraries:deeplab", _image(64)),
        _one("lraspp", "libraries:lraspp", _image(64)),
    ),
    "2-D U-Net": (
        _one("unet", "images:UNet", _image(32)),
        _one("nested-unet", "images:NestedUNet", _image(16)),
    ),
    "3-D U-Net and classifier": (
        _one("unet-3d", "images:UNet3d", (Input((1, 8, 8, 8)),)),
        _one("r3d-18", "libraries:r3d", (Input((3, 8, 32, 32)),)),
    ),
    "3-D window attention": (_one("swin3d-t", "libraries:swin3d", (Input((3, 4, 64, 64)),)),),
    "diffusion U-Net": (
        _one("diffusion-unet", "generative:DiffusionUNet", (*_image(16), _TIME)),
        _one("controlled-unet", "generative:ControlledUNet", (*_image(16), _TIME, Input((1, 16, 16)))),
    ),
    "DiT": (
        _one("dit", "generative:DiT", (*_image(16), _TIME, Input((), below=11))),
        _one("cross-dit", "generative:CrossDiT", (*_image(16), _TIME, Input((), below=11), Input((7, 20)))),
    ),
    "GAN generator": (_one("gan-generator", "generative:Generator", (Input((8,)), Input((), below=5))),),
    "AdaIN": (_one("adain", "generative:AdaInNet", (*_image(16), *_image(16))),),
    "1-D speaker nets": (
        _one("tdnn", "sequences:Tdnn", (Input((20, 30)),)),
        _one("ecapa", "sequences:Ecapa", (Input((20, 30)),)),
        _one("raw-speaker", "sequences:RawSpeaker", (Input((1, 300)),)),
    ),
    "1-D transformer and vocoder": (
        _one("wav2vec", "sequences:Waves", (Input((1, 200)),)),
        _one("vocoder", "sequences:Vocoder", (Input((20, 12)),)),
    ),
    "recurrent": (
        _one("cnn-lstm", "sequences:ConvLstm", (Input((4, 3, 16, 16)),)),
        _one("gru-cell", "sequences:Gru", (Input((6, 10)),)),
        _one("conv-gru", "sequences:ConvGru", (Input((3, 3, 8, 8)),)),
    ),
    "deformable": (
        _one("deformable-conv", "several:DeformableNet", _image(16)),
        _one("deformable-attention", "several:DeformableAttention", _image(16)),
    ),
    "invertible": (_one("i-revnet", "images:RevNet", _image(16, 4)),),
    "implicit": (
        _one("siren", "implicit:Siren", (Input((2,)),)),
        _one("nerf", "implicit:Nerf", (Input((6,)),)),
        _one("video-decoder", "implicit:VideoDecoder", (Input((1,), positive=True),)),
        _one("hash-grid", "implicit:HashGrid", (Input((2,), positive=True),)),
    ),
    "token transformers": (
        _one("token-encoder", "sequences:TokenEncoder", (Input((12,), below=30), Input((12,), below=2))),
        _one("token-decoder", "sequences:TokenDecoder", (Input((8, 3), below=20),)),
    ),
    "several inputs or outputs": (
        _one("siamese", "several:Siamese", (*_image(16), *_image(16))),
        _one("rgb-d", "several:RgbDepth", (*_image(16), Input((1, 16, 16)))),
        _one("two-backbones", "several:TwoBackbones", _image(16)),
        _one("many-heads", "several:ManyHeads", _image(16)),
    ),
    "own operators": (
        _one("prototypes", "several:Prototypes", _image(16, 1)),
        _one("kan", "several:Kan", (Input((6,)),)),
        _one("pac", "several:PixelAdaptive", _image(12)),
        _one("spiking", "several:Spiking", _image(16)),
        _one("experts", "several:Experts", (Input((7, 12)),)),
    ),
}

OTHERS: tuple[Subject, ...] = tuple(
    Subject(name, kind, factory, arguments, inputs)
    for kind, ones in _KINDS.items()
    for name, factory, inputs, arguments in ones
)
"""All of them, in the order of the kinds."""
