"""Compensation without training: what a cut took from each layer's output is put back by the inputs that are left.

What for: a removed unit is rarely independent of the others. A least-squares fit of a layer's weights, from the inputs
that the cut network has to the outputs that the teacher had, gives back what is linear in them; no gradient, no labels.

Cost: one linear system per layer, and two passes of the images, which wait at each layer until it is fitted and hold
what they need in memory meanwhile. Where that is more than `held_bytes`, or a layer runs twice, two passes per layer.

Reference: He et al., 2017, "Channel pruning for accelerating very deep neural networks", arXiv:1707.06168, for the
reconstruction of a layer's output. Differs: the fit is a ridge around the weights that the cut left, of every layer in
the order of the network, on the cut network's own inputs.
"""

import copy
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn

from reverie.compress.layer_reading import Fittable, check_fit, drawn_rows, fits, fittable, read_layers
from reverie.compress.paced import paced
from reverie.core.edit import Keep, Record
from reverie.core.errors import RangeError
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.source import Source

__all__ = ["refit"]

# Layer after layer: its name, and per batch what it reads and what the teacher's gives.
Readings = Generator[tuple[str, Iterable[tuple[Tensor, Tensor]]], None, None]


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
    held_bytes: int = 4 * 2**30,
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
        held_bytes: What unfinished passes may hold in memory, by a rough count of what the widest layer needs, at least
            0; where it is too little, passes begin anew for every layer: the same weights, later.
        seed: Decides the positions.
        on_event: Called with the stage "refitting layers".

    Raises:
        RangeError: A number is out of its range.

    Fails when: there are fewer images and positions than inputs of a layer; the ridge then keeps what the cut left.
    """
    check_fit(ridge=ridge, images=images, batch_size=batch_size, positions=positions)
    if held_bytes < 0:
        raise RangeError(f"held_bytes must be at least 0, got {held_bytes}")
    fitted = copy.deepcopy(student)
    with frozen(teacher), frozen(fitted), torch.no_grad():
        order, width = _from_the_cut_on(teacher, fitted, record, source)
        batches = source.floats(slice(0, min(images, len(source)))).to(teacher.mean.device).split(batch_size)
        hold = width is not None and width * sum(map(len, batches)) <= held_bytes
        with closing((_in_turn if hold else _anew)(teacher, fitted, order, batches)) as readings:
            for done, (name, seen) in enumerate(readings, start=1):
                layer, rows, sums = fittable(fitted, name), _rows_left(record, name), _Sums()
                for index, (x, theirs) in enumerate(seen):
                    inputs, aim = drawn_rows(layer, x, theirs, most=positions, seed=seed, name=name, index=index)
                    sums.add(layer, inputs, aim if rows is None else aim[:, rows])
                sums.solve(layer, ridge=ridge)
                on_event(Event("refitting layers", done, len(order)))
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
        step = torch.linalg.solve(mean + held * torch.eye(len(mean)).to(mean), self.cross / self.count)
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias += step[-1].to(layer.bias)
                step = step[:-1]
            layer.weight += step.T.reshape(layer.weight.shape).to(layer.weight)


def _in_turn(teacher: ImageNetwork, fitted: ImageNetwork, order: Sequence[str], batches: Sequence[Tensor]) -> Readings:
    """Layer by layer, by passes that go on from one to the next: what it reads now, and what the teacher's gives."""
    with paced(fitted, order, batches, after=False) as mine, paced(teacher, order, batches, after=True) as theirs:
        for name in order:
            yield name, zip(mine(name), theirs(name), strict=True)


def _anew(teacher: ImageNetwork, fitted: ImageNetwork, order: Sequence[str], batches: Sequence[Tensor]) -> Readings:
    """The same by passes that begin anew for every layer."""
    for name in order:
        yield (
            name,
            (
                (read_layers(fitted, [name], batch)[name][0], read_layers(teacher, [name], batch)[name][1])
                for batch in batches
            ),
        )


def _rows_left(record: Record, name: str) -> Tensor | None:
    """Which of the outputs of the teacher's layer are left, or None where all are."""
    rows: Tensor | None = None
    for edit in record.edits:
        if isinstance(edit, Keep) and 0 in edit.slices.get(f"{name}.weight", {}):
            step = torch.tensor(edit.slices[f"{name}.weight"][0])
            rows = step if rows is None else rows[step]
    return rows


def _from_the_cut_on(
    teacher: ImageNetwork, fitted: ImageNetwork, record: Record, source: Source
) -> tuple[list[str], int | None]:
    """The layers to fit, as they run, and what one image's passes hold of bytes on their way.

    What runs before the first layer that was cut is as it was. None in place of bytes where passes cannot wait, since a
    layer runs twice or the teacher takes another way.
    """
    changed = {name.rpartition(".")[0] for edit in record.edits if isinstance(edit, Keep) for name in edit.slices}
    (calls, width), (their_calls, their_width) = (_calls(one, source) for one in (fitted, teacher))
    order = [name for name in dict.fromkeys(calls) if fits(teacher, name)]
    order = order[next((at for at, name in enumerate(order) if name in changed), len(order)) :]
    ways = [[name for name in one if name in set(order)] for one in (calls, their_calls)]
    # Twice the widest layer, for what runs beside it and what was made on the way.
    return order, 2 * (width + their_width) if ways == [order, order] else None


def _calls(network: ImageNetwork, source: Source) -> tuple[list[str], int]:
    """The convolutions and linear layers as they run, and the most bytes of an image that any reads and gives."""
    seen: list[str] = []
    width = 0

    def note(name: str) -> Callable[..., None]:
        def read(_: nn.Module, given: tuple[object, ...], output: object) -> None:
            nonlocal width
            seen.append(name)
            width = max(width, sum(x.nbytes for x in (*given, output) if isinstance(x, Tensor)) // len(images))

        return read

    images = source.floats(slice(0, 2)).to(network.mean.device)
    layers = [
        (name, module) for name, module in network.body.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in layers]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen, width
