"""What a cut network must answer, computed on the network that was not cut.

The reference for cuts through normalizations, softmaxes and attention, where zeroing a unit is not removing it. The
original network runs at full width, with its own constants, and beside every tensor runs a mask that says which
elements survive. Sums, means, variances, norms and products see the survivors only; what moves elements moves their
masks. It knows nothing of axes, groups or rules of coupling: it reads a record, and works element by element, so it
shares no error with the analysis that made the cut.

Cost: about twice a forward pass, and twice its memory.
"""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from reverie.core.edit import Bypass, Keep, Record
from reverie.core.errors import ReferenceNotFound, ShapeError, UnsupportedOp
from reverie.core.rng import preserved_rng
from reverie.graph import oracle_sums as oracle_sums  # fills the table
from reverie.graph.functions import parts_of_attention
from reverie.graph.oracle_rules import HANDLERS, MOVES, NAMED, Arguments, Handler

__all__ = ["surviving"]


def surviving(model: nn.Module, record: Record, *inputs: Tensor) -> Any:  # noqa: ANN401  whatever the network returns
    """What the network answers when only the elements that a record keeps take part.

    Args:
        model: The network before the record; untouched.
        record: Cuts and bypasses; its attributes are not looked at.
        inputs: What the network is called with.

    Returns:
        What the network returns, to be compared with the cut network's answer.

    Raises:
        UnsupportedOp: An operation has no masked form; the message names it.
        ShapeError: The record removes elements of the output.
        ReferenceNotFound: The record names tensors or modules that the model lacks.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
        >>> kept = (0, 2, 3)
        >>> cut = Record((Keep({"0.weight": {0: kept}, "0.bias": {0: kept}, "1.weight": {0: kept},
        ...                     "1.bias": {0: kept}, "2.weight": {1: kept}}),))
        >>> x = torch.randn(5, 3)
        >>> small = torch.nn.functional.layer_norm(net[0](x)[:, [0, 2, 3]], (3,)) @ net[2].weight[:, [0, 2, 3]].T
        >>> torch.allclose(surviving(net, cut, x), small + net[2].bias, atol=1e-6)
        True
    """
    subject = copy.deepcopy(model).eval()
    for edit in record.edits:
        if isinstance(edit, Bypass):
            edit.apply(subject)
    mode = _Masking()
    for name, kept in _kept(subject, record).items():
        tensor = _tensor(subject, name)
        mask = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
        for dim, rows in kept.items():
            gone = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
            gone[torch.tensor(rows, dtype=torch.int64, device=tensor.device)] = False
            mask.transpose(0, dim)[gone] = False
        mode.masks[tensor] = mask & mode.alive(tensor)
    with ExitStack() as stack:
        stack.enter_context(preserved_rng())
        stack.enter_context(torch.no_grad())
        # Recurrent layers and attention as single operations have no masked form; as their parts they have.
        stack.enter_context(parts_of_attention())
        stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        stack.enter_context(mode)
        answer = subject(*inputs)
    for leaf in tree_leaves(answer):
        if isinstance(leaf, Tensor) and not bool(mode.alive(leaf).all()):
            raise ShapeError("the record removes elements of the network's output; such a cut has no reference")
    return answer


def _kept(model: nn.Module, record: Record) -> dict[str, dict[int, list[int]]]:
    """Tensor -> dimension -> rows of the original that all cuts together keep."""
    found: dict[str, dict[int, list[int]]] = {}
    for edit in record.edits:
        for name, by_dim in edit.slices.items() if isinstance(edit, Keep) else ():
            if not _has(model, name):
                continue
            rows = found.setdefault(name, {})
            for dim, kept in by_dim.items():
                before = rows.get(dim, range(_tensor(model, name).shape[dim]))
                rows[dim] = [before[index] for index in kept]
    return found


def _has(model: nn.Module, name: str) -> bool:
    """Whether a tensor is there; cuts of what a later edit bypasses leave nothing to mask."""
    try:
        _tensor(model, name)
    except ReferenceNotFound:
        return False
    return True


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), leaf)
    except AttributeError as error:
        raise ReferenceNotFound(f"the record names {name}, which {type(model).__name__} lacks") from error
    if not isinstance(found, Tensor):
        raise ReferenceNotFound(f"the record names {name}, which is no tensor of {type(model).__name__}")
    return found


class _Masking(TorchDispatchMode):
    """Runs every operation on the survivors, and keeps a mask beside every tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.masks = WeakIdKeyDictionary()

    def alive(self, tensor: Tensor) -> Tensor:
        """Which elements of a tensor survive; all, where nothing else is known."""
        found = self.masks.get(tensor)
        if found is None:
            found = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
            self.masks[tensor] = found
        return found

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  whatever the operation returns
        arguments = Arguments(func, args, kwargs or {}, self.alive)
        handler = _handler(func)
        if handler is None:
            if not arguments.whole:
                raise UnsupportedOp(
                    f"{func.overloadpacket} has no masked form, so a cut through it has no reference. "
                    "Add one to reverie.graph.oracle_rules.HANDLERS."
                )
            return func(*args, **(kwargs or {}))
        result, masks = handler(arguments)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for output, mask in zip(outputs, masks, strict=False):
            if self.masks.get(output) is None:
                self.masks[output] = mask
            elif self.masks[output] is not mask:
                # In place: views of the tensor hold views of its mask.
                self.masks[output].copy_(mask)
        return result


def _handler(func: torch._ops.OpOverload) -> Handler | None:
    packet = func.overloadpacket
    found = HANDLERS.get(packet, NAMED.get(str(packet)))
    if found is None and (packet in MOVES or func.is_view):
        return HANDLERS[torch.ops.aten.view]
    if found is None and torch.Tag.pointwise in func.tags:
        return HANDLERS[torch.ops.aten.add]
    return found
