"""The demo, and its figures: an embedded network compressed without data, then tested."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from reverie.bench.figure import Measured
from reverie.core.events import Listener

__all__ = ["DEMO_LATENCY", "DEMO_MODEL", "DEMO_TEST_SET", "demo_figures"]

DEMO_MODEL = "zoo:fashion-resnet20"
DEMO_TEST_SET = "fashion-mnist"
DEMO_LATENCY = "60%"


def demo_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Run the demo in a folder of its own, and read its closing table."""
    from reverie.compress import compress
    from reverie.zoo.datasets import test_set
    from reverie.zoo.load import load

    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = compress(
            load(DEMO_MODEL),
            latency=DEMO_LATENCY,
            test=test_set(DEMO_TEST_SET),
            folder=Path(folder) / "run",
            on_event=on_event,
        )
        seconds = time.monotonic() - began
    rows = {row.quantity: row for row in found.rows}
    latency, tested = rows["latency"].compressed, rows["test accuracy"]
    drop = 100 * (tested.teacher.value - tested.compressed.value)
    figures = {"demo-time": Measured(seconds), "demo-accuracy-drop": Measured(drop)}
    return figures if latency.relative is None else figures | {"demo-latency": Measured(latency.relative)}
