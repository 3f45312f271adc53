"""The benchmark of dreaming: its questions, its textbook, and what it says where it lacks something."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from reverie.bench.dream import DREAM
from reverie.bench.dream_networks import TinyTransformer, grouped
from reverie.bench.dream_steps import host_waits
from reverie.bench.dream_survival import survival_figures
from reverie.bench.figure import run_bench
from reverie.bench.textbook import textbook_dreams
from reverie.core.events import silent
from reverie.core.network import ImageNetwork
from reverie.dream import class_term, default_term

NAMES = [question.name for job in DREAM for question in job.questions]


def test_every_figure_has_one_name_and_one_command() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(
        question.command == f"reverie bench dream --only {question.name}" for job in DREAM for question in job.questions
    )


def test_figures_whose_data_is_missing_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["dreams-judges", "recovery-dreams", "inversion-stage1", "adaptive-gain"]
    value, figures = run_bench("dream", DREAM, only=asked)
    told = {figure["name"]: figure for figure in value["figures"]}
    for name in asked:
        assert told[name]["value"] is None
        assert "needs data/cifar10-test.npz, which is not here" in told[name]["reason"]
    assert told["cifar-step"]["reason"] == "not asked for in this run"
    assert len(figures) == len(value["figures"])


def test_no_value_is_read_back_inside_a_step() -> None:
    assert host_waits(silent)["host-waits"].value == 0


def test_a_wait_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting() -> object:
        term = default_term()
        part = class_term().parts[0]

        def loss(view: object) -> torch.Tensor:
            value = part.loss(view)  # type: ignore[arg-type]
            return value if float(value.detach()) > -1 else -value

        return type(term)((replace(part, loss=loss), *term.parts[1:]))

    monkeypatch.setattr("reverie.bench.dream_steps.default_term", waiting)
    assert host_waits(silent)["host-waits"].value == 1


def test_the_textbook_moves_its_images_towards_their_classes() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    network = ImageNetwork(body, image_shape=(3, 8, 8), mean=[0.5], std=[0.25]).eval()
    targets = torch.arange(6) % 4
    losses = []
    for seconds in (0.0, 1.5):
        images = textbook_dreams(copy.deepcopy(network), targets, seconds=seconds, seed=0)
        assert (images.shape, images.dtype) == ((6, 3, 8, 8), torch.uint8)
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(network(images.float() / 255), targets)))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("build", [TinyTransformer, grouped])
def test_networks_trained_here_hold_no_batch_norm(build: type[nn.Module]) -> None:
    network = build()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@pytest.mark.nightly
def test_killed_banks_are_whole() -> None:
    assert survival_figures(silent)["killed-and-whole"].value == 20
