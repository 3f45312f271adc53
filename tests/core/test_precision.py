"""The rule that picks a number format."""

import torch
from torch import nn

from reverie.core.precision import choose_precision


def test_depthwise_networks_stay_in_single_precision() -> None:
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    grouped, dense = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(3, 8, 1)
    assert choose_precision(nn.Sequential(dense, grouped)) == torch.float32
    assert choose_precision(dense) == (torch.bfloat16 if native else torch.float32)
    assert choose_precision(nn.Conv2d(1, 8, 3)) == choose_precision(dense)


def test_a_network_without_parameters_is_taken_for_one_on_the_cpu() -> None:
    assert choose_precision(nn.ReLU()) in (torch.float32, torch.bfloat16)
