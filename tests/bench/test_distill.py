"""The bench of distillation asks for every figure, and says why one has no value."""

import shlex
from pathlib import Path

import pytest

from reverie.bench.distill import DISTILL
from reverie.bench.figure import run_bench
from reverie.cli.main import app

ASKED = {"cut-accuracy", "cut-time", "fashion-half-share", "fashion-half-time", "cifar-56-to-20-share"}
ASKED |= {"cifar-56-to-20-time", "detector-both", "two-teachers", "gpu-34-to-18", "gpu-40-2-to-16-1"}
ASKED |= {"gpu-34-to-18-time", "gpu-40-2-to-16-1-time"}
BESIDE = {"cut-noise", "cut-real", "cut-before", "cut-lowest", "fashion-half-noise", "cifar-56-to-20-noise"}
BESIDE |= {"cifar-56-to-20-real", "detector-classes", "detector-boxes", "detector-plain"}


def test_every_figure_is_asked_for_once_and_has_its_controls() -> None:
    questions = [question for job in DISTILL for question in job.questions]
    names = [question.name for question in questions]
    assert len(set(names)) == len(names)
    assert {question.name for question in questions if question.ask is not None} == ASKED
    assert set(names) >= BESIDE


@pytest.mark.parametrize(("name", "steps", "real"), [("fashion-half", 1500, False), ("cifar-56-to-20", 3000, True)])
def test_a_command_asks_for_the_lessons_that_are_measured(name: str, steps: int, real: bool) -> None:
    (command,) = {one.command for job in DISTILL for one in job.questions if one.name.startswith(name)}
    _, bound, _ = app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)
    given = bound.arguments
    assert (given["lessons"].teach_steps, given["seeds"], given["from_teacher"]) == (steps, 3, True)
    assert (given["lessons"].dreams, given["lessons"].dream_steps) == (1024, 60)
    assert given["images"].real == ("data/cifar10-train.npz" if real else None)
    # Weights in a file do not say which images they were trained on.
    assert (given["loading"].image_shape if "loading" in given else None) == ((3, 32, 32) if real else None)


def test_without_its_files_a_figure_has_no_value_and_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ("cut-accuracy", "cifar-56-to-20-share", "detector-both", "two-teachers", "gpu-34-to-18")
    value, _ = run_bench("distill", DISTILL, only=wanted)
    figures = {figure["name"]: figure for figure in value["figures"]}
    assert all(figures[name]["value"] is None for name in wanted)
    assert "no test set data/cifar10-test.npz" in figures["cut-accuracy"]["reason"]
    assert "cifar10_resnet56.safetensors" in figures["cifar-56-to-20-share"]["reason"]
    assert "not run" in figures["gpu-34-to-18"]["reason"]
    assert figures["fashion-half-share"]["reason"] == "not asked for in this run"
