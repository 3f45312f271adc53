"""What no refit gives back: the error that is left once the units that stay make up for one that went.

What for: where a cut is compensated, what matters about a unit is not what it does but what only it does. Of two units
that always say the same, either may go for nothing, but not both: units therefore go one after the other, and every one
is judged beside those that are still there.

Cost: one pass of the images, then for each layer that reads units about inputs^2 * (units + outputs) multiply-adds.

Reference: Hassibi and Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", for the
error and the weights that are left. Differs: columns go together where a unit has several, as in Kurtic et al., 2023,
"ZipLM", arXiv:2302.04089; errors of all layers that read a group are added, each as a share of its layer's output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.compress.importance.scored import Scored
from reverie.compress.layer_reading import check_fit, drawn_rows, fits, fittable, read_layers
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph.structure import Group, Structure

__all__ = ["reconstruction_scores"]


def reconstruction_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    ridge: float = 1e-3,
    images: int = 256,
    batch_size: int = 64,
    positions: int = 64,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """How much of what reads a unit is lost for good when it goes, after those that would be missed less.

    For a layer with weights W that reads x, and P the inverse of mean x x' + r: taking the columns C of a unit away and
    fitting the others anew adds trace(W_C inverse(P_CC) W_C') to the mean square error of its output. The unit that
    adds least goes, W and P become those of the units that are left, and so on until none is.

    Shapes: per group (units,); groups that no linear layer or plain convolution reads, such as queries and keys, are
        left out.
    Units: share of the mean square of the readers' outputs, summed over readers; never less than that of a unit that
        went before. Higher means keep. Standard errors are not known, and so infinite.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        source: Images; labels are not read.
        ridge: r as a share of the mean square of x, above 0; as for `refit`.
        images: How many are used at most.
        batch_size: Images at once; with `positions`, decides which positions are drawn.
        positions: Output positions per image at most that are looked at, drawn at random.
        seed: Decides the positions.
        on_event: Called with the stage "ranking units", group by group.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> from torch import nn
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[9.0, 1, 1, 1], [1, 1, 1, 9], [1, 1, 1, 9]]))
        >>> _ = net[1].bias.data.zero_(), net[3].weight.data.fill_(1.0), net[3].bias.data.zero_()
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> found = reconstruction_scores(network, structure, noise_source(count=64, image_shape=(1, 2, 2), seed=0))
        >>> [round(value, 2) for value in found["1"].value.tolist()]  # of twins, one goes for nothing
        [0.02, 0.11, 0.0]

    Fails when: nothing is refitted after the cut: a unit whose twin stays is then missed after all.
    """
    check_fit(ridge=ridge, images=images, batch_size=batch_size, positions=positions)
    readers = {group.name: _readers(network, group) for group in structure.free}
    names = list(dict.fromkeys(name for found in readers.values() for name, _ in found))
    moments: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    batches = source.floats(slice(0, min(images, len(source)))).split(batch_size) if names else ()
    for index, batch in enumerate(batches):
        with frozen(network), torch.no_grad():
            seen = read_layers(network, names, batch.to(network.mean.device))
        for name, (x, output) in seen.items():
            layer = fittable(network, name)
            inputs, _ = drawn_rows(layer, x, output, most=positions, seed=seed, name=name, index=index)
            inputs = inputs.double()
            moments[name] = moments.get(name, 0) + (inputs.T @ inputs).cpu()
            counts[name] = counts.get(name, 0) + len(inputs)
    made = {}
    judged = [group for group in structure.free if readers[group.name]]
    for done, group in enumerate(judged, start=1):
        layers = [
            _Reader(_weights(network, name), moments[name] / counts[name], columns, ridge)
            for name, columns in readers[group.name]
        ]
        made[group.name] = Scored(_errors_in_turn(layers, group.units), torch.full((group.units,), float("inf")))
        on_event(Event("ranking units", done, len(judged)))
    return made


def _errors_in_turn(readers: Sequence["_Reader"], units: int) -> Tensor:
    """What each unit added when it went, or one before it."""
    errors = torch.zeros(units, dtype=torch.float64)
    left = list(range(units))
    highest = 0.0
    while left:
        added = torch.stack([reader.errors(left) for reader in readers]).sum(0)
        at = int(added.argmin())
        highest = max(highest, float(added[at]))
        unit = left.pop(at)
        errors[unit] = highest
        for reader in readers:
            reader.remove(unit)
    return errors


class _Reader:
    """A layer that reads the units of a group, while they go.

    Args:
        weight: (outputs, inputs), with the bias as a last column where there is one.
        moment: (inputs, inputs), the mean of x x'.
        columns: (units, columns of each).
        ridge: Share of the mean square of x.
    """

    def __init__(self, weight: Tensor, moment: Tensor, columns: Tensor, ridge: float) -> None:
        held = ridge * float(moment.diagonal().mean()) or ridge
        self.weight, self.columns = weight, columns
        self.inverse = torch.linalg.inv(moment + held * torch.eye(len(moment), dtype=moment.dtype))
        self.square = float((weight @ moment * weight).sum()) or 1.0

    def errors(self, units: Sequence[int]) -> Tensor:
        """(units,): what each one alone would add."""
        at = self.columns[list(units)]
        inner = self.inverse[at[:, :, None], at[:, None, :]]
        gone = self.weight[:, at].transpose(0, 1)
        return (torch.linalg.solve(inner, gone.transpose(1, 2)).transpose(1, 2) * gone).sum((1, 2)) / self.square

    def remove(self, unit: int) -> None:
        """Fit the others anew, and go on without the unit."""
        at = self.columns[unit]
        across = torch.linalg.solve(self.inverse[at[:, None], at], self.inverse[at])
        self.weight = self.weight - self.weight[:, at] @ across
        self.inverse = self.inverse - self.inverse[:, at] @ across


def _readers(network: ImageNetwork, group: Group) -> list[tuple[str, Tensor]]:
    """Layers that read a group's units, with the columns of each unit."""
    found = []
    for one in group.slices:
        layer, _, kind = one.tensor.rpartition(".")
        if one.role == "consume" and kind == "weight" and one.dim == 1 and fits(network, layer):
            inputs = torch.tensor(one.rows(range(group.units))).reshape(group.units, -1)
            taps = fittable(network, layer).weight[0, 0].numel()
            found.append((layer, (inputs[:, :, None] * taps + torch.arange(taps)).flatten(1)))
    return found


def _weights(network: ImageNetwork, name: str) -> Tensor:
    layer = fittable(network, name)
    weight = layer.weight.detach().flatten(1)
    if layer.bias is not None:
        weight = torch.cat([weight, layer.bias.detach()[:, None]], dim=1)
    return weight.double().cpu()
