import json

import pytest
import torch

from reverie.cli.main import main
from reverie.cli.verbs.latency import Shares, solve
from reverie.compress.latencies import layer_shape, macs_at
from reverie.compress.sites import build_problem, find_sites
from reverie.compress.study import read_study, study_of
from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.graph import probe
from reverie.zoo.load import load

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
    large, small = "tiny_networks:flat(side=24)@initial", "tiny_networks:pooled@initial"
    words = ["latency", "compare", large, small, "--image-shape", "3", "24", "24", "--mean", "0", "--std", "1"]
    status, found, _ = answer(capsys, *words, "--seconds", "0.2")
    assert status == 0
    timings = found["backends"]["onnxruntime"]
    assert timings[large]["ratio_median"] == 1.0
    assert timings[small]["ratio_median"] > 0


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


def test_help_of_solve_asks_for_shares_alone(capsys):
    assert main(["latency", "solve", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "60%" in printed
    assert "4ms" not in printed


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    network = load(MODEL)
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    sites = find_sites(structure, step=16)
    scores = {group.name: torch.arange(group.units).float() for group in structure.free}
    losses = {(site, width): 1 / (width + 1) for site, widths in sites.widths.items() for width in widths[1:]}
    path = tmp_path_factory.mktemp("study") / "study.json"
    study_of(sites, losses, {"macs": macs_at}, scores).save(path)
    return path


def test_a_plan_for_another_budget_comes_from_a_file(study, tmp_path):
    found = solve(study, limits=Shares(macs="60%"), out=tmp_path / "plan.json").value
    assert found["shares"]["macs"] <= 0.6
    assert json.loads((tmp_path / "plan.json").read_text())["plan"] == found["plan"]
    assert found["loss"] <= solve(study, limits=Shares(macs="40%")).value["loss"]


def test_a_plan_is_shown_site_by_site(study, capsys):
    assert main(["latency", "solve", str(study), "--macs", "60%"]) == 0
    printed = capsys.readouterr().out
    widths = solve(study, limits=Shares(macs="60%")).value["widths"]
    whole = {site: options[0] for site, options in read_study(study).problem.widths.items()}
    for site, left in widths.items():
        line = next((line for line in printed.splitlines() if line.split()[:1] == [site]), None)
        assert (line is None) == (left == whole[site])
        assert line is None or line.split()[1:] == (["bypassed"] if left == 0 else [str(left), "of", str(whole[site])])


def test_a_plan_for_another_device_comes_from_two_files(study, tmp_path):
    # Two devices: on one a layer takes what it multiplies, on the other what it puts out.
    path, tables = tmp_path / "latency.json", {}
    network = load(MODEL)
    sites = find_sites(probe(network.body, torch.zeros(2, *network.image_shape)), step=16)
    for name, cost in {"many": lambda one: one.macs / 1e6, "wide": lambda one: float(one.out_channels)}.items():
        shapes = []
        build_problem(sites, {}, {"latency": lambda *at, into=shapes: into.append(layer_shape(*at)) or 0.0})
        layers = {one.key: {"ratio": cost(one), "error": 0.0, "measured": True} for one in shapes}
        tables[name] = {"yardstick_ms": 1.0, "layers": layers}
    path.write_text(json.dumps({"format": 1, "tables": tables}))
    half = Shares(latency="50%")
    many, wide = (solve(study, limits=half, table=path, environment=name).value for name in ("many", "wide"))
    assert many["widths"] != wide["widths"]
    assert max(many["shares"]["latency"], wide["shares"]["latency"]) <= 0.5
    with pytest.raises(RangeError, match="has 2 environments"):
        solve(study, limits=half, table=path)
    with pytest.raises(RangeError, match="give a share"):
        solve(study, limits=Shares(latency="4ms"))
    with pytest.raises(ReferenceNotFound, match="no cost is called 'latency'"):
        solve(study, limits=half)
