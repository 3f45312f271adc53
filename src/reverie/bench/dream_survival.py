"""Does a bank survive? Processes that dream into one folder are killed at random moments, and started again."""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from reverie.bench.figure import Measured
from reverie.core.errors import VerificationFailed
from reverie.core.events import Event, Listener
from reverie.core.store import sha256_file

__all__ = ["survival_figures"]

MOMENTS = 20
WORK = """
import sys, torch
from pathlib import Path
from reverie.dream import dream
from reverie.zoo.load import load

torch.set_num_threads(1)
dream(load("zoo:fashion-vgg"), count=32, steps=6, batch_size=8, path=Path(sys.argv[1]))
"""


def survival_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Of 20 banks, each killed once at a random moment and finished by a second process, those with the right hash."""
    rng = random.Random(0)  # noqa: S311  moments, no secrets
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        whole = _finished(Path(folder) / "whole")
        seconds = time.monotonic() - began
        right = 0
        for turn in range(MOMENTS):
            path = Path(folder) / f"killed-{turn}"
            process = _start(path)
            try:
                # From before the import has ended to about when the bank is finished.
                process.wait(timeout=rng.random() * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            right += _finished(path) == whole
            on_event(Event("killing and resuming", turn + 1, MOMENTS))
    return {"killed-and-whole": Measured(float(right))}


def _start(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", WORK, str(path)])  # noqa: S603  fixed words


def _finished(path: Path) -> str:
    """The hash of the manifest, which holds those of all shards."""
    status = _start(path).wait()
    if status:
        raise VerificationFailed(f"a process that dreamed ended with status {status}")
    return sha256_file(path / "manifest.json")
