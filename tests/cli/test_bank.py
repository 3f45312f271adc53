"""`reverie bank` from the command line: filled, verified, drawn, exported, and what each says when it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reverie.cli.main import main

MODEL = "zoo:fashion-vgg"
STUDENT = "reverie.zoo.networks:CifarVGG(stages=[[4],[8]],in_channels=1)"


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
    # The folder of a run has its bank in `bank`.
    status, told = run(capsys, "bank", "picture", tmp_path, "--out", tmp_path / "seen.png")
    assert status == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    status, told = run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / "tar", "--layout", "webdataset")
    assert (status, told["written"]) == (0, 1)
    status, told = run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / "folders")
    assert (status, len(list((tmp_path / "folders").rglob("*.png")))) == (0, 10)


def test_verify_finds_damage_and_other_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    filled(capsys, tmp_path / "bank")
    other = ("--model", "zoo:fashion-resnet20")
    for verb in (("verify",), ("picture", "--out", tmp_path / "no.png"), ("export", "--out", tmp_path / "no")):
        status, told = run(capsys, "bank", verb[0], tmp_path / "bank", *verb[1:], *other)
        assert (status, told["error"]["kind"]) == (2, "VerificationFailed")
        assert "other weights, or another normalization, than zoo:fashion-resnet20" in told["error"]["message"]
    assert not (tmp_path / "no.png").exists()
    assert not (tmp_path / "no").exists()
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
    status, told = run(capsys, "bank", "adapt", MODEL, STUDENT, *words)
    assert (status, len(told["rounds"])) == (0, 2)
    assert told["rounds"][0]["student_agrees"] is None
    assert 0 <= told["rounds"][1]["student_agrees"] <= 1
    # A run of several banks is asked for by one of them.
    status, told = run(capsys, "bank", "verify", tmp_path / "adapted")
    first = tmp_path / "adapted" / "bank-0"
    assert (status, told["error"]["message"]) == (
        2,
        f"{tmp_path / 'adapted'} holds 2 banks: name one, such as {first}",
    )
    assert run(capsys, "bank", "verify", first)[0] == 0


def test_features_are_inverted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny = ("tiny_networks:flat@initial", "--image-shape", 3, 8, 8, "--mean", 0, "--std", 1)
    assert run(capsys, "bank", "fill", *tiny, "--out", tmp_path / "bank", "--n", 10, "--steps", 2)[0] == 0
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "unseen.npz", images=images, labels=np.arange(12) % 4)
    words = ("--bank", tmp_path / "bank", "--layers", "body.0", "body.2", "--images", tmp_path / "unseen.npz")
    words += ("--n", 12, "--steps", 2, "--refine", 2, "--out", tmp_path / "seen.png")
    status, told = run(capsys, "bank", "invert", *tiny, *words)
    assert status == 0
    assert (told["count"], list(told["decisions_kept"])) == (12, ["body.0", "body.2"])
    assert all(0 <= share <= 1 for share in told["decisions_kept"].values())
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--layers", "body.3", "--n", 0), "--n must be at least 1"),
        (("--layers", "body.0", "--steps", 1), "--steps must be at least 2"),
        (("--layers", "0"), "has no layer '0'"),
        (("--layers", "body.2", "body.0"), "these run in the order body.0, body.2"),
        (("--layers", "body.0", "--out", "."), "--out . is a folder"),
    ],
)
def test_an_inversion_that_cannot_be_is_refused(
    wrong: tuple[object, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tiny = ("tiny_networks:flat@initial", "--image-shape", 3, 8, 8, "--mean", 0, "--std", 1)
    assert run(capsys, "bank", "fill", *tiny, "--out", tmp_path / "bank", "--n", 4, "--steps", 1)[0] == 0
    np.savez(tmp_path / "unseen.npz", images=np.zeros((4, 3, 8, 8), np.uint8))
    words = ("--bank", tmp_path / "bank", "--images", tmp_path / "unseen.npz")
    words += () if "--out" in wrong else ("--out", tmp_path / "seen.png")
    assert main([*map(str, ("bank", "invert", *tiny, *words, *wrong))]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "training an inverter" not in err


def test_work_is_told_under_its_own_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--n", 2, "--warm-up", 1, "--steps", 1, "--out", tmp_path / "run" / "bank")
    assert run(capsys, "bank", "generate", MODEL, *words)[0] == 0
    # The folder above a bank does as well, as everywhere.
    words = ("recover", tmp_path / "run", "--n", 2, "--steps", 2, "--out", tmp_path / "codes.npz")
    assert main([*map(str, ("bank", *words))]) == 0
    err = capsys.readouterr().err
    assert "recovering codes: 2 of 2" in err
    assert "dreaming" not in err


def test_codes_of_a_generator_are_recovered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--n", 8, "--warm-up", 2, "--steps", 1, "--out", tmp_path / "made")
    assert run(capsys, "bank", "generate", MODEL, *words)[1]["config"]["statistics"] == "batch normalization"
    errors = []
    for steps in (1, 40):
        words = ("--n", 4, "--steps", steps, "--out", tmp_path / "codes.npz")
        status, told = run(capsys, "bank", "recover", tmp_path / "made", *words)
        assert (status, told["count"]) == (0, 4)
        errors.append(told["mean_squared_error"])
    assert errors[1] < 0.5 * errors[0]
    with np.load(tmp_path / "codes.npz") as arrays:
        assert arrays["codes"].shape == (4, 74)
        assert (arrays["images"].shape, arrays["images"].dtype) == ((4, 1, 28, 28), np.uint8)
    words = ("--images", "zoo:fashion-mnist", "--n", 3, "--steps", 2, "--out", tmp_path / "real.npz")
    assert run(capsys, "bank", "recover", tmp_path / "made", *words)[1]["count"] == 3
    filled(capsys, tmp_path / "bank")
    status, told = run(capsys, "bank", "recover", tmp_path / "bank", "--out", tmp_path / "no.npz")
    assert (status, told["error"]["kind"]) == (2, "ReferenceNotFound")
    assert "holds no generator" in told["error"]["message"]


def test_codes_of_a_generator_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", images=np.full((2, 4, 4), 128, np.uint8), labels=np.arange(2))
    words = ("--image-shape", 2, 1, 1, "--mean", 0, "--std", 1, "--steps", 3, "--out", tmp_path / "codes.npz")
    model = "tiny_networks:Drawing@initial"
    status, told = run(capsys, "bank", "recover", model, "--images", tmp_path / "real.npz", *words)
    assert (status, told["count"]) == (0, 2)
    status, told = run(capsys, "bank", "recover", model, *words)
    assert (status, told["error"]["message"]) == (2, f"{model} is no bank with images of its own: give --images")
    status, told = run(capsys, "bank", "recover", model, *words, "--n", 0)
    assert (status, told["error"]["kind"]) == (2, "RangeError")


def test_banks_of_every_head_are_filled_verified_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flat = ("tiny_networks:flat@initial", "--image-shape", 3, 8, 8, "--mean", 0, "--std", 1)
    words = ("--head", "multi-label", "--targets", 1, 2, "--n", 4, "--steps", 2, "--out", tmp_path / "bank")
    status, told = run(capsys, "bank", "fill", *flat, *words)
    assert (status, told["config"]["head"], told["teacher_agreement"]["low"]) == (0, "multi-label", None)
    status, told = run(capsys, "bank", "verify", tmp_path / "bank", "--model", *flat)
    assert (status, told["answers_checked"], told["how"]["statistics"]) == (0, True, "batch normalization")
    assert run(capsys, "bank", "picture", tmp_path / "bank", "--out", tmp_path / "seen.png")[0] == 0
    status, told = run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / "png")
    assert (status, told["error"]["kind"]) == (2, "ShapeError")


def test_pictures_and_folders_by_class_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    filled(capsys, tmp_path / "bank")
    for name, words in (("plain", ()), ("named", ("--model", MODEL))):
        assert run(capsys, "bank", "picture", tmp_path / "bank", "--out", tmp_path / f"{name}.png", *words)[0] == 0
        assert run(capsys, "bank", "export", tmp_path / "bank", "--out", tmp_path / name, *words)[0] == 0
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "named.png").read_bytes()
    assert (tmp_path / "plain" / "0008").is_dir()
    assert (tmp_path / "named" / "bag").is_dir()


def test_the_loop_of_other_lessons_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--n", 16, "--rounds", 2, "--teach-steps", 2, "--steps", 1, "--out", tmp_path / "adapted")
    status, told = run(capsys, "bank", "adapt", MODEL, STUDENT, *words, "--hard", 0.5)
    assert (status, told["how"]["statistics"]) == (0, "batch normalization")
    status, told = run(capsys, "bank", "adapt", MODEL, STUDENT, *words)
    assert (status, told["error"]["kind"]) == (2, "FolderInUse")
    assert "hard 0.5 there and None here" in told["error"]["message"]
    for wrong, said in ((("--hard", 1.5), "--hard is a share"), (("--weight", -1), "--weight must be at least 0")):
        status, told = run(capsys, "bank", "adapt", MODEL, STUDENT, *words, *wrong)
        assert (status, told["error"]["kind"]) == (2, "RangeError")
        assert said in told["error"]["message"]


def test_the_student_of_the_last_round_is_named_and_can_be_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--n", 16, "--rounds", 2, "--teach-steps", 2, "--steps", 1, "--out", tmp_path / "adapted")
    _, told = run(capsys, "bank", "adapt", MODEL, STUDENT, *words)
    assert told["student"] == str(tmp_path / "adapted" / "student-1.safetensors")
    shaped = ("--image-shape", 1, 28, 28, "--mean", 0.5, "--std", 0.5)
    reference = f"{STUDENT}@{told['student']}"
    status, _ = run(capsys, "bank", "fill", reference, *shaped, "--n", 2, "--steps", 1, "--out", tmp_path / "bank")
    assert status == 0
    assert main([*map(str, ("bank", "adapt", MODEL, STUDENT, *words))]) == 0
    printed = capsys.readouterr().out
    assert "round 2 of 2: before it was taught" in printed
    assert f"student after the last round: {told['student']}" in printed


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("zoo:cifar10-vgg", "the teacher takes images (1, 28, 28) and zoo:cifar10-vgg (3, 32, 32)"),
        (STUDENT.replace("1)", "1,num_classes=7)"), "answers for 7 classes and the teacher for 10"),
    ],
)
def test_a_student_that_does_not_fit_is_refused_before_anything_is_dreamed(
    student: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, told = run(capsys, "bank", "adapt", MODEL, student, "--out", tmp_path / "adapted")
    assert (status, told["error"]["kind"]) == (2, "ShapeError")
    assert said in told["error"]["message"]
    assert not (tmp_path / "adapted").exists()


def test_lessons_of_other_signals_than_pictures_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = "tiny_networks:flat(axes=1,channels=2,side=12)"
    shaped = ("--image-shape", 2, 12, "--mean", 0, "--std", 1)
    words = (f"{model}@initial", model, *shaped, "--n", 4, "--rounds", 1, "--teach-steps", 1, "--steps", 1)
    status, told = run(capsys, "bank", "adapt", *words, "--out", tmp_path / "adapted")
    assert (status, told["error"]["kind"]) == (2, "RangeError")
    assert "--image-shape takes channels, height and width, got 2 12" in told["error"]["message"]
    assert not (tmp_path / "adapted").exists()


def test_folders_of_other_things_are_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for words in (("adapt", MODEL, STUDENT), ("dataset", MODEL)):
        status, told = run(capsys, "bank", *words, "--out", tmp_path)
        assert (status, told["error"]["kind"]) == (2, "FolderInUse")
        assert "thesis.txt" in told["error"]["message"]
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_data_set_goes_on_and_is_the_same_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("bank", "dataset", MODEL, "--per-class", 1, "--views", 2, "--steps", 1, "--out", tmp_path / "set")
    status, first = run(capsys, *words)
    assert (status, first["written"]) == (0, 10)
    data = tmp_path / "set" / "data"
    before = {path.relative_to(data): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert run(capsys, *words) == (0, first)
    # Killed while it was exported: what is half written is begun again.
    data.rename(tmp_path / "set" / ".data")
    next((tmp_path / "set" / ".data").rglob("*.png")).unlink()
    assert run(capsys, *words) == (0, first)
    assert {path.relative_to(data): path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    status, told = run(capsys, *words, "--layout", "webdataset")
    assert (status, told["error"]["kind"]) == (2, "FolderInUse")
    assert "layout 'folder' there and 'webdataset' here" in told["error"]["message"]


def test_a_bank_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--out", tmp_path / "bank", "--n", 20, "--steps", 2)
    assert run(capsys, "bank", "fill", MODEL, *words)[0] == 0
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=images, labels=np.arange(20) % 10)
    status, told = run(capsys, "bank", "measure", tmp_path / "bank")
    assert (status, set(told["figures"])) == (0, {"teacher_agreement_share", "duplicates_share"})
    words = ("--model", MODEL, "--judge", "zoo:fashion-resnet20", "--real", tmp_path / "real.npz")
    words += ("--layers", "body.layer1", "body.layer2")
    status, told = run(capsys, "bank", "measure", tmp_path / "bank", *words)
    assert status == 0
    figures = told["figures"]
    assert set(figures) == {
        *("teacher_agreement_share", "duplicates_share", "moment_error_deviations", "moment_log_variance_error"),
        *("accuracy_kept_on_dreams_share", "accuracy_kept_on_noise_share", "judge_score", "judge_agreement_share"),
        *("kernel_distance", "frechet_distance", "coverage_share", "relative_diversity"),
    }
    assert 1 <= figures["judge_score"] <= 10
    assert main([*map(str, ("bank", "measure", tmp_path / "bank", *words))]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(figures)  # each said once, and none by the name of its key
    assert f"the judge sees the class asked for in {figures['judge_agreement_share']:.2%}" in printed
    assert not any("_" in line or "share" in line for line in printed)
    assert figures["kernel_distance"] > 0
    assert told["how"]["statistics"] == "batch normalization"
    status, told = run(capsys, "bank", "measure", tmp_path / "bank", "--layers", "body.layer1")
    assert (status, told["error"]["kind"]) == (2, "RangeError")
