"""The main verb: what it passes on, what it leaves behind, what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reverie.cli.finish import finish
from reverie.cli.main import main
from reverie.compress import Attempted, Compressed, Decision, Measured, Plan, Row
from reverie.compress.sites import Problem
from reverie.compress.study import Study
from reverie.core.edit import Record
from reverie.core.events import Event
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.core.store import write_json
from reverie.cost.backends import OnnxRuntime

HOSTILE = "<img src=x onerror=alert(1)>"


def _compressed(network: ImageNetwork, folder: Path, **options: Any) -> Compressed:
    """Stands for the library's verb: keeps what it was given, and returns in no time."""
    named = ImageNetwork(nn.Identity(), image_shape=network.image_shape, class_names=[HOSTILE, "b"])
    found = Compressed(
        network=named,
        plan=Plan({"features.0": (0, 1)}),
        record=Record(),
        rows=(Row("latency", "ms", "measured", Measured(2.0), Measured(1.0, relative=0.5), None),),
        decisions=(Decision("features.0", 32, 2, 0.1, 0.01),),
        attempts=(Attempted(0.5, 0.5),),
        source=Source("dreams", torch.zeros(6, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])),
        onnx=b"",
        study=Study(Problem((), (), {}, {}), {}, {}, {}),
        notes=(HOSTILE,),
        seconds={"dreaming": 1.0},
    )
    options.pop("on_event")(Event("dreaming", 1, 1))
    config = {name: value for name, value in options.items() if isinstance(value, str | int)}
    write_json(
        folder / "run.json",
        {"format": 1, "verb": "compress", "config": config, "finished": True, "figures": found.figures()},
    )
    return found


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.compress.compress", _compressed)


def test_with_json_standard_output_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["compress", "zoo:fashion-vgg", "--latency", "60%", "--seed", "3", "--out", str(out), "--json"]
    assert main(words) == 0
    printed, err = capsys.readouterr()
    value = json.loads(printed)
    assert value["folder"] == str(out)
    assert value["asked"]["model"] == "zoo:fashion-vgg"
    assert value["config"]["latency"] == "60%"
    assert value["config"]["seed"] == 3
    assert value["figures"]["rows"][0]["compressed"]["relative"] == 0.5
    assert "dreaming: 1 of 1" in err


def test_the_folder_gets_a_picture_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["compress", "zoo:fashion-vgg", "--size", "50%", "--out", str(out)]) == 0
    assert (out / "dreams.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.html").read_text()
    assert "<img src=x" not in report
    assert "zoo:fashion-vgg" in report
    assert json.loads((out / "run.json").read_text())["asked"]["size"] == "50%"
    printed = capsys.readouterr().out
    assert "1 ms" in printed
    assert str(out / "report.html") in printed


def test_a_latency_table_may_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[Any] = []

    def noted(network: ImageNetwork, folder: Path, **options: Any) -> Compressed:
        tables.append(options.pop("table"))
        return _compressed(network, folder, **options)

    monkeypatch.setattr("reverie.compress.compress", noted)
    words = ["compress", "zoo:fashion-vgg", "--macs", "50%", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert main([*words, "--table", str(tmp_path / "latency.json"), "--threads", "1"]) == 0
    assert tables[0] is None
    assert tables[1].environment == OnnxRuntime(threads=1).environment
    assert json.loads((tmp_path / "run" / "run.json").read_text())["asked"]["table"] == str(tmp_path / "latency.json")


def test_the_report_can_be_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["compress", "zoo:fashion-vgg", "--macs", "50%", "--out", str(out)]) == 0
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out / "report.html")
    assert (out / "report.html").read_bytes() == first


@pytest.mark.parametrize(("shape", "drawn"), [((4, 8, 8), True), ((2, 12), False)], ids=["four channels", "signals"])
def test_a_finished_run_does_not_fail_on_its_picture(shape: tuple[int, ...], drawn: bool, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"format": 1})
    dreams = Source("dreams", torch.zeros(6, *shape, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert finish(tmp_path, asked={"model": "m"}, source=dreams, class_names=["a", "b"])["asked"] == {"model": "m"}
    assert (tmp_path / "dreams.png").exists() is drawn
