"""The verb `prune`: what it writes, what it answers, what it refuses before anything is loaded."""

import json
import sys

import numpy as np
import pytest

from reverie.cli.loading import load_network
from reverie.cli.main import main
from reverie.compress.study import read_study
from reverie.zoo.load import load
from reverie.zoo.networks import CifarVGG

FACTORY = "reverie.zoo.networks:CifarVGG(stages=[[32],[64]],in_channels=1,num_classes=4)@initial"
MODEL = (FACTORY, "--image-shape", "1", "12", "12", "--mean", "0", "--std", "1")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 12), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 4)
    return ("prune", *MODEL, "--macs", "60%", "--source", str(path), "--n", "16")


def test_a_network_is_pruned_written_and_read_again(words, tmp_path, capsys):
    out = tmp_path / "pruned"
    assert main([*words, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shares"]["macs"] <= 0.6
    assert found["latency"] is None
    assert found["attempts"] == []
    assert found["loss"] > 0
    assert (out / "model.onnx").exists()
    again = read_study(out / "study.json").solve({"macs": 0.6})
    assert again.widths == found["widths"]
    whole = CifarVGG(stages=[[32], [64]], in_channels=1, num_classes=4)
    assert weights(load(str(out)).body) < weights(whole)
    run = json.loads((out / "run.json").read_text())
    assert (run["verb"], run["finished"], run["asked"]["model"]) == ("prune", True, FACTORY)
    assert {name: found[name] for name in run["figures"]} == run["figures"]
    assert {"shares", "latency", "attempts"} <= run["figures"].keys()
    # Killed between two files: the same command ends it, and no other.
    (out / "model.onnx").unlink()
    assert main([*words, "--out", str(out)]) == 0
    assert (out / "model.onnx").exists()
    capsys.readouterr()
    assert main([*words, "--rounds", "2", "--out", str(out)]) != 0
    assert "holds another run: rounds 1 there and 2 here" in capsys.readouterr().err


def test_a_network_that_does_not_say_how_it_is_built_leaves_what_can_be_read(words, tmp_path, monkeypatch):
    def without_origin(*words):
        network = load_network(*words)
        network.origin = None
        return network

    monkeypatch.setattr(sys.modules["reverie.cli.verbs.prune"], "load_network", without_origin)
    assert main([*words, "--out", str(tmp_path / "pruned")]) == 0
    assert {"run.json", "study.json", "model.onnx"} == {one.name for one in (tmp_path / "pruned").glob("[!.]*")}


def weights(network):
    return sum(one.numel() for one in network.parameters())


def test_sentences_name_the_files(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "pruned"), "--no-compensation"]) == 0
    out = capsys.readouterr().out
    assert "macs: " in out
    assert "predicted" in out
    assert str(tmp_path / "pruned" / "study.json") in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune", "zoo:fashion-vgg"], "budget"),
        (["prune", *MODEL, "--macs", "60%", "--backend", "abacus"], "onnxruntime, openvino"),
        (["prune", "zoo:fashion-vgg", "--latency", "sixty"], "sixty"),
        (["prune", "zoo:fashion-vgg", "--macs", "60%", "--n", "0"], "--n must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_done_is_said(words, said, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
