"""Time whole processes: how long Python takes to import the package, and to print the help.

Every round runs each command once, so what else the machine does falls on all of them alike.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from reverie.bench.figure import Measured
from reverie.core.errors import VerificationFailed
from reverie.core.events import Event, Listener

__all__ = ["help_seconds", "import_ratio"]

IMPORT_TORCH = (sys.executable, "-c", "import torch")
IMPORT_REVERIE = (sys.executable, "-c", "import reverie")
HELP = (sys.executable, "-m", "reverie", "--help")


def import_ratio(on_event: Listener, *, rounds: int = 9) -> Measured:
    """Seconds of `import reverie` over those of `import torch`: the median of the rounds' ratios."""
    seconds = _wall_seconds({"torch": IMPORT_TORCH, "reverie": IMPORT_REVERIE}, rounds=rounds, on_event=on_event)
    return _median([ours / torch for ours, torch in zip(seconds["reverie"], seconds["torch"], strict=True)])


def help_seconds(on_event: Listener, *, rounds: int = 15) -> Measured:
    """Seconds of `reverie --help`, the start of Python included: the median of the rounds."""
    return _median(_wall_seconds({"help": HELP}, rounds=rounds, on_event=on_event)["help"])


def _wall_seconds(commands: Mapping[str, Sequence[str]], *, rounds: int, on_event: Listener) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    # The first round fills the file cache and is not counted.
    for turn in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed words
            if done.returncode:
                raise VerificationFailed(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-300:]}")
            if turn:
                seconds[name].append(time.perf_counter() - began)
        on_event(Event(f"timing {', '.join(commands)}", turn, rounds))
    return seconds


def _median(values: Sequence[float]) -> Measured:
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Measured(statistics.median(values), (tenths[0], tenths[-1]), "10th and 90th percentile of the rounds")
