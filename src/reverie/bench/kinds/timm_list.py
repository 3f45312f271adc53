"""Forty architectures of timm, each in its own size and, where its factory lets it, in a smaller one."""

from collections.abc import Mapping
from typing import Any

from reverie.bench.kinds.subject import Input, Subject

__all__ = ["SPEED", "TIMM"]

_CREATE = "timm:create_model"
_ONES = [1, 1, 1, 1]
_SMALL = [16, 32, 64, 128]
_NONE: Mapping[str, Any] = {}


def _timm(
    name: str,
    kind: str,
    side: int,
    native: int,
    smaller: Mapping[str, Any] = _NONE,
    *,
    by: str | None = None,
) -> Subject:
    """An architecture; `by` is the factory that makes it smaller where `create_model` does not."""
    own = {"model_name": name, "num_classes": 10}
    arguments = dict(smaller) if by else own | dict(smaller)
    return Subject(
        name=name,
        kind=kind,
        factory=by or _CREATE,
        arguments=arguments,
        inputs=(Input((3, side, side)),),
        full=own,
        full_inputs=(Input((3, native, native)),),
        full_factory=_CREATE,
    )


_EFFICIENT = {"channel_multiplier": 0.25, "depth_multiplier": 0.3, "num_classes": 10}
_STEM = {"layers": _ONES, "channels": [8, 16, 32, 64]}

