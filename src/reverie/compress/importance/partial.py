"""Compute a network again where only a few layers have changed: what does not depend on them is read, not computed.

What for: the oracle runs a network once per unit, and a unit of the last stage leaves all stages before it as they
were.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, fx, nn

__all__ = ["PartialRuns"]


class PartialRuns:
    """A module's forward pass as a list of operations, with their results kept.

    Args:
        body: Untouched, in evaluation mode. Its weights may change between runs.

    Attributes:
        possible: Whether the module could be read as a list of operations, none of which writes over what another one
            reads; else run it whole. Known after the first `whole`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
        >>> runs = PartialRuns(net)
        >>> with torch.no_grad():
        ...     results = runs.whole(torch.ones(1, 3))
        ...     _ = net[2].weight.zero_()
        ...     bool((runs.changed(results, {"2"}) == net[2].bias).all())
        True
    """

    def __init__(self, body: nn.Module) -> None:
        self.graph: fx.Graph | None = None
        self.modules = dict(body.named_modules())
        self.body = body
        try:
            self.graph = fx.Tracer().trace(body)
        # Whatever a network's code does with a proxy in place of a tensor, it then runs whole.
        except Exception:  # noqa: BLE001
            self.graph = None
        self.possible = self.graph is not None

    def whole(self, inputs: Tensor) -> dict[str, Any]:
        """Results of all operations."""
        results: dict[str, Any] = {}
        versions: dict[str, int] = {}
        for node in self._nodes():
            results[node.name] = self._run(node, results, inputs)
            versions[node.name] = _version(results[node.name])
        if any(_version(results[name]) != version for name, version in versions.items()):
            self.possible = False
        return results

    def changed(self, results: Mapping[str, Any], layers: Collection[str]) -> Tensor:
        """The output after some layers have changed.

        Args:
            results: Of `whole`, before.
            layers: Names of the modules that changed.
        """
        fresh: dict[str, Any] = {}
        for node in self._nodes():
            touched = node.op == "call_module" and any(_inside(str(node.target), layer) for layer in layers)
            if touched or any(one.name in fresh for one in node.all_input_nodes):
                fresh[node.name] = self._run(node, {**_needed(node, results), **_needed(node, fresh)}, None)
        (end,) = (node for node in self._nodes() if node.op == "output")
        outputs: Tensor = fresh.get(end.name, results[end.name])
        return outputs

    def _nodes(self) -> list[fx.Node]:
        return [] if self.graph is None else list(self.graph.nodes)

    def _run(self, node: fx.Node, results: Mapping[str, Any], inputs: Tensor | None) -> Any:  # noqa: ANN401  anything
        if node.op == "placeholder":
            return inputs
        args = fx.node.map_arg(node.args, lambda one: results[one.name])
        kwargs = fx.node.map_arg(node.kwargs, lambda one: results[one.name])
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            return self.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return _attribute(self.body, str(node.target))
        if not callable(node.target):
            raise TypeError(f"a traced function is callable, got {node.target!r}")
        return node.target(*args, **kwargs)


def _version(value: object) -> int:
    """How often a tensor was written to in place."""
    return value._version if isinstance(value, Tensor) else 0


def _needed(node: fx.Node, results: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: results[one.name] for one in node.all_input_nodes if one.name in results}


def _inside(target: str, layer: str) -> bool:
    return target == layer or layer.startswith(f"{target}.")


def _attribute(body: nn.Module, name: str) -> Any:  # noqa: ANN401  parameter, buffer or constant
    found: Any = body
    for part in name.split("."):
        found = getattr(found, part)
    return found
