"""What modules of PyTorch state about their widths beyond what their operations show.

`nn.MultiheadAttention` has one number for the width of what it is given, of queries, keys and values, and of what it
returns, and refuses all else. So its embedding is heads times width of a head as well: unit (h, w) of the embedding
goes with unit (h, w) of queries, keys and values.

Sources: multi-head attention, Vaswani et al. 2017, arXiv:1706.03762; the layout of the stored matrices is PyTorch's.
"""

from torch import nn

from reverie.graph.rules import Analysis
from reverie.graph.trace import Trace

__all__ = ["couple_attention"]


def couple_attention(trace: Trace, analysis: Analysis) -> None:
    """Couple the widths of every multi-head attention that the trace ran, and note which attributes state them.

    Args:
        trace: What a network does.
        analysis: What the rules found; couplings and attributes are added.
    """
    ran = {call.module for call in trace.module_calls}
    for name, module in trace.model.named_modules():
        if type(module) is nn.MultiheadAttention and name in ran:
            _couple(trace, analysis, f"{name}." if name else "", module)


def _couple(trace: Trace, analysis: Analysis, prefix: str, module: nn.MultiheadAttention) -> None:
    coupling = analysis.coupling
    where = f"multi-head attention {prefix.rstrip('.')}"
    heads, width = coupling.atom(module.num_heads), coupling.atom(module.head_dim)
    embedding = coupling.product(heads, width)
    if f"{prefix}in_proj_weight" in trace.tensors:
        rows, given = analysis.axes[trace.tensors[f"{prefix}in_proj_weight"].index]
        coupling.couple(rows, coupling.product(coupling.atom(3, frozen=where), embedding), where)
        keys = values = given
    else:
        (rows, given), (_, keys), (_, values) = (
            analysis.axes[trace.tensors[f"{prefix}{one}_proj_weight"].index] for one in "qkv"
        )
        coupling.couple(rows, embedding, where)
    coupling.couple(given, embedding, where)
    stated = {"embed_dim": given, "kdim": keys, "vdim": values, "num_heads": heads, "head_dim": width}
    for name, axis in stated.items():
        analysis.attributes.setdefault((prefix + name, 0), axis)
