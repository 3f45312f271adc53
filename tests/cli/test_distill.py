"""`reverie distill` from the words typed to the folder written."""

import json
from pathlib import Path

import numpy as np
import pytest

from reverie.cli.main import main

TINY = ["tiny_networks:flat(channels=1)@initial", "--image-shape", "1", "8", "8", "--mean", "0", "--std", "1"]
OF_TINY = "reverie.zoo.networks:CifarVGG(stages=[[4]], in_channels=1, num_classes=4)"
STUDENT = "reverie.zoo.networks:CifarResNet(blocks=1, widths=[4, 4, 4], in_channels=1)"
QUICK = ["--teach-steps", "2", "--batch-size", "8", "--learning-rate", "0.001"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=rng.integers(0, 256, (64, 1, 28, 28), dtype=np.uint8), labels=np.arange(64) % 10)
    return path


def test_a_student_is_taught_and_the_answer_is_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.npz"
    rng = np.random.default_rng(0)
    np.savez(path, images=rng.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8), labels=np.arange(64) % 4)
    words = ["distill", TINY[0], OF_TINY, *TINY[1:], "--out", str(tmp_path / "run"), "--source", str(path)]
    words += ["--test-set", str(path), "--seeds", "2", "--no-control", "--json", *QUICK]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["asked"]["student"] == OF_TINY
    assert len(found["figures"]["lines"][0]["accuracy"]) == 2
    assert main([word for word in words if word != "--json"]) == 0
    shown = capsys.readouterr().out
    assert "student before" in shown
    assert "points from the teacher (95 % interval" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zoo:fashion-vgg", "zoo:absent"], "the zoo has no network 'absent'"),
        (["zoo:fashion-vgg", STUDENT, "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["zoo:fashion-vgg", "zoo:cifar10-vgg"], "the teacher takes images (1, 28, 28) and the student (3, 32, 32)"),
        (
            ["zoo:fashion-vgg", STUDENT.replace("1)", "1, num_classes=7)")],
            "answers for 7 classes and the teacher for 10",
        ),
        (["zoo:fashion-vgg", STUDENT, "--weight-decay", "-1"], "--weight-decay must be at least 0, got -1"),
        (["zoo:fashion-vgg", STUDENT, "--bank", "some"], "--source and --bank both say which images teach"),
        (["zoo:fashion-vgg", STUDENT, "--route", "generator"], "--route generator makes dreams, and --source brings"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", *words, "--source", str(images), "--out", str(tmp_path / "run"), *QUICK]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())


def test_numbers_out_of_range_are_refused_before_anything_is_dreamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--teach-steps", "--dream-steps", "--learning-rate"):
        words = ["distill", TINY[0], OF_TINY, *TINY[1:], "--out", str(tmp_path / "run"), option, "0"]
        assert main(words) == 2
        assert f"{option} must be" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_a_test_set_the_table_has_no_empty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8))
    words = ["distill", TINY[0], OF_TINY, *TINY[1:], "--out", str(tmp_path / "run"), "--source", str(path)]
    assert main([*words, "--no-control", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "test accuracy" not in shown
    assert "mean of 1 seed;" in shown
    (teacher,) = [line for line in shown.splitlines() if line.strip().startswith("teacher")]
    assert "100.00%" in teacher
