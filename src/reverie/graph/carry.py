"""What a cut leaves to do around a network: the state of its optimizer, and the constants of what was removed.

Cost: one copy of the network per kind of state; one pass over the example.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reverie.core.edit import Record, Scale, replay
from reverie.core.errors import ReferenceNotFound, UnsupportedOp
from reverie.core.rng import preserved_rng
from reverie.graph.cut import check_kept
from reverie.graph.structure import Structure
from reverie.graph.trace import Example, positional

__all__ = ["cut_optimizer", "fold_constants"]

_POWERS = {
    "momentum_buffer": -1, "exp_avg": -1, "exp_inf": -1, "grad_avg": -1, "prev": -1, "exp_avg_sq": -2,
    "max_exp_avg_sq": -2, "square_avg": -2, "sum": -2, "acc_delta": 2, "ax": 1, "step_size": 1,
}  # fmt: skip
"""State of PyTorch's optimizers -> the power of a parameter's scale that it goes with."""


def cut_optimizer(optimizer: Optimizer, model: nn.Module, small: nn.Module, record: Record) -> Optimizer:
    """The optimizer of a cut network that goes on where that of the whole one was: its state is cut alike.

    Args:
        optimizer: Over parameters of `model`; untouched.
        model: The network before the record; untouched.
        small: The network after it, as `cut` returned them.
        record: What was done.

    Returns:
        An optimizer of the same class over the parameters of `small`, with the same options in the same groups; those
        of modules that are gone are left out.

    Raises:
        ReferenceNotFound: The optimizer holds a parameter that the model lacks.
        UnsupportedOp: Some state is of another shape than its parameter, as that of Adafactor and LBFGS is; or the
            record scales parameters, and how some state goes with that is not known.

    Example:
        >>> from reverie.graph import cut, probe
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> steps = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> net(torch.ones(1, 3)).sum().backward()
        >>> steps.step()
        >>> small, record = cut(net, probe(net, torch.zeros(1, 3)), {"0": [0, 3]})
        >>> cut_optimizer(steps, net, small, record).state[small[0].weight]["momentum_buffer"].shape
        torch.Size([2, 3])
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    there = dict(small.named_parameters())
    groups = []
    for group in optimizer.param_groups:
        missing = [tuple(one.shape) for one in group["params"] if id(one) not in names]
        if missing:
            raise ReferenceNotFound(
                f"the optimizer holds a parameter of shape {missing[0]} that {type(model).__name__} lacks. "
                "Give the network whose parameters it was made for."
            )
        kept = [there[names[id(one)]] for one in group["params"] if names[id(one)] in there]
        groups.append({**group, "params": kept})
    fresh = type(optimizer)(groups, **{key: optimizer.defaults[key] for key in ("lr",) if key in optimizer.defaults})
    states = {names[id(one)]: state for one, state in optimizer.state.items() if id(one) in names}
    for key in sorted({key for state in states.values() for key in state}):
        _carry(key, states, (model, there, record), fresh)
    return fresh


def _carry(
    key: str,
    states: Mapping[str, Mapping[str, object]],
    networks: tuple[nn.Module, Mapping[str, nn.Parameter], Record],
    fresh: Optimizer,
) -> None:
    """One kind of state, cut as a network whose parameters it is."""
    model, there, record = networks
    holder = copy.deepcopy(model)
    shaped = set()
    with torch.no_grad():
        for name, parameter in holder.named_parameters():
            value = states.get(name, {}).get(key)
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                parameter.copy_(value)
                shaped.add(name)
            elif not (isinstance(value, int | float | None) or (isinstance(value, Tensor) and value.numel() == 1)):
                raise UnsupportedOp(
                    f"the optimizer's {key!r} of {name} is neither of its shape nor one number, and how that is cut is "
                    "not known. Make a new optimizer for the cut network."
                )
    cut = dict(replay(_scaled(record, key, shaped), holder).named_parameters())
    for name, state in states.items():
        if key in state and name in there:
            value = cut[name].detach() if name in shaped else state[key]
            fresh.state[there[name]][key] = value.clone() if isinstance(value, Tensor) else copy.copy(value)


def _scaled(record: Record, key: str, shaped: set[str]) -> Record:
    edits = []
    for edit in record.edits:
        if isinstance(edit, Scale) and shaped & edit.rows.keys():
            if key not in _POWERS:
                raise UnsupportedOp(
                    f"the cut scales {next(iter(edit.rows))}, and how the optimizer's {key!r} goes with that is not "
                    "known. Make a new optimizer for the cut network."
                )
            edit = Scale(edit.rows, edit.factor ** _POWERS[key])
        edits.append(edit)
    return Record(tuple(edits))


