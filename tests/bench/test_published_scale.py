"""Distillation at published scale: the networks have the published size, and the recipe runs from end to end."""

from functools import partial

import pytest
import torch

from reverie.bench import published_scale
from reverie.bench.published_scale import PAIRS, Scale, pair_figures, train_teacher
from reverie.core.errors import ShapeError
from reverie.core.events import silent
from reverie.core.source import Source
from reverie.zoo.networks import CifarResNet


def stripes(count: int) -> Source:
    """Images whose class is the row that is bright."""
    labels = torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 3, 32, 32), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * int(label) : 3 * int(label) + 3] = 255
    return Source("stripes", images, labels)


@pytest.mark.parametrize(
    ("name", "teacher", "student"), [("34-to-18", 21_282_122, 11_173_962), ("40-2-to-16-1", 2_243_546, 175_066)]
)
def test_networks_have_the_published_size(name: str, teacher: int, student: int) -> None:
    with torch.device("meta"):
        sizes = [sum(parameter.numel() for parameter in build().parameters()) for build in PAIRS[name]]
    assert sizes == [teacher, student]


def test_the_recipe_runs_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(CifarResNet, blocks=1, widths=(8, 16))
    monkeypatch.setitem(published_scale.PAIRS, "34-to-18", (small, small))
    scale = Scale(epochs=6, batch_size=50, dreams=66, dream_steps=3, teach_steps=3, students=2)
    run = pair_figures(
        "34-to-18", real=lambda: stripes(500), test=lambda: stripes(100), scale=scale, device=torch.device("cpu")
    )
    found = run(silent)
    assert found["gpu-34-to-18-teacher"].value > 0.5
    assert found["gpu-34-to-18-lowest"].value <= found["gpu-34-to-18"].value
    assert found["gpu-34-to-18-time"].value > 0


def test_a_teacher_needs_labels() -> None:
    bare = Source("bare", stripes(4).images)
    with pytest.raises(ShapeError, match="bare has no labels"):
        train_teacher(CifarResNet, bare, scale=Scale(), device=torch.device("cpu"), on_event=silent)
