"""The rules of recurrent layers, which the recorder keeps whole.

Importing this module fills the table in `reverie.graph.rules`.

Sources: LSTM, Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; GRU, Cho et al. 2014, arXiv:1406.1078.
The order of the gates in the stored matrices is that of `torch.nn.LSTM` and `torch.nn.GRU`.
"""

from collections.abc import Iterator, Sequence

import torch

from reverie.graph.coupling import Axis
from reverie.graph.rules import Step, register_rule
from reverie.graph.trace import Value

__all__: list[str] = []

aten = torch.ops.aten

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@register_rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
def recurrent(step: Step) -> None:
    """One state of H units in every layer and direction; each stored matrix has gates x H rows.

    PyTorch states H once for all layers and directions, so unit u goes from all of them at once.
    """
    *positions, incoming = step.axes(step["input"])
    directions = 2 if step["bidirectional"] else 1
    matrices = 4 if step["has_biases"] else 2
    state = step["hx"] if isinstance(step["hx"], list | tuple) else [step["hx"]]
    if len(step["params"]) != matrices * directions * step["num_layers"]:
        _freeze_all(step)
        return
    units = step.coupling.atom(state[0].shape[-1])
    rows = step.coupling.product(step.fixed(_GATES[step.call.op.overloadpacket.__name__]), units)
    for value in state:
        step.couple(step.axes(value)[-1], units)
    step.attribute(incoming, "input_size")
    step.attribute(units, "hidden_size")
    outgoing = step.coupling.concat(*[units] * directions)
    for layer, weights in enumerate(_chunks(step["params"], matrices * directions)):
        for first, second, *biases in _chunks(weights, matrices):
            _cell(step, (first, second), biases, (incoming if layer == 0 else outgoing, rows, units))
    output = (*positions, outgoing)
    step.emit(output, *(step.axes(value) for value in state))


def _cell(step: Step, matrices: tuple[Value, Value], biases: Sequence[Value], axes: tuple[Axis, Axis, Axis]) -> None:
    incoming, rows, units = axes
    for matrix, read in zip(matrices, (incoming, units), strict=True):
        made, summed = step.axes(matrix)
        step.produce(made)
        step.couple(made, rows)
        step.couple(summed, read)
        step.consume(summed)
    for bias in biases:
        step.couple(step.axes(bias)[0], rows)


def _freeze_all(step: Step) -> None:
    for value in step.call.inputs:
        for axis in step.axes(value):
            step.freeze(axis, "projects its state")
    step.emit(*(tuple(step.fixed(size) for size in value.shape) for value in step.call.outputs))


def _chunks(values: Sequence[Value], size: int) -> Iterator[Sequence[Value]]:
    return (values[start : start + size] for start in range(0, len(values), size))