def fold_constants(
    model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]], example: Example
) -> nn.Module:
    """A copy in which what removed units hand on average to the next layers is in these layers' biases already.

    A unit whose input is gone still passes on a constant, such as a normalization's shift behind a ReLU. Cut the copy
    next. Where the constant is one, and no padding lies around it, nothing is lost: the cut is exact. A layer without
    bias hands it to the stored mean of the batch normalization behind it; where there is neither, it is lost.

    Args:
        model: The network that was probed; untouched.
        structure: From `probe`.
        kept: As for `cut`.
        example: A batch over which means are taken, or a tuple of positional arguments.

    Raises:
        ReferenceNotFound: A group does not exist.
        RangeError: As for `cut`.

    Example:
        >>> from reverie.graph import cut, probe
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> found, x = probe(net, torch.zeros(1, 3)), torch.ones(4, 3)
        >>> folded = fold_constants(net, found, {"0": [0]}, x)
        >>> torch.allclose(cut(folded, found, {"0": [0]})[0](x), net(x))
        True

    Fails when: the example says nothing of the data that the network will see.
    """
    removed = _removed(model, structure, check_kept(model, structure, kept))
    folded = copy.deepcopy(model).eval()
    means, behind = _means(folded, removed, example)
    with torch.no_grad():
        for name, (rows, dim) in removed.items():
            layer = folded.get_submodule(name)
            if name not in means or not isinstance(layer, _LAYERS):
                continue
            gone = torch.zeros_like(means[name])
            gone[_channels(layer, rows, dim)] = 1
            constant = _handed_on(layer, means[name] * gone)
            norm = behind.get(name)
            if layer.bias is not None:
                layer.bias += constant
            elif norm is not None and isinstance(norm.running_mean, Tensor):
                norm.running_mean -= constant
    for module, before in zip(folded.modules(), model.modules(), strict=True):
        module.training = before.training
    return folded


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _removed(
    model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]
) -> dict[str, tuple[list[int], int]]:
    """Layer -> the rows of its weight that no longer sum, and their dimension."""
    found: dict[str, tuple[list[int], int]] = {}
    for name, indices in kept.items():
        group = structure.group(name)
        gone = sorted(set(range(group.units)) - set(indices))
        for part in group.slices:
            owner, _, leaf = part.tensor.rpartition(".")
            if part.role == "consume" and leaf == "weight" and part.dim == 1:
                found.setdefault(owner, ([], part.dim))[0].extend(part.rows(gone))
    return {owner: rows for owner, rows in found.items() if isinstance(model.get_submodule(owner), _LAYERS)}


def _means(
    model: nn.Module, names: Mapping[str, object], example: Example
) -> tuple[dict[str, Tensor], dict[str, nn.modules.batchnorm._BatchNorm]]:
    """Layer -> the mean of each input channel, and the batch normalization that reads its output."""
    means: dict[str, list[Tensor]] = {}
    made: dict[int, tuple[str, Tensor]] = {}
    behind: dict[str, nn.modules.batchnorm._BatchNorm] = {}
    handles = []
    for name, module in model.named_modules():
        if name in names:

            def after(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                dim = args[0].ndim - 1 if isinstance(layer, nn.Linear) else 1
                means.setdefault(name, []).append(args[0].transpose(0, dim).flatten(1).mean(1))
                made[id(output)] = name, output

            handles.append(module.register_forward_hook(after))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):

            def before(norm: nn.modules.batchnorm._BatchNorm, args: tuple[Tensor, ...]) -> None:
                if id(args[0]) in made:
                    behind[made[id(args[0])][0]] = norm

            handles.append(module.register_forward_pre_hook(before))
    try:
        with torch.no_grad(), preserved_rng():
            model(*positional(example))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(found).mean(0) for name, found in means.items()}, behind


def _channels(layer: nn.Module, rows: Sequence[int], dim: int) -> list[int]:
    """Input channels of rows of a weight; every group of a convolution has its own."""
    size = layer.get_parameter("weight").shape[dim]
    return [group * size + row for group in range(getattr(layer, "groups", 1)) for row in rows]


def _handed_on(layer: nn.Module, channels: Tensor) -> Tensor:
    """What a layer adds to each output where its input channels are these constants, without its bias."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Linear):
        return weight @ channels
    groups = getattr(layer, "groups", 1)
    summed = weight.flatten(2).sum(2)
    outgoing = summed.shape[0] // groups
    parts = zip(summed.split(outgoing), channels.chunk(groups), strict=True)
    return torch.cat([one @ given for one, given in parts])
