"""Which number format a training step is fastest in, on the machine at hand."""

import torch
from torch import nn

__all__ = ["fast_precision"]


def fast_precision(network: nn.Module) -> torch.dtype:
    """bfloat16 where the network's device multiplies it in hardware and no convolution is depthwise, else float32.

    Depthwise convolutions on CPUs gain nothing from bfloat16, and the conversions around them cost. A rule and not a
    trial: timings change from run to run, and one seed must give the same bytes on one machine.

    Example:
        >>> fast_precision(nn.Conv2d(8, 8, 3, groups=8))
        torch.float32
    """
    device = next(network.parameters(), torch.empty(0)).device
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu" or not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.float32
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    depthwise = any(1 < module.groups == module.in_channels for module in convolutions)
    return torch.float32 if depthwise else torch.bfloat16
