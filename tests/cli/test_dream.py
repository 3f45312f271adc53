"""`reverie dream` from the command line: every option does what it says, and what cannot go together is a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.cli.main import main

MODEL = "zoo:fashion-vgg"
SHAPED = ("--image-shape", 3, 8, 8, "--mean", 0, "--std", 1)
FLAT = ("tiny_networks:flat@initial", *SHAPED)
POOLED = ("tiny_networks:pooled@initial", *SHAPED)
MAPS = ("tiny_networks:maps@initial", *SHAPED)
# Nothing but the head: weights drawn at random know no statistics, and noise is what smoothness speaks against.
BARE = ("--statistics", "none", "--smooth", 0, "--augment", "none")


def dreamed(
    capsys: pytest.CaptureFixture[str], out: Path, *words: object, n: int = 4, steps: int = 2
) -> dict[str, Any]:
    status = main([*map(str, ("dream", *words, "--out", out, "--n", n, "--steps", steps)), "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == 0, told
    return told


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: object) -> str:
    assert main([*map(str, ("dream", *words, "--out", out, "--n", 4, "--steps", 2))]) == 2
    printed, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert printed == ""
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert not (out / "bank").exists()
    return line.removeprefix("error: ")


def labels(told: dict[str, Any]) -> list[int]:
    manifest = json.loads((Path(told["folder"]) / "bank" / "manifest.json").read_text())
    targets: list[int] = manifest["config"]["targets"]
    return targets


def test_a_plain_dream_names_its_statistics(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = dreamed(capsys, tmp_path / "run", MODEL)
    assert told["how"]["statistics"] == "batch normalization"
    assert told["how"]["canvas"] == "reverie.dream.fourier.FourierCanvas"
    assert told["figures"]["count"] == 4
    assert (tmp_path / "run" / "dreams.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["how"] == told["how"]
    assert main(["dream", MODEL, "--out", str(tmp_path / "run"), "--n", "4", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "statistics to match: batch normalization" in printed
    assert "the network sees the class asked for in" in printed


def test_the_origin_of_calibrated_and_missing_statistics_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert dreamed(capsys, tmp_path / "a", *POOLED)["how"]["statistics"].startswith(
        "self-calibrated on 256 dead leaves"
    )
    told = dreamed(capsys, tmp_path / "b", *FLAT, "--statistics", "calibrated")
    assert told["how"]["statistics"].startswith("self-calibrated on 256 dead leaves")
    told = dreamed(capsys, tmp_path / "c", *FLAT, "--statistics", "none", "--smooth", 0)
    assert told["how"]["statistics"] == "none: image priors alone"
    assert [part["name"] for part in told["how"]["term"]] == [
        "class",
        "norm",
    ]  # augmentation alone, and a trace of gray
    told = dreamed(capsys, tmp_path / "d", *FLAT, "--statistics", "batch-norm")
    assert told["how"]["statistics"] == "batch normalization"
    assert "has none" in refused(capsys, tmp_path / "e", *POOLED, "--statistics", "batch-norm")
    assert "no file of that name" in refused(capsys, tmp_path / "f", *FLAT, "--statistics", "gone.safetensors")


def test_targets_in_turn_at_random_by_number_and_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sorted(labels(dreamed(capsys, tmp_path / "a", *FLAT))) == [0, 1, 2, 3]
    drawn = labels(dreamed(capsys, tmp_path / "b", *FLAT, "--targets", "random", n=40))
    assert sorted(set(drawn)) == [0, 1, 2, 3]
    assert [drawn.count(label) for label in range(4)] != [10, 10, 10, 10]
    assert labels(dreamed(capsys, tmp_path / "c", *FLAT, "--targets", 3, 1)) == [3, 1, 3, 1]
    named = dreamed(capsys, tmp_path / "d", MODEL, "--targets", "bag", "1")
    assert labels(named) == [8, 1, 8, 1]
    np.save(tmp_path / "given.npy", np.array([2, 2, 0, 1]))
    assert labels(dreamed(capsys, tmp_path / "e", *FLAT, "--targets", tmp_path / "given.npy")) == [2, 2, 0, 1]
    assert "--targets cat is no class" in refused(capsys, tmp_path / "f", MODEL, "--targets", "cat")
    assert "a number from 0 to 3" in refused(capsys, tmp_path / "g", *FLAT, "--targets", 4)
    np.save(tmp_path / "three.npy", np.array([2, 2, 0]))
    assert "holds 3 targets for --n 4" in refused(capsys, tmp_path / "h", *FLAT, "--targets", tmp_path / "three.npy")
    (tmp_path / "text.npy").write_text("no array")
    assert "cannot be read as an .npy file" in refused(
        capsys, tmp_path / "i", *FLAT, "--targets", tmp_path / "text.npy"
    )
    assert "no such file" in refused(capsys, tmp_path / "j", *FLAT, "--targets", tmp_path / "gone.npy")


def test_a_class_is_a_class_whatever_lies_beside_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bag").mkdir()
    (tmp_path / "3").write_text("notes")
    assert labels(dreamed(capsys, tmp_path / "a", MODEL, "--targets", "bag")) == [8] * 4
    assert labels(dreamed(capsys, tmp_path / "b", MODEL, "--targets", 3)) == [3] * 4
    with (tmp_path / "GIVEN.NPY").open("wb") as file:
        np.save(file, np.array([2, 2, 0, 1]))
    assert labels(dreamed(capsys, tmp_path / "c", MODEL, "--targets", "GIVEN.NPY")) == [2, 2, 0, 1]
    # Features are of pictures, and a folder of them will do.
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "bag" / "ONE.PNG")
    dreamed(capsys, tmp_path / "d", *FLAT, "--head", "embedding", "--targets", "bag")


def test_several_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = dreamed(capsys, tmp_path / "a", *FLAT, "--head", "multi-label", "--targets", 1, 3, *BARE, steps=60)
    assert told["how"]["head"] == "multi-label"
    assert told["figures"]["teacher_agreement"]["value"] > 0.9
    assert (tmp_path / "a" / "dreams.png").exists()
    np.save(tmp_path / "labels.npy", np.eye(4, dtype=np.float32))
    dreamed(capsys, tmp_path / "b", *FLAT, "--head", "multi-label", "--targets", tmp_path / "labels.npy")
    main([*map(str, ("dream", *FLAT, "--head", "multi-label", "--targets", 1, "--out", tmp_path / "c")), "--steps=2"])
    assert "of the labels as asked" in capsys.readouterr().out
    assert "--targets 0 3 or --targets targets.npy" in refused(capsys, tmp_path / "d", *FLAT, "--head", "multi-label")


def test_features_of_a_picture_are_matched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    words = ("--head", "embedding", "--targets", tmp_path / "one.png")
    told = dreamed(capsys, tmp_path / "a", *FLAT, *words, steps=60)
    assert told["figures"]["teacher_agreement"]["value"] > 0.95
    deep = dreamed(capsys, tmp_path / "b", *FLAT, *words, *BARE, "--layer", "body.2", steps=60)
    assert deep["how"]["layer"] == "body.2"
    assert deep["how"]["augment"] == "reverie.core.augment.still"
    assert deep["figures"]["teacher_agreement"]["value"] > 0.9
    np.save(tmp_path / "vector.npy", np.array([1.0, -2.0, 0.5, 3.0]))
    dreamed(capsys, tmp_path / "c", *FLAT, "--head", "embedding", "--targets", tmp_path / "vector.npy")
    status = main(["bank", "verify", str(tmp_path / "b" / "bank"), "--model", *map(str, FLAT), "--json"])
    assert (status, json.loads(capsys.readouterr().out)["answers_checked"]) == (0, True)
    Image.fromarray(pixels[:4]).save(tmp_path / "small.png")
    small = ("--head", "embedding", "--targets", tmp_path / "small.png")
    assert "holds images (3, 4, 8), the dreams are (3, 8, 8)" in refused(capsys, tmp_path / "d", *FLAT, *small)
    assert "no layer 'body.9'" in refused(capsys, tmp_path / "e", *FLAT, *words, "--layer", "body.9")
    assert "needs --head embedding" in refused(capsys, tmp_path / "f", *FLAT, "--layer", "body.2")
    assert "whose features --head embedding matches" in refused(capsys, tmp_path / "g", *FLAT, *words[2:])
    wide = dreamed(capsys, tmp_path / "h", MODEL, "--head", "embedding", "--targets", "zoo:fashion-mnist")
    assert wide["figures"]["count"] == 4


def test_maps_of_classes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wanted = np.zeros((8, 8), np.int64)
    wanted[:4] = 1
    wanted[:, 4:] += 1
    np.save(tmp_path / "map.npy", wanted)
    words = ("--head", "dense-map", "--targets", tmp_path / "map.npy")
    told = dreamed(capsys, tmp_path / "a", *MAPS, *words, steps=80)
    assert told["figures"]["teacher_agreement"]["value"] > 0.95
    assert "moves what --head dense-map asks for" in refused(capsys, tmp_path / "b", *MAPS, *words, "--augment", "crop")
    assert "takes its targets from one file" in refused(
        capsys, tmp_path / "c", *MAPS, "--head", "dense-map", "--targets", 1, 2
    )


def test_canvases_views_and_stages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for index, (words, name, expected) in enumerate(
        [
            (("--canvas", "pixels"), "canvas", "reverie.dream.canvas.PixelCanvas.noise"),
            (("--canvas", "deep-prior"), "canvas", "reverie.dream.network_canvas.deep_image_prior"),
            (("--augment", "crop"), "augment", "RandomCrop(smallest=0.25)"),
            (("--augment", "shift"), "augment", "ShiftAndFlip(shift=1, flip=True)"),
            (("--augment", "none"), "augment", "reverie.core.augment.still"),
        ]
    ):
        assert dreamed(capsys, tmp_path / str(index), *FLAT, *words)["how"][name] == expected
    told = dreamed(capsys, tmp_path / "stages", *POOLED, "--stages", 2, "--learning-rate", 0.2, steps=5)
    assert [(one["share"], one["steps"], one["learning_rate"]) for one in told["how"]["stages"]] == [
        (0.5, 2, 0.2),
        (1.0, 3, 0.2),
    ]
    weighed = ("--statistics-weight", 2, "--first-weight", 3, "--smooth", 0.5, "--smooth-power", 1, "--norm", 0)
    told = dreamed(capsys, tmp_path / "weighed", *FLAT, *weighed)
    assert [(part["name"], part["weight"]) for part in told["how"]["term"]] == [
        ("class", 1.0),
        ("total variation", 0.5),
        ("statistics", 2.0),
    ]
    assert "first_weight=3.0" in told["how"]["term"][2]["loss"]
    assert "power=1.0" in told["how"]["term"][1]["loss"]


def test_the_published_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = dreamed(capsys, tmp_path / "run", *FLAT, "--recipe", "published", steps=3)
    assert [(part["name"], part["weight"]) for part in told["how"]["term"]][:2] == [
        ("class", 1.0),
        ("statistics", 10.0),
    ]
    assert told["how"]["canvas"] == "reverie.dream.recipe.white_noise"
    augment = "ShiftAndFlip(shift=2, flip=False)"
    assert told["how"]["stages"] == [
        {"steps": 3, "share": 1.0, "learning_rate": 0.05, "augment": augment, "unseen_only": False}
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe", "published", "--canvas", "pixels"), "has its own --canvas"),
        (("--recipe", "published", "--head", "multi-label", "--targets", 1), "needs --head single-label"),
        (("--stages", 2), "cannot take images of 3 channels, 4 by 4 pixels"),
        (("--stages", 0), "--stages must be at least 1"),
        (("--stages", 3), "a step for each, got 3 stages of 2 steps"),
        (("--canvas", "deep-prior", "--stages", 2), "--canvas deep-prior has one resolution"),
        (("--smooth", -1), "--smooth is a weight, at least 0; got -1"),
        (("--smooth-power", 0), "--smooth-power must be above 0"),
        (("--learning-rate", 0), "--learning-rate must be above 0"),
        (("--side", 0), "--side is a number of pixels"),
        (("--patches", 0.1), "--patches compares the patches of a vision transformer"),
        (
            ("--statistics", "none", "--statistics-weight", 2),
            "--statistics-weight weighs statistics, and there are none",
        ),
        (("--judge", MODEL, "--head", "multi-label", "--targets", 1), "--judge compares classes"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_go_together(
    words: tuple[object, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert said in refused(capsys, tmp_path / "run", *FLAT, *words)


def test_a_transformer_dreams_with_unlike_patches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    tiny = "(img_size=32,patch_size=8,embed_dim=24,depth=2,num_heads=2,num_classes=4)@initial"
    words = (
        f"timm.models.vision_transformer:VisionTransformer{tiny}",
        "--image-shape",
        3,
        32,
        32,
        "--mean",
        0,
        "--std",
        1,
        "--patches",
        0.1,
    )
    told = dreamed(capsys, tmp_path / "run", *words)
    assert told["how"]["statistics"].startswith("self-calibrated on 256 dead leaves")
    assert told["how"]["term"][-1]["name"] == "patch similarity"


def test_another_way_in_the_same_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dreamed(capsys, tmp_path / "run", *FLAT)
    words = [*map(str, ("dream", *FLAT, "--out", tmp_path / "run", "--n", 4, "--steps", 2))]
    assert main([*words, "--canvas", "pixels"]) == 2
    assert "canvas None there and 'pixels' here" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize(("axes", "channels", "side"), [(1, 2, 12), (3, 1, 4), (2, 5, 6)])
def test_signals_volumes_and_any_number_of_channels(
    axes: int, channels: int, side: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = f"tiny_networks:flat(axes={axes},channels={channels},side={side})@initial"
    words = (model, "--image-shape", channels, *[side] * axes, "--mean", 0, "--std", 1)
    told = dreamed(capsys, tmp_path / "run", *words, *BARE, steps=150)
    assert told["asked"]["image_shape"] == [channels, *[side] * axes]
    assert told["figures"]["teacher_agreement"]["value"] >= 0.75
    assert (tmp_path / "run" / "dreams.png").exists() is (axes > 1)
    bank = tmp_path / "run" / "bank"
    assert main(["bank", "verify", str(bank), "--model", *map(str, words)]) == 0
    capsys.readouterr()
    status = main(["bank", "picture", str(bank), "--out", str(tmp_path / "seen.png")])
    printed, err = capsys.readouterr()
    assert status == (0 if axes > 1 else 2)
    assert ("picture: " in printed) if axes > 1 else ("signals of shape (2, 12) are not drawn" in err)


def test_shapes_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shape in ((3,), (1, 2, 3, 4, 5)):
        words = ("tiny_networks:flat@initial", "--image-shape", *shape, "--mean", 0, "--std", 1)
        assert "--image-shape takes channels and one, two or three sides" in refused(capsys, tmp_path / "run", *words)
    assert main(["evaluate", MODEL, "--test-set", "zoo:fashion-mnist", "--image-shape", "1", "28"]) == 2
    assert "--image-shape takes channels, height and width, got 1 28" in capsys.readouterr().err
