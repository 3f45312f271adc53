"""The bench of distillation asks for every figure, and says why one has no value."""

from pathlib import Path

import pytest

from reverie.bench.distill import DISTILL
from reverie.bench.figure import run_bench

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
