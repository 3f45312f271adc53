"""Compensation without training: what a cut took from each layer's output is put back by the inputs that are left.

What for: a removed unit is rarely independent of the others. A least-squares fit of a layer's weights, from the inputs
that the cut network has to the outputs that the teacher had, gives back what is linear in them; no gradient, no labels.

Cost: one linear system per layer, and two passes of the images per layer; or one pass of the teacher for all layers,
where each is fitted on the teacher's inputs.

Reference: He et al., 2017, "Channel pruning for accelerating very deep neural networks", arXiv:1707.06168, for the
reconstruction of a layer's output. Differs: the fit is a ridge around the weights that the cut left, of every layer in
the order of the network, on the cut network's own inputs.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reverie.compress.layer_reading import Fittable, check_fit, fits, fittable, output_rows, read_layers, rows_read
from reverie.core.edit import Keep, Record
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator
from reverie.core.source import Source

__all__ = ["refit"]


def refit(
    teacher: ImageNetwork,
    student: ImageNetwork,
    record: Record,
    source: Source,
    *,
    ridge: float = 1e-3,
    images: int = 256,
    batch_size: int = 64,
    positions: int = 64,
    sequential: bool = True,
    seed: int = 0,
    on_event: Listener = silent,
) -> ImageNetwork:
    """A copy of a cut network whose convolutions and linear layers were fitted anew to the teacher's outputs.

    For a layer with inputs x (with a 1 appended where it has a bias), weights W of the cut, and the teacher's outputs y
    of the channels that are left, the new weights minimize mean |y - V x|^2 + r |V - W|^2, with r the ridge times the
    mean square of x.

    Args:
        teacher: The network that was cut; untouched.
        student: What the cut left; untouched.
        record: Of the cut, on `teacher.body`.
        source: Images; labels are not read.
        ridge: How strongly the weights are held, above 0.
        images: How many are used at most.
        batch_size: Images at once.
        positions: Output positions per image at most that the fit looks at, drawn at random.
        sequential: Fit layer by layer, each on the inputs that the layers before it give now, so it also makes up for
            what they could not; else all at once, each on those of the teacher's inputs that are left.
        seed: Decides the positions.
        on_event: Called with the stage "refitting layers".

    Raises:
        RangeError: A number is out of its range.

    Fails when: there are fewer images and positions than inputs of a layer; the ridge then keeps what the cut left.
    """
    check_fit(ridge=ridge, images=images, batch_size=batch_size, positions=positions)
    fitted = copy.deepcopy(student)
    order = _from_the_cut_on(teacher, fitted, record, source)
    batches = source.floats(slice(0, min(images, len(source)))).split(batch_size)
    turns = [[name] for name in order] if sequential or not order else [order]
    for names in turns:
        sums: dict[str, _Sums] = {name: _Sums() for name in names}
        for index, batch in enumerate(batches):
            seen = _inputs_and_aims(teacher, fitted, names, batch, record, sequential=sequential)
            for name, (x, aim) in seen.items():
                layer = fittable(fitted, name)
                pick = torch.randperm(aim.shape[1], generator=generator(seed, "positions", name, index))[:positions]
                sums[name].add(layer, rows_read(layer, x)[:, pick].flatten(0, 1), aim[:, pick].flatten(0, 1))
        for name in names:
            sums[name].solve(fittable(fitted, name), ridge=ridge)
        on_event(Event("refitting layers", order.index(names[-1]) + 1, len(order)))
    return fitted


class _Sums:
    """What the fit of one layer needs of all rows, in float64: sum of x x', sum of x (y - W x)', and their number."""

    def __init__(self) -> None:
        self.gram, self.cross, self.count = torch.zeros(()), torch.zeros(()), 0

    def add(self, layer: Fittable, x: Tensor, aim: Tensor) -> None:
        weight = layer.weight.detach().flatten(1)
        if layer.bias is not None:
            weight = torch.cat([weight, layer.bias.detach()[:, None]], dim=1)
        inputs, rest = x.double(), (aim - x @ weight.T).double()
        self.gram = self.gram + inputs.T @ inputs
        self.cross = self.cross + inputs.T @ rest
        self.count += len(x)

    def solve(self, layer: Fittable, *, ridge: float) -> None:
        """Add to the weights what the rest asks for."""
        mean = self.gram / self.count
        held = ridge * float(mean.diagonal().mean()) or ridge
        step = torch.linalg.solve(mean + held * torch.eye(len(mean), dtype=mean.dtype), self.cross / self.count)
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias += step[-1].to(layer.bias)
                step = step[:-1]
            layer.weight += step.T.reshape(layer.weight.shape).to(layer.weight)


def _inputs_and_aims(
    teacher: ImageNetwork,
    fitted: ImageNetwork,
    names: Sequence[str],
    batch: Tensor,
    record: Record,
    *,
    sequential: bool,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> what it reads, and what it should give: (n, positions, outputs) of the teacher's that are left."""
    with frozen(fitted), frozen(teacher), torch.no_grad():
        theirs = read_layers(teacher, names, batch)
        mine = read_layers(fitted, names, batch) if sequential else {}
    found = {}
    for name in names:
        layer, rows = fittable(fitted, name), _kept(record, name, 0)
        x = mine[name][0] if sequential else _left(theirs[name][0], layer, _kept(record, name, 1))
        aim = output_rows(layer, theirs[name][1])
        found[name] = x, aim if rows is None else aim[..., rows]
    return found


def _kept(record: Record, name: str, dim: int) -> Tensor | None:
    """Rows of a layer's weight along a dimension that are left of the teacher's, or None where all are."""
    rows: Tensor | None = None
    for edit in record.edits:
        if isinstance(edit, Keep) and dim in edit.slices.get(f"{name}.weight", {}):
            step = torch.tensor(edit.slices[f"{name}.weight"][dim])
            rows = step if rows is None else rows[step]
    return rows


def _left(x: Tensor, layer: Fittable, rows: Tensor | None) -> Tensor:
    if rows is None:
        return x
    return x.index_select(1 if isinstance(layer, nn.Conv2d) else x.ndim - 1, rows)


def _from_the_cut_on(teacher: ImageNetwork, fitted: ImageNetwork, record: Record, source: Source) -> list[str]:
    """The layers to fit, as they run; what runs before the first layer that was cut is as it was."""
    changed = {name.rpartition(".")[0] for edit in record.edits if isinstance(edit, Keep) for name in edit.slices}
    order = [name for name in _in_order(fitted, source) if fits(teacher, name)]
    first = next((at for at, name in enumerate(order) if name in changed), len(order))
    return order[first:]


def _in_order(network: ImageNetwork, source: Source) -> list[str]:
    """Names of the convolutions and linear layers as they run, each once."""
    seen: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.setdefault(name)

    layers = [
        (name, module) for name, module in network.body.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in layers]
    try:
        with frozen(network), torch.no_grad():
            network(source.floats(slice(0, 2)))
    finally:
        for handle in handles:
            handle.remove()
    return list(seen)
