"""A cut network as one plain source file, for networks whose code states widths as numbers.

`cut` keeps the class of a network, so code such as `x.view(n, 64)` stops it. Here the recorded operations themselves
are written out, with every size restated for the cut: a module of PyTorch alone, with the same names in its state_dict,
and nothing of the original class. What is handed over was run and compared with what the surviving units answer.

Cost: two recordings and four forward passes.

Unlike the original: sizes other than the batch are those of the example, and the answer is a tuple where the
network returns anything but one tensor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from reverie.core.edit import Keep, Record
from reverie.core.errors import VerificationFailed
from reverie.core.rng import generator, preserved_rng
from reverie.core.store import write_bytes, write_json
from reverie.graph.cut import check_kept, keep_units
from reverie.graph.describe import describe
from reverie.graph.numeric import distance
from reverie.graph.oracle import surviving
from reverie.graph.rules import analyze
from reverie.graph.source_text import Sizes, write_forward
from reverie.graph.structure import Structure
from reverie.graph.trace import Example, Trace, positional, record

__all__ = ["CLASS", "Written", "as_source", "loose_structure", "save_source"]

CLASS = "Network"
_TOLERANCE = 1e-5
_BATCH = 2


@dataclass(frozen=True, eq=False)
class Written:
    """A cut network as text and tensors.

    Attributes:
        text: A Python module that needs PyTorch alone; its class is `Network`, without arguments.
        tensors: For `Network().load_state_dict`.
        record: Which rows of which tensors of the original are kept.
        difference: Largest difference from what the surviving units answer, as a share of the largest number in an
            output.
    """

    text: str
    tensors: Mapping[str, Tensor]
    record: Record
    difference: float

    def build(self) -> nn.Module:
        """The network itself, in evaluation mode. Runs the text."""
        space: dict[str, Any] = {}
        exec(compile(self.text, "<cut network>", "exec"), space)  # noqa: S102  text that this module wrote
        net: nn.Module = space[CLASS]()
        net.load_state_dict(dict(self.tensors))
        return net.eval()


def loose_structure(model: nn.Module, example: Example) -> Structure:
    """The groups that could be cut if the code stated no width: what `as_source` takes units from.

    Args:
        model: Any module; untouched.
        example: As for `probe`.
    """
    trace = record(model, example)
    return describe(trace, analyze(trace))[0]


def as_source(
    model: nn.Module, example: Example, kept: Mapping[str, Sequence[int]], *, tolerance: float = _TOLERANCE
) -> Written:
    """Cut units and write the result out as source, verified at two batch sizes.

    Args:
        model: In evaluation mode; untouched.
        example: A batch, or positional arguments; every tensor's first dimension is the batch.
        kept: Group of `loose_structure` -> units to keep.
        tolerance: Largest difference allowed, as a share of the largest number in an output.

    Raises:
        ShapeError: A tensor of the example has no batch.
        UnsupportedOp: An operation reads a tensor that is stored outside parameters and buffers, or the number of
            operations depends on the batch.
        VerificationFailed: The written network does not answer as the surviving units do; nothing is handed over.
        RangeError: A group is frozen for another reason than a stated size, or indices are wrong.

    Example:
        >>> class Stated(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.last(self.first(x).mean((2, 3)).view(-1, 8))
        >>> source = as_source(Stated(), torch.zeros(1, 3, 4, 4), {"first": [0, 5]})
        >>> source.build()(torch.ones(3, 3, 4, 4)).shape, source.tensors["last.weight"].shape
        (torch.Size([3, 2]), torch.Size([2, 2]))

    Fails when: a number that is no size, such as a padding of channels, was computed from a width.
    """
    traces = [record(model, _batched(example, count)) for count in (_BATCH, _BATCH + 1)]
    analysis = analyze(traces[0])
    structure, atoms = describe(traces[0], analysis)
    checked = check_kept(model, structure, kept)
    widths = {atoms[name]: len(units) for name, units in checked.items()}
    edit = Keep(keep_units(model, structure, checked).slices)
    tensors = _tensors(model, traces[0], edit)
    learned = {name for name, _ in model.named_parameters()}
    sizes = Sizes(analysis, widths, traces[0], traces[1], _BATCH)
    text = _module(type(model).__name__, tensors, learned, write_forward(traces[0], analysis, sizes))
    source = Written(text, tensors, Record((edit,)), 0.0)
    difference = _verify(model, source, example, tolerance)
    return Written(text, tensors, source.record, difference)


def save_source(source: Written, folder: Path) -> None:
    """Write `network.py`, `model.safetensors` and `network.json`, which says where the two come from.

    There is no `record.json`: `reverie.load` rebuilds networks of their original class, and this one has none.

    Args:
        source: From `as_source`.
        folder: Made if need be; these three files in it are replaced.

    Raises:
        NotWritable: The folder cannot be written.
    """
    content = safetensors.torch.save(dict(source.tensors), metadata={"format": "pt"})
    write_bytes(folder / "network.py", source.text.encode())
    write_bytes(folder / "model.safetensors", content)
    value = {
        "format": 1,
        "source": {
            "file": "network.py",
            "class": CLASS,
            "sha256": hashlib.sha256(source.text.encode()).hexdigest(),
            "why": "the original's forward pass states widths as numbers, so its class cannot hold the cut network",
            "largest_difference": source.difference,
        },
        "record": source.record.to_json(),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "torch": str(torch.__version__),
    }
    write_json(folder / "network.json", value)


def _batched(example: Example, count: int) -> Example:
    """The same inputs with another batch; their values are not read."""

    def one(value: Any) -> Any:  # noqa: ANN401  an argument of any kind
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        return value[:1].expand(count, *value.shape[1:]).contiguous()

    return tuple(one(value) for value in positional(example))


def _tensors(model: nn.Module, trace: Trace, edit: Keep) -> dict[str, Tensor]:
    """The tensors that the pass reads, cut."""
    read = {value.index for call in trace.calls for value in call.inputs} | {value.index for value in trace.outputs}
    found = {}
    for name, value in trace.tensors.items():
        if value.index in read:
            owner, _, leaf = name.rpartition(".")
            tensor: Tensor = getattr(model.get_submodule(owner), leaf).detach()
            for dim, rows in edit.slices.get(name, {}).items():
                tensor = tensor.index_select(dim, torch.tensor(rows, dtype=torch.int64, device=tensor.device))
            found[name] = tensor.cpu().contiguous().clone()
    return found


def _verify(model: nn.Module, source: Written, example: Example, tolerance: float) -> float:
    devices = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    built = source.build().to(devices[0] if devices else "cpu")
    worst = 0.0
    for count in (_BATCH, 1):
        inputs = tuple(_random(value, count) for value in positional(example))
        wanted = _leaves(surviving(model, source.record, *inputs))
        with torch.no_grad(), preserved_rng():
            try:
                found = _leaves(built(*inputs))
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise VerificationFailed(
                    f"{type(model).__name__} was written out for this cut, but the result does not run "
                    f"({str(error).partition(chr(10))[0]}); it is not handed over. Keep the group at fault whole."
                ) from error
        worst = max(worst, distance(found, wanted))
    if worst > tolerance:
        raise VerificationFailed(
            f"{type(model).__name__} was written out for this cut, but answers differently from its surviving units by "
            f"{worst:.3g}, above {tolerance:g}; it is not handed over. Keep fewer groups cut to find the one at fault."
        )
    return worst


def _random(value: Any, count: int) -> Any:  # noqa: ANN401  an argument of any kind
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return value[:1].expand(count, *value.shape[1:]).contiguous()
    noise = torch.randn((count, *value.shape[1:]), generator=generator(0, "source", count), dtype=value.dtype)
    return noise.to(value.device)


def _leaves(tree: object) -> list[Tensor]:
    return [leaf.double() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _module(original: str, tensors: Mapping[str, Tensor], learned: set[str], forward: Sequence[str]) -> str:
    lines = [
        f'"""{original} without some of its units, as the operations that one pass of it performs.',
        "",
        "Written by Reverie, because the original's code states widths as numbers. Needs PyTorch alone:",
        "",
        "    from safetensors.torch import load_file",
        f"    network = {CLASS}()",
        '    network.load_state_dict(load_file("model.safetensors"))',
        '"""',
        "",
        "import torch",
        "from torch import nn",
        "",
        "aten = torch.ops.aten",
        "",
        "TENSORS = {  # name: shape, type, whether it is learned",
    ]
    for name, tensor in tensors.items():
        lines.append(f'    "{name}": ({tuple(tensor.shape)}, {tensor.dtype}, {name in learned}),')
    lines += [
        "}",
        "",
        "",
        f"class {CLASS}(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        for name, (shape, dtype, learned) in TENSORS.items():",
        "            owner, (*path, leaf) = self, name.split('.')",
        "            for part in path:",
        "                if part not in owner._modules:",
        "                    owner.add_module(part, nn.Module())",
        "                owner = owner._modules[part]",
        "            tensor = torch.zeros(shape, dtype=dtype)",
        "            if learned:",
        "                owner.register_parameter(leaf, nn.Parameter(tensor))",
        "            else:",
        "                owner.register_buffer(leaf, tensor)",
        "",
        *forward,
    ]
    return "\n".join(lines) + "\n"
