"""Rebuild a saved network with PyTorch and safetensors alone: the reader of `docs/loading_without_reverie.md`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def rebuild(folder: str | Path, factory: Callable[..., torch.nn.Module]) -> Callable[..., torch.Tensor]:
    """The network of a run folder, as a function of images in [0, 1]; `factory` builds the original architecture."""
    record = json.loads((Path(folder) / "record.json").read_text())
    network = factory(**record["origin"]["arguments"])
    for edit in record["record"]["edits"]:
        for name in edit.get("modules", ()):  # bypassed
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, torch.nn.Identity())
        for name, kept_by_dim in edit.get("slices", {}).items():
            owner, _, leaf = name.rpartition(".")
            module = network.get_submodule(owner)
            tensor = getattr(module, leaf).detach()
            for dim, kept in kept_by_dim.items():
                tensor = tensor.index_select(int(dim), torch.tensor(kept, dtype=torch.int64))
            is_parameter = leaf in dict(module.named_parameters(recurse=False))
            setattr(module, leaf, torch.nn.Parameter(tensor) if is_parameter else tensor)
        for path, size in edit.get("attributes", {}).items():
            owner, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(owner), leaf, tuple(size) if isinstance(size, list) else size)
        if "rank" in edit:  # one layer became two
            owner, _, leaf = edit["module"].rpartition(".")
            layer: Any = network.get_submodule(edit["module"])
            make, rank, bias = type(layer), edit["rank"], layer.bias is not None
            if isinstance(layer, torch.nn.Linear):
                pair = make(layer.in_features, rank, bias=False), make(rank, layer.out_features, bias=bias)
            else:
                names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
                window = {name: getattr(layer, name) for name in names}
                pair = make(layer.in_channels, rank, **window, bias=False), make(rank, layer.out_channels, 1, bias=bias)
            setattr(network.get_submodule(owner), leaf, torch.nn.Sequential(*pair))
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    network.eval()
    if "preprocessing" not in record:
        return network
    stated = record["preprocessing"]
    mean, std = (torch.tensor(stated[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return lambda images: network((images - mean) / std)
