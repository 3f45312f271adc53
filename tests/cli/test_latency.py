import json

import pytest

from reverie.cli.main import main

MODEL = "zoo:fashion-resnet20"


@pytest.fixture
def table(tmp_path):
    return tmp_path / "latency.json"


def answer(capsys, *words):
    status = main([*words, "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out), err


def test_a_table_is_built_shown_and_not_built_twice(table, capsys):
    words = ["latency", "build", MODEL, "--table", str(table), "--most", "2"]
    status, first, _ = answer(capsys, *words)
    assert status == 0
    assert 0 < first["timed"] <= first["shapes"]
    _, again, _ = answer(capsys, *words)
    assert again["timed"] == 0
    _, shown, _ = answer(capsys, "latency", "show", "--table", str(table))
    (entry,) = shown["tables"]
    assert entry["environment"] == first["environment"]
    assert entry["measured"] == first["timed"]
    assert main(["latency", "show", "--table", str(table)]) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_networks_are_compared_in_a_runtime(capsys):
    words = ["latency", "compare", MODEL, "zoo:fashion-vgg", "--seconds", "0.2"]
    status, found, _ = answer(capsys, *words)
    assert status == 0
    timings = found["backends"]["onnxruntime"]
    assert timings[MODEL]["ratio_median"] == 1.0
    assert timings["zoo:fashion-vgg"]["ratio_median"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", MODEL, "--backend", "abacus"], "onnxruntime, openvino"),
        (["show", "--table", "absent.json"], "reverie latency build MODEL"),
        (["compare"], "MODEL"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(words, said, capsys):
    assert main(["latency", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert said in line
