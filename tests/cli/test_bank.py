"""`reverie bank` from the command line: filled, verified, drawn, exported, and what each says when it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reverie.cli.main import main

MODEL = "zoo:fashion-vgg"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    status = main([*map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def filled(capsys: pytest.CaptureFixture[str], out: Path) -> dict[str, Any]:
    status, told = run(capsys, "bank", "fill", MODEL, "--out", out, "--n", 10, "--steps", 2)
    assert status == 0
    return told


def test_a_bank_is_filled_verified_drawn_and_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = filled(capsys, tmp_path / "bank")
    assert told["count"] == 10
    assert told["config"]["statistics"] == "batch normalization"
    assert filled(capsys, tmp_path / "bank") == told
    status, told = run(capsys, "bank", "verify", tmp_path / "bank", "--model", MODEL)
    assert (status, told["count"], told["answers_checked"]) == (0, 10, True)
    status, told = run(capsys, "bank", "picture", tmp_path / "bank", "--out", tmp_path / "seen.png")
    assert status == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    status, told = run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / "tar", "--layout", "webdataset")
    assert (status, told["written"]) == (0, 1)
    status, told = run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / "folders")
    assert (status, len(list((tmp_path / "folders").rglob("*.png")))) == (0, 10)


def test_verify_finds_damage_and_other_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    filled(capsys, tmp_path / "bank")
    status, told = run(capsys, "bank", "verify", tmp_path / "bank", "--model", "zoo:fashion-resnet20")
    assert (status, told["error"]["kind"]) == (2, "VerificationFailed")
    assert "other weights than those of zoo:fashion-resnet20" in told["error"]["message"]
    shard = tmp_path / "bank" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    status, told = run(capsys, "bank", "verify", tmp_path / "bank")
    assert (status, told["error"]["kind"]) == (2, "CorruptFile")


def test_moments_are_captured_and_matched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=images, labels=np.arange(12) % 10)
    moments = tmp_path / "moments.safetensors"
    status, told = run(capsys, "bank", "capture", MODEL, "--images", tmp_path / "real.npz", "--out", moments)
    assert (status, told["origin"]) == (0, "captured from 12 images of real")
    words = ("--out", tmp_path / "bank", "--n", 4, "--steps", 2, "--statistics", moments)
    status, told = run(capsys, "bank", "fill", MODEL, *words)
    assert status == 0
    assert told["config"]["statistics"].startswith("captured from 12 images of real (")


def test_the_other_routes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--n", 8, "--warm-up", 2, "--steps", 1, "--out", tmp_path / "made")
    status, told = run(capsys, "bank", "generate", MODEL, *words)
    assert (status, told["count"], told["config"]["route"]) == (0, 8, "generator")
    words = ("--per-class", 1, "--views", 2, "--steps", 2, "--out", tmp_path / "set")
    status, told = run(capsys, "bank", "dataset", MODEL, *words)
    assert (status, told["count"], told["views"]) == (0, 10, 2)
    assert (tmp_path / "set" / "data" / "soft_labels.safetensors").exists()
    words = ("--n", 16, "--rounds", 2, "--teach-steps", 2, "--steps", 2, "--out", tmp_path / "adapted")
    status, told = run(capsys, "bank", "adapt", MODEL, "zoo:fashion-resnet20", *words)
    assert (status, len(told["rounds"])) == (0, 2)
    assert told["rounds"][0]["student_agrees"] is None
    assert 0 <= told["rounds"][1]["student_agrees"] <= 1


def test_features_are_inverted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    filled(capsys, tmp_path / "bank")
    words = ("--bank", tmp_path / "bank", "--layers", "body.conv1", "body.layer1", "--images", "zoo:fashion-mnist")
    words += ("--n", 12, "--steps", 2, "--out", tmp_path / "seen.png")
    status, told = run(capsys, "bank", "invert", "zoo:fashion-resnet20", *words)
    assert status == 0
    assert list(told["decisions_kept"]) == ["body.conv1", "body.layer1"]
    assert all(0 <= share <= 1 for share in told["decisions_kept"].values())
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
