"""Bad input: one clear sentence, exit status 2, nothing written, no traceback."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from reverie.cli.main import main
from reverie.zoo.networks import CifarVGG

FACTORY = "reverie.zoo.networks:CifarVGG(stages=[[4],[8]],num_classes=3)"
SHAPED = ["--image-shape", "3", "8", "8", "--mean", "0", "--std", "1"]
BUDGET = ["--latency", "60%"]


class Detonator:
    """Pickled, it writes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.write_text, (self.marker, "ran"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused, and return its sentence."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[!.]*") if path.is_file()}

    def run(*words: object) -> str:
        before = files()
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in line
        assert "http" not in line
        assert files() == before
        return line

    return run


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights that fit `FACTORY`."""
    path = tmp_path / "good.safetensors"
    torch.manual_seed(0)
    network = CifarVGG(stages=[[4], [8]], num_classes=3)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def compress(reference: str, tmp_path: Path, *more: str) -> list[str]:
    return ["compress", reference, "--out", str(tmp_path / "run"), *BUDGET, *more]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("zoo:fashion-vg", "fashion-vgg"),
        ("no/such/model", "no/such/model"),
        ("no.such.module:factory@initial", "no.such.module"),
        ("reverie.zoo.networks:CifarVGG@gone.safetensors", "gone.safetensors"),
        ("reverie.zoo.networks:CifarVGG", "weights"),
        ("", "empty"),
    ],
)
def test_a_model_that_does_not_exist(reference: str, said: str, refused: Callable[..., str], tmp_path: Path) -> None:
    assert said in refused(*compress(reference, tmp_path, *SHAPED))


def test_weights_of_another_network(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    other = FACTORY.replace("[8]", "[16]")
    assert str(weights) in refused(*compress(f"{other}@{weights}", tmp_path, *SHAPED))


def test_a_second_network_of_other_images(refused: Callable[..., str], tmp_path: Path) -> None:
    said = "zoo:cifar10-vgg is normalized for images of 3 channels and cannot take images of shape (1, 28, 28)"
    assert said in refused("latency", "compare", "zoo:fashion-vgg", "zoo:cifar10-vgg", "--seconds", "1")
    words = ("--n", "10", "--out", str(tmp_path / "run"), "--judge", "zoo:cifar10-vgg")
    assert said in refused("dream", "zoo:fashion-vgg", *words)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 7, 200])
def test_a_truncated_file(ending: str, keep: int, weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / f"cut{ending}"
    if ending == ".pth":
        torch.save(CifarVGG(stages=[[4], [8]], num_classes=3).state_dict(), path)
        path.write_bytes(path.read_bytes()[:keep])
    else:
        path.write_bytes(weights.read_bytes()[:keep])
    assert str(path) in refused(*compress(f"{FACTORY}@{path}", tmp_path, *SHAPED))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_would_run_code(zipped: bool, refused: Callable[..., str], tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Detonator(marker)))
            archive.writestr("archive/version", "3\n")
    else:
        torch.save({"state": Detonator(marker)}, path, _use_new_zipfile_serialization=False)
    assert str(path) in refused(*compress(f"{FACTORY}@{path}", tmp_path, *SHAPED))
    assert not marker.exists()


def test_an_exported_program_without_trust(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"anything")
    assert "--trust pt2" in refused(*compress(str(path), tmp_path, *SHAPED))


@pytest.mark.parametrize(
    ("shape", "said"), [(("1", "8", "8"), "1, 8, 8"), (("3", "1", "1"), "3, 1, 1")], ids=["channels", "size"]
)
def test_images_that_the_network_cannot_take(
    shape: tuple[str, ...], said: str, weights: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    words = ["--image-shape", *shape, "--mean", "0", "--std", "1"]
    assert said in refused(*compress(f"{FACTORY}@{weights}", tmp_path, *words))


def test_images_of_unknown_shape(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "image" in refused(*compress(f"{FACTORY}@{weights}", tmp_path))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (["--latency", "60"], "no unit"),
        (["--latency", "fast"], "not a number"),
        (["--latency", "4MB"], "unknown unit"),
        (["--latency", "0%"], "above 0%"),
        (["--latency", "140%"], "at most 100%"),
        (["--size", "1"], "no unit"),
        (["--macs", "20ms"], "unknown unit"),
        ([], "at least one budget"),
    ],
)
def test_a_budget_that_cannot_be_read(
    limits: list[str], said: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert said in refused("compress", "zoo:fashion-vgg", "--out", tmp_path / "run", *limits)


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["compress", "MODEL", "--out", "OUT", *BUDGET, one]
            for one in ("--dream-steps", "--teach-steps", "--threads")
        ),
        *(["latency", "build", "MODEL", "--table", "OUT", one] for one in ("--step", "--threads")),
        *(["latency", "compare", "MODEL", one] for one in ("--batch-size", "--threads")),
        ["inspect", "MODEL", "--threads"],
        ["bank", "picture", "BANK", "--out", "OUT", "--per-row"],
    ],
    ids=lambda words: f"{words[0]} {words[1]} {words[-1]}",
)
def test_a_count_below_one(words: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    places = {"MODEL": "zoo:fashion-vgg", "OUT": tmp_path / "out", "BANK": tmp_path / "bank"}
    line = refused(*(places.get(word, word) for word in words), "0")
    assert line == f"error: {words[-1]} must be at least 1, got 0"


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "coverage", "--out"],
        ["bench", "coverage", "--markdown"],
        ["bank", "capture", "zoo:gone", "--images", "gone", "--out"],
        ["bank", "picture", "gone", "--out"],
        ["latency", "solve", "gone", "--macs", "60%", "--out"],
    ],
    ids=lambda words: f"{words[0]} {words[1]} {words[-1]}",
)
def test_a_file_that_cannot_be_written(words: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused(*words, tmp_path) == f"error: {words[-1]} {tmp_path} is a folder; name a file in it"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["bench", "main-job", "--markdown", "page.md"],
            "--markdown writes the page of coverage, and main-job has none",
        ),
        (["latency", "solve", "gone", "--macs", "60%", "--environment", "phone"], "names one of a --table: give both"),
    ],
)
def test_an_option_that_would_do_nothing(words: list[str], said: str, refused: Callable[..., str]) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize("name", ["a", "b.npz"])
def test_a_test_set_that_is_not_there(name: str, weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / name
    assert str(path) in refused(*compress(f"{FACTORY}@{weights}", tmp_path, *SHAPED, "--test-set", str(path)))


def test_a_test_set_of_other_images(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, images=np.zeros((2, 3, 9, 9), np.uint8), labels=np.zeros(2, np.int64))
    assert "9" in refused(*compress(f"{FACTORY}@{weights}", tmp_path, *SHAPED, "--test-set", str(path)))


def test_a_folder_of_another_run(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    run = {"format": 1, "verb": "compress", "config": {"seed": 7}, "finished": True}
    (folder / "run.json").write_text(json.dumps(run))
    assert "another run" in refused(*compress(f"{FACTORY}@{weights}", tmp_path, *SHAPED))


def test_a_folder_of_other_files(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in refused(*compress(f"{FACTORY}@{weights}", tmp_path, *SHAPED))


def test_a_folder_that_cannot_be_made(weights: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["compress", f"{FACTORY}@{weights}", "--out", tmp_path / "file" / "run", *BUDGET, *SHAPED]
    assert "cannot write" in refused(*words)


def test_a_budget_out_of_reach_says_the_cheapest_figure(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    few = ["--dreams", "64", "--dream-steps", "1", "--teach-steps", "1"]
    assert main(["compress", f"{FACTORY}@{weights}", *SHAPED, "--macs", "1%", *few, "--out", str(out)]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert "error: cannot reach a budget of 1% for macs: the cheapest network that this one can be cut to has" in err
    assert "Raise the budget." in err.splitlines()[-1]
    assert "Traceback" not in err
    # What was measured stays, for the same command with a budget that can be met; no result is there.
    assert not (out / "model.onnx").exists()
    assert not (out / "model.safetensors").exists()
