"""What is printed where, and the exit status."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, get_args, get_type_hints

import numpy as np
import pytest
import torch

from reverie.cli.loading import Loading, load_beside, load_network
from reverie.cli.main import VERBS, main
from reverie.core.errors import RangeError, ReverieError
from reverie.zoo.networks import CifarVGG

EVALUATE = ["evaluate", "zoo:fashion-vgg", "--test-set", "zoo:fashion-mnist"]
URL = "http"


def _raising(error: BaseException) -> object:
    def load(*_: object, **__: object) -> NoReturn:
        raise error

    return load


def _one_sentence(err: str) -> str:
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert URL not in line
    assert line.isprintable()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], "evaluate"),
        (["evaluate", "zoo:fashion-vgg"], "--test-set"),
        (["evaluate", "--test-set", "x"], "MODEL"),
        ([*EVALUATE, "--tets-set", "x"], "--tets-set"),
        ([*EVALUATE, "one-too-many"], "one-too-many"),
        ([*EVALUATE, "--image-shape", "3", "32"], "--image-shape"),
        ([*EVALUATE, "--image-shape", "3", "32", "wide"], "wide"),
        ([*EVALUATE, "--trust", "everyone"], "pt2"),
        (["bench", "nothing"], "main-job"),
        (["bench", "main-job", "--only", "nothing"], "import-time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_request_that_cannot_be_read_is_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in _one_sentence(err)


def test_an_error_of_the_package_is_its_own_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reverie.zoo.load.load", _raising(RangeError("asked, found,\nwhere, \x1b[31mdo")))
    assert main(EVALUATE) == 2
    assert _one_sentence(capsys.readouterr().err) == "asked, found, where, [31mdo"


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("reverie.zoo.load.load", _raising(KeyboardInterrupt()))
    assert main(EVALUATE) == 130
    assert capsys.readouterr() == ("", "interrupted; run the same command again to go on\n")


def test_a_surprise_names_itself_and_the_way_to_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reverie.zoo.load.load", _raising(ZeroDivisionError("by zero")))
    assert main(EVALUATE) == 1
    said = _one_sentence(capsys.readouterr().err)
    assert said.startswith("unexpected ZeroDivisionError: by zero.")
    assert "--debug" in said
    assert main([*EVALUATE, "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ReverieError("no"), ZeroDivisionError("no"), KeyboardInterrupt()], ids=repr)
def test_with_json_a_failure_is_one_object_as_well(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reverie.zoo.load.load", _raising(error))
    status = main([*EVALUATE, "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)["error"]
    assert found.keys() == {"kind", "message", "status"}
    assert found["status"] == status
    assert found["message"] in err


def test_whatever_other_code_prints_the_answer_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor_noise() -> str:
        print("noise of some library")  # noqa: T201
        return "fine"

    # The package's attribute `doctor` is the verb; the module of the same name is found by its full name.
    monkeypatch.setattr(sys.modules["reverie.cli.verbs.doctor"], "_torch", doctor_noise)
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out).keys() == {"machine", "versions", "checks"}
    assert out.count("\n") == 1
    assert "noise of some library" in err


def test_a_broken_installation_is_told_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise ImportError("no onnxruntime")

    monkeypatch.setattr(sys.modules["reverie.cli.verbs.doctor"], "_onnx_runtime", broken)
    facts = {"processor": "abacus", "cores": 1, "memory_bytes": None, "system": "linux"}
    monkeypatch.setattr("reverie.core.environment.machine", lambda: facts)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "broken   ONNX Runtime: ImportError: no onnxruntime" in printed
    assert "abacus, 1 core, linux" in printed
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"][1]["state"] == "broken"


def test_a_package_is_found_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "package_of_a_user.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    np.savez("own.npz", images=np.zeros((3, 1, 2, 2), np.uint8), labels=np.array([0, 1, 2]))
    one = "package_of_a_user:make@initial"
    stated = ["--image-shape", "1", "2", "2", "--mean", "0", "--std", "1"]
    # The second network does not say which images it takes: they are those of the first.
    status = main(["evaluate", one, "--test-set", "own.npz", *stated, "--against", one])
    assert (status, sys.path) == (0, before)
    said = capsys.readouterr().out
    assert "33.33% of 3 images right" in said
    assert "they agree on 100.00%" in said


def test_a_second_network_keeps_what_it_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = "reverie.zoo.networks:CifarVGG(stages=[[4]],in_channels=1)"
    body = CifarVGG(stages=[[4]], in_channels=1)
    foreign = tmp_path / "foreign.pth"
    torch.save({f"t{index}": tensor for index, tensor in enumerate(body.state_dict().values())}, foreign)
    foreign.with_suffix(".json").write_text('{"mean": [0.25]}')
    np.savez(tmp_path / "own.npz", images=np.zeros((3, 1, 28, 28), np.uint8), labels=np.array([0, 1, 2]))
    words = ["evaluate", "zoo:fashion-vgg", "--test-set", str(tmp_path / "own.npz"), "--against"]
    assert main([*words, f"{factory}@{foreign}", "--positional"]) == 0
    assert main([*words, f"{factory}@{foreign}"]) == 2
    assert "positional" in capsys.readouterr().err
    first, asked = load_network("zoo:fashion-vgg"), Loading(mean=(0.9,), positional=True)
    second = load_beside(f"{factory}@{foreign}", asked, image_shape=first.image_shape, first=first)
    assert (second.image_shape, second.mean.item(), second.std.item()) == ((1, 28, 28), 0.25, first.std.item())
    alone = load_beside(f"{factory}@{foreign}", Loading(std=(3.0,), positional=True), image_shape=(1, 28, 28))
    assert (alone.mean.item(), alone.std.item()) == (0.25, 3.0)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""


def test_the_command_as_a_process() -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "reverie", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good, bad = run("doctor", "--json"), run("evaluate", "zoo:fashion-vgg")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["checks"][0]["state"] == "ok"
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "--test-set" in _one_sentence(bad.stderr)


@pytest.mark.parametrize("verb", sorted(VERBS, key=lambda verb: verb.__name__), ids=lambda verb: verb.__name__)
def test_help_breaks_no_sentence(verb: Callable[..., object]) -> None:
    """Lines of a docstring stay lines of the help: each is a sentence or one option."""
    options = [one for one in get_type_hints(verb).values() if dataclasses.is_dataclass(one)]
    for text in (inspect.getdoc(one) or "" for one in (verb, *options)):
        about, _, listed = (
            re.split(r"(Args:|Attributes:)\n", text + "\n", maxsplit=1) if ":\n" in text else (text, "", "")
        )
        assert [line for line in about.splitlines() if line and not line.endswith(".")] == []
        assert [line for line in listed.splitlines() if line and not re.match(r"    \w+: ", line)] == []


def test_an_option_means_the_same_wherever_it_is_given() -> None:
    kinds: dict[str, set[object]] = {}

    def note(owner: object) -> None:
        for name, kind in get_type_hints(owner).items():
            if dataclasses.is_dataclass(kind):
                note(kind)
            elif name != "return":
                kinds.setdefault(name, set()).add(frozenset({*get_args(kind)} - {type(None)} or {kind}))

    for verb in VERBS:
        note(verb)
    assert {"n", "seed", "size", "images"} <= kinds.keys()
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
