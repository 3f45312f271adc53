"""Where a figure was measured: the machine, the versions, the commit. Never a host name, a user or a path."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "commit", "environment", "load_average", "machine", "processor", "usable_cores", "versions"]

PACKAGES = ("reverie", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "scipy", "safetensors", "pillow", "timm")


def environment() -> dict[str, Any]:
    """Commit, machine and versions as one JSON value: what stands beside every stored figure."""
    return {"commit": commit(), "machine": machine(), "versions": versions()}


def machine() -> dict[str, Any]:
    """The machine's facts that move a figure: processor, cores that this process may use, memory, system, load.

    Units: `memory_bytes` bytes; `load_average` runnable processes over one minute, None where the system has none.
    """
    return {
        "processor": processor(),
        "architecture": platform.machine(),
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

    None for an installed package, and where git is not there or knows no commit.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    return f"{head}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else head


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  fixed words, no shell
            ["git", "-C", str(root), *words],  # noqa: S607  the user's own git
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The name that the processor gives itself, such as "AMD EPYC"."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
