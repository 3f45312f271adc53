"""Rebuild a saved network with PyTorch and safetensors alone: the reader of `docs/loading_without_reverie.md`."""

import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import torch
from safetensors.torch import load_file


def rebuild(folder: str | Path, factory: Callable[..., torch.nn.Module]) -> Callable[..., torch.Tensor]:
    """The network of a run folder, as a function of images in [0, 1]; `factory` builds the original architecture."""
    record = json.loads((Path(folder) / "record.json").read_text())
    network = factory(**record["origin"]["arguments"])

    def put(path: str, value: object) -> None:
        owner, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(owner), leaf, value)

    for edit in record["record"]["edits"]:
        for name in edit.get("modules", ()):  # bypassed
            put(name, torch.nn.Identity())
        for name, kept_by_dim in edit.get("slices", {}).items():
            whole = tensor = attrgetter(name)(network)
            for dim, kept in kept_by_dim.items():
                tensor = tensor.index_select(int(dim), torch.tensor(kept, dtype=torch.int64))
            put(name, torch.nn.Parameter(tensor) if isinstance(whole, torch.nn.Parameter) else tensor)
        for path, size in edit.get("attributes", {}).items():
            put(path, tuple(size) if isinstance(size, list) else size)
        if "rank" in edit:  # one layer became two: a kernel with few outputs, and a pointwise one
            layer = attrgetter(edit["module"])(network)
            names = {"kernel_size", "stride", "padding", "dilation", "padding_mode"} & vars(layer).keys()
            window = {name: vars(layer)[name] for name in names}
            first = type(layer)(layer.weight.shape[1], edit["rank"], **window, bias=False)
            second = type(layer)(edit["rank"], len(layer.weight), *[1] * bool(window), bias=layer.bias is not None)
            put(edit["module"], torch.nn.Sequential(first, second))
    network.eval().load_state_dict(load_file(Path(folder) / "model.safetensors"))
    if "preprocessing" not in record:
        return network
    mean, std = (torch.tensor(record["preprocessing"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    return lambda images: network((images - mean) / std)
