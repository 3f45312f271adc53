"""Where a figure was measured: the machine, the versions, the commit. Never a host name, a user or a path."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "commit", "environment", "load_average", "machine", "processor", "usable_cores", "versions"]

PACKAGES = (
    "reverie", "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "scipy", "safetensors",
    "pillow", "timm",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Commit, machine and versions as one JSON value: what stands beside every stored figure."""
    return {"commit": commit(), "machine": machine(), "versions": versions()}


def machine() -> dict[str, Any]:
    """The machine's facts that move a figure: processors, cores that this process may use, memory, system, load.

    Units: `memory_bytes` bytes; `load_average` runnable processes over one minute, None where the system has none;
    `gpu` is None where PyTorch finds none, or was not used.
    """
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "gpu": _gpu(),
        "cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": load_average(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Runnable processes over the last minute: above the number of cores, timings of this machine are doubtful."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Python's version and those of the packages that move a figure; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree this package runs from, with "+changes" where files differ from it.

    "+unknown" where git does not say whether they do. None for an installed package, and where git is not there or
    knows no commit.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    git = ("git", "-C", str(root))
    head = _said(*git, "rev-parse", "HEAD")
    if not head:
        return None
    changes = _said(*git, "status", "--porcelain", "--untracked-files=no")
    return head if changes == "" else f"{head}+{'unknown' if changes is None else 'changes'}"


def _said(*words: str) -> str | None:
    """What a program of the user's prints; None where it fails or is not there."""
    try:
        done = subprocess.run(  # noqa: S603  fixed words, no shell
            words,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The name that the processor gives itself, such as "AMD EPYC"; where it gives none, its board and its parts."""
    if platform.system() == "Darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    facts: dict[str, dict[str, None]] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), {})[value.strip()] = None
    if "model name" in facts:
        return next(iter(facts["model name"]))
    board = _text("/proc/device-tree/model").strip("\0\n ")
    parts = [f"{name} {' '.join(facts[f'CPU {name}'])}" for name in ("implementer", "part") if f"CPU {name}" in facts]
    return ", ".join(filter(None, [board, *parts])) or platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""


def _gpu() -> str | None:
    # Where nobody has loaded PyTorch, nothing was measured on its device, and loading it takes a second.
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
