"""Does a network survive the journey? To a fresh process that has no Reverie, and to ONNX Runtime.

Cost: a fresh process takes as long as importing PyTorch and the library that builds the network, about 3 seconds; an
export a few seconds.
"""

import copy
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from reverie.core.edit import Record
from reverie.core.errors import VerificationFailed
from reverie.core.rng import preserved_rng
from reverie.cost.onnx import OPSET, quiet_exporter, session

__all__ = ["answers", "difference", "fresh_process_difference", "onnx_difference"]

_PROGRAM = """
import importlib, importlib.util, json, sys
from pathlib import Path
sys.modules["reverie"] = None
folder, place = Path(sys.argv[1]), sys.argv[2]
exec(compile((folder / "loader.py").read_text(), "loader", "exec"))
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
module, _, attribute = place.rpartition(":")
if module.endswith(".py"):
    spec = importlib.util.spec_from_file_location("original", module)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
else:
    found = importlib.import_module(module)
network = rebuild(folder, getattr(found, attribute))
# Copies: in the file they lie where they may, and matrix products depend on that in the last bit.
inputs = {name: one.clone() for name, one in load_file(folder / "inputs.safetensors").items()}
with torch.no_grad():
    answer = network(*[inputs[name] for name in sorted(inputs)])
leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if torch.is_tensor(leaf)]
save_file({f"{i:03}": leaf.contiguous().clone() for i, leaf in enumerate(leaves)}, folder / "answer.safetensors")
"""


def answers(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a network returns, in order, without gradient."""
    with torch.no_grad(), preserved_rng():
        return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest absolute difference, as a share of the largest number wanted where that is above 1.

    Infinite where shapes differ or a number is not finite.
    """
    if [one.shape for one in found] != [one.shape for one in wanted]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if other.numel():
            gap = float((one.double() - other.double()).abs().max()) / max(1.0, float(other.double().abs().max()))
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def fresh_process_difference(
    small: nn.Module, record: Record, inputs: Sequence[Tensor], *, factory: str, arguments: dict[str, Any]
) -> float:
    """Save weights and record, rebuild them in a fresh process without Reverie, and compare the answers.

    Args:
        small: The edited network.
        record: What was done to what `factory` builds.
        inputs: What it is asked.
        factory: "package.module:factory"; a module of this package is handed over as its file.
        arguments: Of the factory.

    Raises:
        VerificationFailed: The fresh process ended with an error.
    """
    module, _, attribute = factory.partition(":")
    if module.startswith("reverie."):
        found = importlib.util.find_spec(module)
        module = str(found.origin) if found is not None else module
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {key: value.detach().contiguous().clone() for key, value in small.state_dict().items()}
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        value = {"origin": {"factory": factory, "arguments": arguments}, "record": record.to_json()}
        (folder / "record.json").write_text(json.dumps(value))
        (folder / "loader.py").write_text(Path(__file__).with_name("loader.py").read_text())
        given = {f"{index:03}": one.contiguous().clone() for index, one in enumerate(inputs)}
        safetensors.torch.save_file(given, folder / "inputs.safetensors")
        done = subprocess.run(  # noqa: S603  fixed words
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, name, f"{module}:{attribute}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [""]
            raise VerificationFailed(f"the fresh process ended with {done.returncode}: {last[0][:300]}")
        back = safetensors.torch.load_file(folder / "answer.safetensors")
    return difference([back[key] for key in sorted(back)], answers(small, inputs))


def onnx_difference(model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Export with a free batch size, run in ONNX Runtime at two batch sizes, and compare with PyTorch.

    Args:
        model: The network; untouched.
        inputs: A batch of at least 2.

    Raises:
        CorruptFile: ONNX Runtime cannot load the file.
        VerificationFailed: The exporter returned nothing.
    """
    bare = copy.deepcopy(model).eval().requires_grad_(False)
    names = [f"input{index}" for index in range(len(inputs))]
    batch = torch.export.Dim("n")
    with preserved_rng(), quiet_exporter():
        program = torch.onnx.export(
            bare,
            tuple(inputs),
            input_names=names,
            opset_version=OPSET,
            dynamic_shapes=[{0: batch}] * len(inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise VerificationFailed("the ONNX exporter of PyTorch returned nothing for this network")
    running = session(program.model_proto.SerializeToString())
    wanted_names = {one.name for one in running.get_inputs()}
    worst = 0.0
    for count in (len(inputs[0]), 1):
        asked = [one[:count] for one in inputs]
        feeds = {name: one.numpy() for name, one in zip(names, asked, strict=True) if name in wanted_names}
        found = [torch.from_numpy(np.asarray(one)) for one in running.run(None, feeds)]
        worst = max(worst, difference(found, answers(bare, asked)))
    return worst
