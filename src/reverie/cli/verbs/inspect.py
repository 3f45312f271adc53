"""`reverie inspect`: what a network is made of, what of it could go, and what its layers cost."""

from typing import Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_network

__all__ = ["inspect"]


def inspect(
    model: str,
    /,
    *,
    measure: Annotated[bool, Parameter(negative="--no-measure")] = True,
    threads: int = 1,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Print a network's sites, what may shrink and what may not and why, and what each layer costs.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        measure: Time each layer in ONNX Runtime on this machine.
        threads: Threads of ONNX Runtime, at least 1.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    at_least_one(threads=threads)
    from reverie.report.inspection import inspect as inspected
    from reverie.report.inspection import inspection_text, layers_table, sites_table
    from reverie.report.table import to_rich

    network = load_network(model, loading)
    with progress() as on_event:
        found = inspected(network, latency=measure, threads=threads, on_event=on_event)
    branches = ", ".join(branch.module for branch in found.structure.branches)
    remarks = [f"may be bypassed: {branches}"] if branches else []
    remarks += [f"no rule for {operation}; its axes stay as they are" for operation in found.structure.unknown]
    remarks += [f"not counted: {calls} calls of {operator}" for operator, calls in found.counted.uncounted.items()]
    shown = (f"{model}: {inspection_text(found)}", to_rich(sites_table(found)), to_rich(layers_table(found)), *remarks)
    return Answer({"model": model, **found.to_json()}, shown)
