"""What decides the cost of a network's layers, without the network: enough to read the table of another device.

A saved study keeps this, so a plan for a phone is solved on a laptop from two files. It is plain JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reverie.compress.sites import Sites
from reverie.graph.structure import Branch, Layer, Structure, Width

__all__ = ["blueprint", "blueprint_from_json", "blueprint_json"]

_TUPLES = ("kernel", "stride", "padding", "dilation", "input_size", "output_size")
_WIDTHS = ("incoming", "outgoing", "grouping")


def blueprint(sites: Sites) -> Sites:
    """The same sites with layers and blocks alone: no group, no tensor."""
    structure = sites.structure
    bare = Structure((), structure.layers, structure.branches, (), {}, {})
    return Sites(bare, sites.widths, sites.branch_of)


def blueprint_json(sites: Sites) -> dict[str, Any]:
    """A JSON value that `blueprint_from_json` reads back, the widths of the sites not included."""
    return {
        "layers": [asdict(layer) for layer in sites.structure.layers],
        "blocks": [asdict(branch) for branch in sites.structure.branches],
        "bypasses": {site: branch.module for site, branch in sites.branch_of.items()},
    }


def blueprint_from_json(stored: Mapping[str, Any], widths: Mapping[str, tuple[int, ...]]) -> Sites:
    """Read what `blueprint_json` wrote.

    Args:
        stored: The JSON value.
        widths: Site -> units kept by each option.
    """
    branches = {
        block["module"]: Branch(block["module"], *(tuple(block[name]) for name in ("layers", "groups", "silencers")))
        for block in stored["blocks"]
    }
    layers = tuple(_layer(layer) for layer in stored["layers"])
    structure = Structure((), layers, tuple(branches.values()), (), {}, {})
    return Sites(structure, widths, {site: branches[module] for site, module in stored["bypasses"].items()})


def _layer(stored: Mapping[str, Any]) -> Layer:
    read = {name: tuple(stored[name]) for name in _TUPLES} | {name: _width(stored[name]) for name in _WIDTHS}
    return Layer(**{**stored, **read})


def _width(stored: Mapping[str, Any]) -> Width:
    return Width(
        tuple(
            tuple(_width(factor) if isinstance(factor, Mapping) else (factor[0], factor[1]) for factor in term)
            for term in stored["terms"]
        )
    )
