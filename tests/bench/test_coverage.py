"""The coverage bench on two tiny networks: every step runs, failures are told, a stopped run goes on."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from reverie.bench import coverage
from reverie.bench.coverage import coverage_jobs, examine_all, passes, prunable, wrong
from reverie.bench.coverage_page import coverage_page, coverage_rows, coverage_table
from reverie.bench.examine import Row, _count, _steady, certified_share, examine, kept_units
from reverie.bench.figure import run_bench
from reverie.bench.kinds import OTHERS, SPEED, TIMM, TIMM_MODULES, Input, Subject
from reverie.bench.kinds.timm_modules import LEFT_OUT
from reverie.bench.portable import difference
from reverie.core.environment import commit
from reverie.graph import probe

SIREN = next(one for one in OTHERS if one.name == "siren")
BROKEN = Subject("broken", "raises", "reverie.bench.kinds.implicit:Siren", {"no_such": 1}, (Input((2,)),))


def test_the_lists_are_those_that_were_asked_for():
    assert len(TIMM) == 40
    assert len({one.kind for one in OTHERS}) == 22
    names = [one.name for one in (*TIMM, *OTHERS, *SPEED)]
    assert len(set(names)) == len(names) - 1  # resnest14d is in the forty and one of the four that are to be fast


def test_every_module_of_timm_is_listed_or_left_out_by_name():
    listed = {one.kind.removeprefix("timm module "): one.name for one in TIMM_MODULES}
    there: dict[str, set[str]] = {}
    for name in timm.list_models():
        there.setdefault(timm.model_entrypoint(name).__module__.rpartition(".")[2], set()).add(name)
    assert all(name in there[module] for module, name in listed.items())
    assert there.keys() - listed.keys() == set(LEFT_OUT)


def test_a_network_is_built_the_same_every_time_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    one, two = SIREN.build(), SIREN.build()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(SIREN.example()[0], SIREN.example()[0])
    assert torch.equal(state, torch.random.get_rng_state())


def test_one_network_is_examined_in_every_way():
    row = examine(SIREN)
    assert row.failures == {}
    assert (row.units, row.free, row.removed) == (72, 72, 24)
    # All but the bias of the head, 3 of 1347 numbers.
    assert row.certified == pytest.approx(1 - 3 / row.parameters)
    assert row.cut_difference is not None
    assert row.cut_difference <= 1e-5
    assert row.exact_difference is not None
    assert row.exact_difference <= 1e-12
    assert row.fresh_difference == 0.0
    assert row.onnx_difference is not None
    assert row.onnx_difference <= 1e-4
    assert passes(row)
    assert Row(**json.loads(json.dumps(row.to_json()))) == row


def test_what_fails_says_why_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(coverage.LISTS, "others", lambda: (BROKEN, SIREN))
    first = examine_all((BROKEN, SIREN), tmp_path / "others", portable=False)
    assert "no_such" in first[0].failures["structure"]
    assert prunable(first[1])
    (tmp_path / "others" / "siren.json").write_text(json.dumps(Row("siren", "kept").to_json()))
    again = examine_all((BROKEN, SIREN), tmp_path / "others", portable=False)
    assert again[1].kind == "kept"
    # What was examined before commits were kept does not say which.
    assert ([row.commit for row in first], again[1].commit) == ([commit(), commit()], None)


def test_a_network_that_hangs_is_given_up(tmp_path: Path):
    (row,) = examine_all((SIREN,), tmp_path, limit_s=0.01)
    assert row.failures == {"process": "given up after 0 s"}
    assert not passes(row)


def test_verdicts():
    good = Row("a", "b", units=10, free=10, removed=3, cut_difference=1e-6, exact_difference=1e-15)
    assert prunable(good)
    assert not passes(good)
    good.fresh_difference, good.onnx_difference = 0.0, 1e-5
    assert passes(good)
    for change in (
        {"removed": 2},
        {"free": 4, "removed": 2},
        {"fresh_difference": 1e-9},
        {"onnx_difference": 2e-4},
        {"cut_difference": 2e-5},
    ):
        assert not passes(Row(**good.to_json() | change))
    # The law is proven in double precision; a small number elsewhere does not help.
    for single in (0.1, 1e-6):
        another = Row(**good.to_json() | {"cut_difference": single, "exact_difference": 0.1})
        assert wrong(another)
        assert not prunable(another)
    # Rounding of a network that amplifies it is no wrong cut, and no kept bound either.
    rounded = Row(**good.to_json() | {"cut_difference": 4e-5, "exact_difference": 1e-14})
    assert not wrong(rounded)
    assert not prunable(rounded)


def test_the_share_of_certified_parameters_counts_elements_once():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    structure = probe(net, torch.zeros(1, 3))
    only = structure.freezing({"1": "by hand"})
    # 12 + 4 of the first layer, all 20 of the second; its bias of 5 and the last layer of 10 + 2 stay.
    assert certified_share(net, only) == pytest.approx(36 / 53)
    assert certified_share(net, structure) == pytest.approx(51 / 53)


def test_at_least_the_share_is_removed_and_always_a_unit_kept():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 10), nn.Linear(10, 2))
    kept = kept_units(probe(net, torch.zeros(1, 3)), share=0.3)
    assert {name: len(units) for name, units in kept.items()} == {"0": 1, "1": 7}


def test_answers_of_other_shapes_or_without_numbers_differ_without_bound():
    one = [torch.ones(3)]
    assert difference(one, [torch.ones(4)]) == float("inf")
    assert difference([torch.full((3,), torch.nan)], one) == float("inf")
    assert difference([torch.ones(3) * 11], [torch.ones(3) * 10]) == pytest.approx(0.1)
    assert difference([torch.full((3,), 0.3)], [torch.full((3,), 0.1)]) == pytest.approx(0.2)


def test_the_page_and_the_table_say_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in coverage.LISTS:
        monkeypatch.setitem(coverage.LISTS, name, lambda: (SIREN,))
        (tmp_path / name).mkdir()
        row = Row(
            "siren", "implicit", parameters=1347, seconds=0.25, units=72, free=70, removed=24, certified=0.975,
            rounding=1e-7, calmed=2, cut_difference=2e-7, exact_difference=3e-16, fresh_difference=0.0,
                onnx_difference=4e-7,
            frozen={"aten.sort in head has no rule": 2}, failures={}, commit="a" * 40 if name == "timm" else "b" * 40,
        )  # fmt: skip
        (tmp_path / name / "siren.json").write_text(json.dumps(row.to_json()))
    monkeypatch.setattr(coverage, "SPEED", (SIREN,) * 4)
    value, _ = run_bench("coverage", coverage_jobs(tmp_path), only=["timm-passed", "certified-parameters"])
    found = {figure["name"]: figure["value"] for figure in value["figures"]}
    assert (found["timm-passed"], found["certified-parameters"]) == (1, 0.975)
    assert len(coverage_table(tmp_path).rows) == 4
    assert coverage_rows(tmp_path)["timm"][0].free == 70
    page = coverage_page(tmp_path, {**value, "commit": "b" * 40})
    numbers = "1,347 | 0.25 | 70 of 72 | 97.5% | 34% | 1e-07 (2) | 2e-07 | 3e-16 | same bits | 4e-07"
    assert f"| siren | implicit | {numbers} | yes |" in page
    assert "- `siren` keeps 2 units: `aten.sort in head has no rule`" in page
    assert "commit bbbbbbbbbbbb.\nOf another commit: 1 row of aaaaaaaaaaaa.\n" in page
    assert "| certified-parameters | median share | at least 0.95 | 0.975 | yes |" in page


class Steep(nn.Module):
    """A wave so steep that single precision cannot follow it, unless its argument is small."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sin(400 * self.norm(self.first(x)) ** 3))


