"""Law 2: a cut network equals its reference, on every kind of network, to 1e-5 in single precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graph.networks import CASES, Case, assert_exact, example, lively, some_kept
from reverie.graph import cut, masked, probe
from reverie.graph.structure import Structure
from reverie.zoo.networks import CifarResNet, CifarVGG

TIMM: dict[str, tuple[str, dict[str, object], int]] = {
    "resnet18": ("resnet18", {"channels": (8, 16, 32, 64)}, 32),
    "resnet50": ("resnet50", {"layers": (1,) * 4, "channels": (8, 16, 32, 64)}, 32),
    "resnetv2_50": ("resnetv2_50", {"layers": (1,) * 4, "channels": (32, 64, 128, 256), "stem_chs": 16}, 32),
    "resnext50": (
        "resnext50_32x4d",
        {"layers": (1,) * 4, "channels": (16, 32, 64, 128), "cardinality": 4, "base_width": 16},
        32,
    ),
    "seresnet50": ("seresnet50", {"layers": (1,) * 4, "channels": (16, 32, 64, 128)}, 32),
    "res2net50": ("res2net50_26w_4s", {"layers": (1,) * 4, "channels": (16, 32, 64, 128)}, 32),
    "dpn68b": ("dpn68b", {"k_sec": (1,) * 4, "inc_sec": (16,) * 4}, 64),
    "densenet121": ("densenet121", {"block_config": (2, 2, 2, 2), "growth_rate": 8}, 32),
    "mobilenetv2": ("mobilenetv2_035", {}, 32),
    "efficientnet": ("tinynet_e", {}, 32),
    "resnetblur18": ("resnetblur18", {"channels": (8, 16, 32, 64)}, 32),
    "inception_next": ("inception_next_atto", {"depths": (1,) * 4, "dims": (16, 32, 64, 128)}, 64),
    "convnextv2": ("convnextv2_atto", {"depths": (1,) * 4, "dims": (8, 16, 32, 64)}, 32),
    "deit": (
        "deit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3},
        32,
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_is_a_mask(case: Case):
    assert assert_exact(lively(case.build()), example(case)).free


@pytest.mark.parametrize("name", TIMM)
def test_a_cut_is_a_mask_for_timm(name: str):
    timm = pytest.importorskip("timm")
    reference, arguments, size = TIMM[name]
    net = lively(timm.create_model(reference, num_classes=10, **arguments))
    structure = assert_exact(net, torch.randn(1, 3, size, size))
    assert structure.free
    assert all(structure.frozen.values())


def masks(structure: Structure, kept: dict[str, list[int]], norms: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Normalization -> 0 or 1 per channel, by the rows of its weight that its groups lose."""
    found = {name: torch.ones(norm.num_features) for name, norm in norms.items()}
    for name, indices in kept.items():
        group = structure.group(name)
        gone = [unit for unit in range(group.units) if unit not in indices]
        for part in group.slices:
            owner, _, leaf = part.tensor.rpartition(".")
            if owner in found and leaf == "weight":
                found[owner][part.rows(gone)] = 0
    return found


@pytest.mark.parametrize(
    "build",
    [
        lambda: CifarResNet(blocks=2, widths=(6, 8, 10)),
        lambda: CifarResNet(blocks=2, widths=(6, 8, 12), shortcut="pad"),
        lambda: CifarVGG(stages=((6, 7), (8,))),
    ],
    ids=["resnet project", "resnet pad", "vgg"],
)
def test_a_cut_is_a_mask_behind_each_normalization(build: Callable[[], nn.Module]):
    """An oracle of its own: all of these put ReLU, which keeps zeros, behind each normalization or addition."""
    net = lively(build())
    batch = torch.randn(2, 3, 8, 8)
    structure = probe(net, batch)
    kept = {group.name: some_kept(group.units, index) for index, group in enumerate(structure.free)}
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    handles = [
        norms[name].register_forward_hook(lambda _module, _args, output, mask=mask: output * mask[:, None, None])
        for name, mask in masks(structure, kept, norms).items()
    ]
    with torch.no_grad():
        wanted = net(batch)
        for handle in handles:
            handle.remove()
        found = cut(net, structure, kept)[0](batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_cut_in_every_count_is_exact():
    net = lively(CifarResNet(blocks=1, widths=(4, 4, 4)))
    batch = torch.randn(2, 3, 8, 8)
    structure = probe(net, batch)
    for count in range(1, 4):
        kept = {group.name: range(count) for group in structure.free}
        with torch.no_grad():
            torch.testing.assert_close(
                cut(net, structure, kept)[0](batch), masked(net, structure, kept)(batch), rtol=1e-5, atol=1e-5
            )
