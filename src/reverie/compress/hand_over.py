"""The last stage: measure teacher, result and control side by side, and say it in rows of one table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.compress.result import Measured, Row, Unit
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.cost.count import Count, count
from reverie.cost.latency import measure_networks
from reverie.cost.onnx import run_onnx, session
from reverie.metrics.classify import Share, accuracy, agreement, paired_difference
from reverie.metrics.evaluate import predict

__all__ = ["agreement_row", "count_network", "counted_rows", "latency_row", "measure_latencies", "tested"]

# Timings of the closing table are taken longer than those inside the loop.
TOLERANCE, SECONDS = 0.003, 20.0


def measure_latencies(models: Mapping[str, bytes], image_shape: tuple[int, ...], *, threads: int) -> dict[str, Any]:
    """Time the networks against each other, as a JSON value: name -> fields of a `Timing`."""
    timings = measure_networks(models, image_shape, threads=threads, tolerance=TOLERANCE, seconds=SECONDS)
    return {name: asdict(timing) for name, timing in timings.items()}


def latency_row(latencies: Mapping[str, Mapping[str, float]], *, threads: int) -> Row:
    """What `measure_latencies` found, as a row."""
    figures = {
        name: Measured(timing["median_ms"], timing["p10_ms"], timing["p90_ms"], timing["ratio_median"])
        for name, timing in latencies.items()
    }
    rounds = latencies["teacher"]["rounds"]
    text = "1 thread" if threads == 1 else f"{threads} threads"
    how = f"one image in ONNX Runtime on {text}, median of {rounds:.0f} interleaved rounds"
    return Row.of("latency", "ms", how, figures)


def count_network(network: ImageNetwork) -> Count:
    """Multiply-adds of one image, parameters and bytes."""
    return count(network, torch.zeros(1, *network.image_shape))


def counted_rows(networks: Mapping[str, ImageNetwork]) -> list[Row]:
    """Size and multiply-adds."""
    counts = {name: count_network(network) for name, network in networks.items()}

    def row(quantity: str, unit: Unit, how: str, pick: Callable[[Count], float]) -> Row:
        whole = pick(counts["teacher"])
        return Row.of(
            quantity, unit, how, {name: Measured(pick(c), relative=pick(c) / whole) for name, c in counts.items()}
        )

    return [
        row("size", "byte", "parameters and buffers, as stored", lambda one: one.size_bytes),
        row("multiply-adds", "MAC", "of one image, counted", lambda one: one.macs),
    ]


def agreement_row(networks: Mapping[str, ImageNetwork], judged: Source) -> Row:
    """How often each network puts an image into the teacher's class."""
    logits = {name: predict(network, judged) for name, network in networks.items()}
    how = f"same class as the teacher's, on {len(judged)} {judged.name} that taught nothing"
    shares = {name: _measured(agreement(mine, logits["teacher"])) for name, mine in logits.items()}
    return Row.of("agreement with the teacher", "share", how, shares)


def tested(models: Mapping[str, bytes], test: Source, *, threads: int, on_event: Listener) -> tuple[Row, list[str]]:
    """Accuracy of the ONNX files on labeled images, and the paired differences from the teacher in sentences."""
    if test.labels is None:
        raise TypeError("the caller checks that the test images have labels")
    logits = {}
    for index, (name, model) in enumerate(models.items()):
        logits[name] = _run(model, test, threads=threads)
        on_event(Event("testing", index + 1, len(models)))
    how = f"{len(test)} labeled images of {test.name}, which chose nothing, in ONNX Runtime"
    row = Row.of(
        "test accuracy", "share", how, {name: _measured(accuracy(mine, test.labels)) for name, mine in logits.items()}
    )
    right = {name: mine.argmax(1) == test.labels for name, mine in logits.items()}
    notes = []
    for name, called in (("compressed", "The compressed network"), ("control", "The noise control")):
        if name in right:
            gap = paired_difference(right[name], right["teacher"])
            notes.append(
                f"{called} is {100 * gap.difference:+.2f} points from the teacher on {len(test)} test images "
                f"(95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}, paired)."
            )
    return row, notes


def _run(model: bytes, images: Source, *, threads: int, batch_size: int = 100) -> Tensor:
    running = session(model, threads=threads)
    starts = range(0, len(images), batch_size)
    rows = [run_onnx(running, images.floats(slice(start, start + batch_size)).numpy()) for start in starts]
    return torch.from_numpy(np.concatenate(rows))


def _measured(share: Share) -> Measured:
    return Measured(share.value, share.low, share.high)
