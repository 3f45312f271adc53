"""A factor in front of all that reads a unit: 1 keeps it, 0 takes it away, and a derivative says what lies between.

What for: Taylor scores are derivatives with respect to such gates, and the oracle sets them to zero, so all kinds of
evidence mean the same removal, and the same as `reverie.graph.cut` where no normalization runs across units.

Reference: Molchanov et al., 2019, arXiv:1906.10771, for gates. Differs: the paper puts a gate behind the
batch normalization and one gate for a residual stage behind each of its additions; here the gate stands in the weights
that read the unit, whose sum of derivatives is the same number, for any network whose structure is known.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reverie.graph.structure import Group, Slice, Structure

__all__ = ["Gates", "gated_slices"]


def gated_slices(group: Group) -> tuple[Slice, ...]:
    """The slices whose common factor is the gate of a unit: all that read it.

    Where nothing but computed values reads the units, as with queries and keys, the first layer that makes them.
    """
    readers = tuple(one for one in group.slices if one.role == "consume")
    if readers:
        return readers
    makers = [one for one in group.slices if one.role == "produce"]
    first = [(one.tensor.rpartition(".")[0], one.offset) for one in makers[:1]]
    return tuple(one for one in makers if (one.tensor.rpartition(".")[0], one.offset) in first)


class Gates:
    """A network's body whose units can be weighted.

    Args:
        body: Untouched; a copy is kept in evaluation mode.
        structure: Of `body`.

    Example:
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> gates = Gates(net, probe(net, torch.zeros(1, 3)))
        >>> open_ = gates.ones()
        >>> open_["0"].shape
        torch.Size([4])
        >>> torch.equal(gates(torch.ones(1, 3), open_), net(torch.ones(1, 3)))
        True
    """

    def __init__(self, body: nn.Module, structure: Structure) -> None:
        self.body = copy.deepcopy(body).eval().requires_grad_(False)
        self.structure = structure
        self.state = dict(self.body.named_parameters()) | dict(self.body.named_buffers())
        self._rows = [
            (group.name, one.tensor, one.dim, torch.tensor(one.rows(range(group.units))), group.units)
            for group in structure.free
            for one in gated_slices(group)
            if one.tensor in self.state
        ]

    def ones(self) -> dict[str, Tensor]:
        """Gates that change nothing: group -> (units,)."""
        return {group.name: torch.ones(group.units) for group in self.structure.free}

    def __call__(self, inputs: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Outputs with every unit weighted by its gate; a group that is not named is whole."""
        factors: dict[tuple[str, int], Tensor] = {}
        for group, tensor, dim, rows, units in self._rows:
            if group in gates:
                whole = factors.get((tensor, dim))
                if whole is None:
                    whole = torch.ones(self.state[tensor].shape[dim]).to(self.state[tensor])
                spread = gates[group].repeat_interleave(len(rows) // units).to(whole)
                factors[tensor, dim] = whole.index_copy(0, rows, spread)
        changed: dict[str, Tensor] = {}
        for (tensor, dim), factor in factors.items():
            value = changed.get(tensor, self.state[tensor])
            changed[tensor] = value * factor.view([-1 if at == dim else 1 for at in range(value.ndim)])
        outputs: Tensor = torch.func.functional_call(self.body, changed, (inputs,))
        return outputs