TIMM: tuple[Subject, ...] = (
    _timm("resnet18", "basic residual", 32, 224, {"channels": [8, 16, 32, 64]}),
    _timm("resnet50", "bottleneck residual", 32, 224, _STEM),
    _timm("resnet50d", "average-pooled shortcut", 32, 224, {**_STEM, "stem_width": 8}),
    _timm(
        "resnetv2_50", "pre-activation", 32, 224, {"layers": _ONES, "channels": [32, 64, 128, 256], "stem_chs": 16}
    ),
    _timm(
        "resnetv2_50x1_bit", "group norm, weight standardization", 32, 224,
        {"channels": [128, 256, 512, 1024], "stem_chs": 32},
    ),
    _timm(
        "resnext50_32x4d", "grouped convolution", 32, 224,
        {"layers": _ONES, "channels": _SMALL, "cardinality": 4, "base_width": 16},
    ),
    _timm("seresnet50", "squeeze and excitation", 32, 224, {"layers": _ONES, "channels": _SMALL}),
    _timm("resnest14d", "split attention", 64, 224, {"channels": _SMALL, "stem_width": 8}),
    _timm("res2net50_26w_4s", "split, add, concatenate", 32, 224, {"layers": _ONES, "channels": _SMALL}),
    _timm("dpn68b", "residual and dense", 64, 224, {"k_sec": _ONES, "inc_sec": [16, 16, 16, 16]}),
    _timm("densenet121", "dense concatenation", 32, 224, {"block_config": [2, 2, 2, 2], "growth_rate": 8}),
    _timm(
        "rdnet_tiny", "dense concatenation with layer norm", 64, 224,
        {
            "num_init_features": 16, "growth_rates": [8] * 7, "num_blocks_list": [1] * 7,
        },
    ),
    _timm(
        "vgg16_bn", "plain, linear head by convolution", 64, 224, by="reverie.bench.kinds.libraries:vgg16_bn"
    ),
    _timm("inception_v3", "asymmetric branches", 96, 299),
    _timm("inception_v4", "branches", 96, 299),
    _timm("inception_resnet_v2", "scaled residual of branches", 96, 299),
    _timm("legacy_xception", "depthwise separable", 64, 299),
    _timm(
        "nasnetalarge", "cells", 96, 331, {"stem_size": 16, "channel_multiplier": 2, "num_features": 384}
    ),
    _timm("inception_next_atto", "channel split into bands", 64, 224, {"depths": _ONES, "dims": _SMALL}),
    _timm("convnextv2_atto", "layer norm, response norm", 32, 224, {"depths": _ONES, "dims": [8, 16, 32, 64]}),
    _timm("mobilenetv2_100", "inverted residual", 32, 224, {"model_name": "mobilenetv2_035"}),
    _timm(
        "efficientnet_b0", "inverted residual with gates", 32, 224,
        {"variant": "efficientnet_b0", **_EFFICIENT}, by="timm.models.efficientnet:_gen_efficientnet",
    ),
    _timm(
        "efficientnetv2_rw_t", "fused inverted residual", 32, 224,
        {"variant": "efficientnetv2_rw_t", **_EFFICIENT, "depth_multiplier": 0.25},
        by="timm.models.efficientnet:_gen_efficientnetv2_s",
    ),
    _timm(
        "tf_efficientnet_cc_b0_4e", "kernels mixed per example", 32, 224,
        {"variant": "tf_efficientnet_cc_b0_4e", **_EFFICIENT}, by="timm.models.efficientnet:_gen_efficientnet_condconv",
    ),
    _timm("spnasnet_100", "searched mobile", 32, 224),
    _timm(
        "ghostnetv2_100", "ghost features, long-range gate", 64, 224,
        {"variant": "ghostnetv2_100", "width": 0.35, "version": "v2", "num_classes": 10},
        by="timm.models.ghostnet:_create_ghostnet",
    ),
    _timm("repvit_m0_9", "re-parameterized depthwise", 64, 224, {"embed_dim": _SMALL, "depth": _ONES}),
    _timm("hrnet_w18_small", "parallel resolutions", 64, 224),
    _timm(
        "vovnet39a", "one-shot aggregation", 64, 224,
        {"stage_conv_chs": [8, 8, 16, 16], "stage_out_chs": [16, 32, 48, 64]},
    ),
    _timm("cspdarknet53", "cross-stage partial", 64, 256),
    _timm("tresnet_m", "space to depth, blur", 64, 224, {"layers": _ONES, "width_factor": 0.25}),
    _timm("resnetblur18", "anti-alias buffers", 64, 224, {"channels": [8, 16, 32, 64]}),
    _timm("nfnet_l0", "no norm, scaled standardization", 32, 224, {"depths": _ONES, "channels": [256] * 4}),
    _timm("botnet26t_256", "attention with relative position", 64, 256, {"img_size": 64}),
    _timm(
        "deit_tiny_patch16_224", "plain transformer", 32, 224,
        {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3},
    ),
    _timm(
        "swinv2_tiny_window8_256", "shifted windows, cosine attention", 64, 256,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": _ONES, "num_heads": [1, 2, 4, 8]},
    ),
    _timm(
        "pvt_v2_b0", "spatial-reduction attention", 32, 224, {"depths": _ONES, "embed_dims": [8, 16, 40, 64]}
    ),
    _timm(
        "eva02_tiny_patch14_224", "gated perceptron, rotations", 32, 224,
        {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3},
    ),
    _timm(
        "sequencer2d_s", "two-dimensional LSTM", 56, 224,
        {"img_size": 56, "embed_dims": [24, 32, 48, 48], "layers": _ONES, "hidden_sizes": [6, 8, 12, 12]},
    ),
    _timm(
        "mixer_s16_224", "token mixing", 32, 224,
        {"img_size": 32, "patch_size": 4, "embed_dim": 48, "num_blocks": 2, "num_classes": 10},
        by="timm.models.mlp_mixer:MlpMixer",
    ),
)  # fmt: skip
"""The forty, in the order of the list."""


SPEED: tuple[Subject, ...] = tuple(
    Subject(name, "speed of analysis", _CREATE, {"model_name": name, "num_classes": 10}, (Input((3, side, side)),))
    for name, side in (
        ("densenet201", 224),
        ("resnest14d", 224),
        ("swin_tiny_patch4_window7_224", 224),
        ("vit_base_patch16_224", 224),
    )
)
"""Four whose analysis is to be fast, in their own size."""