def test_scales_are_halved_only_where_the_uncut_network_rounds_too_much():
    images = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),)
    steep, gentle = Row("steep", ""), Row("gentle", "")
    found = _steady(steep, Steep(), images, images)
    _steady(gentle, nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), images, images)
    assert (gentle.calmed, steep.calmed > 0) == (0, True)
    assert gentle.rounding is not None
    assert gentle.rounding < 1e-6
    assert steep.rounding is not None
    assert steep.rounding <= 5e-6 or steep.calmed == 4
    scale = 0.5**steep.calmed
    drawn, plain = found
    assert (drawn.norm.weight.dtype, plain.norm.weight.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(plain.norm.weight.double(), drawn.norm.weight * scale)
    torch.testing.assert_close(plain.first.weight.double(), drawn.first.weight)


class Looked(nn.Module):
    """Reads a table of five numbers at positions that a buffer states."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.table = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.rand(5, 6))
        self.register_buffer("places", torch.tensor([0, 3, 3, 1, 2, 2, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x)[:, None] + self.table[self.places]).relu()).mean(1)


def test_entries_of_tables_are_no_units():
    net, row = Looked(), Row("looked", "")
    _count(row, net, probe(net, torch.zeros(2, 4)))
    assert (row.free, row.units, row.frozen) == (6, 6, {})
