"""The verb `prune`: what it writes, what it answers, what it refuses before anything is loaded."""

import json

import pytest

from reverie.cli.main import main
from reverie.compress.study import read_study
from reverie.zoo.load import load

WORDS = ("prune", "zoo:fashion-vgg", "--macs", "60%", "--source", "zoo:fashion-mnist", "--images", "16")


def test_a_network_is_pruned_written_and_read_again(tmp_path, capsys):
    out = tmp_path / "pruned"
    assert main([*WORDS, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shares"]["macs"] <= 0.6
    assert found["latency"] is None
    assert found["attempts"] == []
    assert found["loss"] > 0
    assert (out / "model.onnx").exists()
    again = read_study(out / "study.json").solve({"macs": 0.6})
    assert again.widths == found["widths"]
    body = load(str(out)).body
    assert sum(one.numel() for one in body.parameters()) < sum(
        one.numel() for one in load("zoo:fashion-vgg").body.parameters()
    )
    assert main([*WORDS, "--out", str(out)]) != 0
    assert "is not empty" in capsys.readouterr().err


def test_sentences_name_the_files(tmp_path, capsys):
    assert main([*WORDS, "--out", str(tmp_path / "pruned"), "--no-compensation"]) == 0
    out = capsys.readouterr().out
    assert "macs: " in out
    assert "predicted" in out
    assert str(tmp_path / "pruned" / "study.json") in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune", "zoo:fashion-vgg"], "budget"),
        ([*WORDS, "--backend", "abacus"], "onnxruntime, openvino"),
        (["prune", "zoo:fashion-vgg", "--latency", "sixty"], "sixty"),
    ],
)
def test_what_cannot_be_done_is_said(words, said, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
