"""A small architecture of each module of timm: what the forty leave out.

Of six names that sound small in each module of timm 1.0.31, the one with the fewest parameters, where it has at most 30
million and its own size of image; two at 256 pixels, since their own images are far larger. Those that take images of
any size are cut at 96 pixels; the time of their analysis is that of their own size.
"""

from collections.abc import Mapping

from reverie.bench.kinds.subject import Input, Subject

__all__ = ["LEFT_OUT", "TIMM_MODULES"]

_SMALLEST = (
    ("byoanet", "halonet_h1", 256),
    ("byobnet", "mobileone_s1", 224),
    ("cait", "cait_xxs24_224", 224),
    ("coat", "coat_tiny", 224),
    ("convit", "convit_tiny", 224),
    ("convmixer", "convmixer_768_32", 224),
    ("convnext", "convnext_atto", 224),
    ("cpubone", "cpubone_nano", 224),
    ("crossvit", "crossvit_tiny_240", 240),
    ("csatv2", "csatv2", 256),
    ("cspnet", "cs3darknet_focus_s", 256),
    ("cspnext", "cspnext_tiny", 224),
    ("davit", "davit_tiny", 224),
    ("deit", "deit_tiny_patch16_224", 224),
    ("densenet", "densenet121", 224),
    ("dla", "dla34", 224),
    ("dpn", "dpn48b", 224),
    ("edgenext", "edgenext_xx_small", 256),
    ("efficientformer", "efficientformer_l1", 224),
    ("efficientformer_v2", "efficientformerv2_s0", 224),
    ("efficientnet", "tinynet_e", 106),
    ("efficientvim", "efficientvim_m1", 224),
    ("efficientvit_mit", "efficientvit_b0", 224),
    ("efficientvit_msra", "efficientvit_m0", 224),
    ("eva", "eva02_tiny_patch14_224", 224),
    ("fasternet", "fasternet_t0", 224),
    ("fastvit", "fastvit_t8", 256),
    ("focalnet", "focalnet_tiny_srf", 224),
    ("gcvit", "gcvit_xxtiny", 224),
    ("ghostnet", "ghostnet_050", 224),
    ("hardcorenas", "hardcorenas_b", 224),
    ("hgnet", "hgnetv2_b0", 224),
    ("hiera", "hiera_tiny_224", 224),
    ("hieradet_sam2", "sam2_hiera_tiny", 256),
    ("hrnet", "hrnet_w18_small", 224),
    ("iformer", "iformer_t", 224),
    ("inception_next", "inception_next_atto", 224),
    ("inception_v3", "inception_v3", 299),
    ("lcnetv2", "lcnetv2_small", 224),
    ("levit", "levit_128", 224),
    ("lowformer", "lowformer_b0", 224),
    ("mambaout", "mambaout_femto", 224),
    ("maxxvit", "maxvit_pico_rw_256", 256),
    ("metaformer", "poolformer_s12", 224),
    ("mlp_mixer", "gmlp_ti16_224", 224),
    ("mobilenetv3", "mobilenetv3_small_050", 224),
    ("mobilevit", "mobilevit_xxs", 256),
    ("mvitv2", "mvitv2_tiny", 224),
    ("nest", "nest_tiny", 224),
    ("nfnet", "nf_regnet_b0", 192),
    ("pit", "pit_ti_224", 224),
    ("pvt_v2", "pvt_v2_b0", 224),
    ("rdnet", "rdnet_tiny", 224),
    ("regnet", "regnetx_004_tv", 224),
    ("repghost", "repghostnet_050", 224),
    ("repvit", "repvit_m1", 224),
    ("res2net", "res2next50", 224),
    ("resnest", "resnest14d", 224),
    ("resnet", "resnet18", 224),
    ("resnetv2", "resnetv2_18", 224),
    ("rexnet", "rexnet_100", 224),
    ("selecsls", "selecsls42", 224),
    ("senet", "legacy_seresnet18", 224),
    ("sequencer", "sequencer2d_s", 224),
    ("shvit", "shvit_s1", 224),
    ("sknet", "skresnet18", 224),
    ("starnet", "starnet_s050", 224),
    ("swiftformer", "swiftformer_xs", 224),
    ("swin_transformer", "swin_tiny_patch4_window7_224", 224),
    ("swin_transformer_v2", "swinv2_tiny_window8_256", 256),
    ("swin_transformer_v2_cr", "swinv2_cr_tiny_224", 224),
    ("tiny_vit", "tiny_vit_5m_224", 224),
    ("tnt", "tnt_s_legacy_patch16_224", 224),
    ("tresnet", "tresnet_m", 224),
    ("twins", "twins_svt_small", 224),
    ("visformer", "visformer_tiny", 224),
    ("vision_transformer", "vit_tiny_patch16_224", 224),
    ("vision_transformer_relpos", "test_vit_relpos", 160),
    ("vitamin", "vitamin_small_224", 224),
    ("volo", "volo_d1_224", 224),
    ("vovnet", "ese_vovnet19b_slim_dw", 224),
    ("xception", "legacy_xception", 299),
    ("xception_aligned", "xception41p", 299),
    ("xcit", "xcit_nano_12_p8_224", 224),
)

_NARROW: Mapping[str, object] = {"embed_dim": 96, "depth": 2, "num_heads": 3}

_MADE_SMALLER: tuple[tuple[str, str, int, Mapping[str, object]], ...] = (
    ("beit", "beit_base_patch16_224", 224, _NARROW),
    ("naflexvit", "naflexvit_base_patch16_gap", 224, _NARROW),
    ("nextvit", "nextvit_small", 224, {}),
    ("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", 224, {}),
    ("vision_transformer_sam", "samvit_base_patch16_224", 224, {**_NARROW, "global_attn_indexes": [1]}),
)
"""Modules whose smallest name is larger: built narrower where their factory lets it."""

_OWN_SIZE_ONLY = {
    "halonet_h1", "cait_xxs24_224", "coat_tiny", "convit_tiny", "deit_tiny_patch16_224", "efficientformer_l1",
    "efficientformerv2_s0", "eva02_tiny_patch14_224", "gcvit_xxtiny", "hiera_tiny_224", "levit_128",
    "maxvit_pico_rw_256", "gmlp_ti16_224", "nest_tiny", "pit_ti_224", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tnt_s_legacy_patch16_224", "visformer_tiny",
    "vit_tiny_patch16_224", "test_vit_relpos", "vitamin_small_224", "volo_d1_224", "beit_base_patch16_224",
    "vit_tiny_r_s16_p8_224",
}  # fmt: skip
_SMALL_SIDE = 96

LEFT_OUT = (
    "deepseek_vit", "gemma4_vit", "inception_resnet_v2", "inception_v4", "mobilenetv5", "nasnet", "pnasnet",
    "qwen3_vit", "vgg",
)  # fmt: skip
"""Modules with no small network; four of them are among the forty."""

TIMM_MODULES: tuple[Subject, ...] = tuple(
    Subject(
        name,
        f"timm module {module}",
        "timm:create_model",
        {"model_name": name, "num_classes": 10, **more},
        (Input((3, (small := side if name in _OWN_SIZE_ONLY else _SMALL_SIDE), small)),),
        full_inputs=(Input((3, side, side)),),
    )
    for module, name, side, more in (*((*one, {}) for one in _SMALLEST), *_MADE_SMALLER)
)
"""All of them, in the order of their modules."""
