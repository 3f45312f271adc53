import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import EXAMPLE, tiny_network
from reverie.compress.latencies import bytes_at, layer_shape, macs_at
from reverie.compress.sites import find_sites
from reverie.compress.study import read_study, study_of
from reverie.core.errors import BudgetInfeasible, CorruptFile, RangeError, ReferenceNotFound
from reverie.graph import probe


@pytest.fixture(scope="module")
def parts():
    structure = probe(tiny_network().body, EXAMPLE)
    sites = find_sites(structure, step=1)
    rng = np.random.default_rng(0)
    scores = {group.name: torch.from_numpy(rng.random(group.units)) for group in structure.free}
    losses = {
        (site, width): float(rng.exponential()) * (widths[0] - width) ** 2
        for site, widths in sites.widths.items()
        for width in widths[1:]
    }
    return sites, losses, scores


def made(parts, columns):
    sites, losses, scores = parts
    errors = dict.fromkeys(losses, 0.5)
    return study_of(sites, losses, columns, scores, errors=errors, units={"macs": "MAC"}, about={"model": "tiny"})


@pytest.fixture(scope="module")
def study(parts):
    return made(parts, {"macs": macs_at, "size": bytes_at})


def test_a_saved_study_gives_the_same_plans(study, tmp_path):
    study.save(tmp_path / "study.json")
    again = read_study(tmp_path / "study.json")
    assert again.to_json() == study.to_json()
    for share in (0.8, 0.5, 0.3):
        first, second = study.solve({"macs": share}), again.solve({"macs": share})
        assert (first.plan, first.shares, first.loss) == (second.plan, second.shares, second.loss)
        assert first.shares["macs"] <= share


def test_solving_again_loads_no_network(study, tmp_path):
    study.save(tmp_path / "study.json")
    code = (
        "import sys; from pathlib import Path; from reverie.compress.study import read_study\n"
        f"print(sorted(read_study(Path({str(tmp_path / 'study.json')!r})).solve({{'macs': 0.5}}).widths.items()))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src", "PATH": ""}
    )
    assert found.stdout.strip() == str(sorted(study.solve({"macs": 0.5}).widths.items()))


def test_what_is_predicted_is_what_the_plan_costs(study, parts):
    sites, losses, scores = parts
    solution = study.solve({"macs": 0.6})
    assert solution.plan == sites.plan(solution.widths, scores)
    total = sum(macs_at(layer, *layer.widths(solution.widths)) for layer in sites.structure.layers)
    whole = sum(layer.macs for layer in sites.structure.layers)
    if not solution.plan.bypassed:
        assert solution.shares["macs"] == pytest.approx(total / whole)
    assert solution.loss == pytest.approx(sum(losses.get(one, 0.0) for one in solution.widths.items()))
    changed = sum(one in losses for one in solution.widths.items())
    assert solution.loss_error == pytest.approx(0.5 * changed**0.5)


def test_the_frontier_loses_more_for_less(study):
    front = study.frontier("macs", [0.9, 0.7, 0.5, 1e-6])
    assert len(front) == 3
    assert [one.loss for one in front] == sorted(one.loss for one in front)


def test_a_table_of_another_device_joins(study, parts):
    fast = made(parts, {"latency": lambda layer, i, o, g: float(i * o)})
    both = study.joined(fast)
    assert both.columns == ("macs", "size", "latency")
    solution = both.solve({"latency": 0.5, "macs": 0.9})
    assert solution.shares["latency"] <= 0.5
    assert solution.shares["macs"] <= 0.9
    assert both.solve({"latency": 0.5}).widths == fast.solve({"latency": 0.5}).widths
    with pytest.raises(RangeError, match="join"):
        study.joined(study)


def test_a_predictor_moves_the_limit(study):
    # A plan of half the sum that measures 0.65 asks for a constant of 0.15 / 0.5; it weighs as much as none at all.
    fixed = study.calibrated("macs", [(0.5, 0.65)])
    assert fixed.solve({"macs": 0.6}).widths == study.solve({"macs": (0.6 - 0.15) / 0.85}).widths
    assert fixed.solve({"macs": 0.6}).shares["macs"] <= 0.6
    # What is said of later plans is of the line as it is then.
    again = fixed.calibrated("macs", [(0.15 + 0.85 * 0.5, 0.65)])
    assert again.solve({"macs": 0.6}) == fixed.solve({"macs": 0.6})


def test_what_cannot_be_had_is_named(study, tmp_path):
    with pytest.raises(ReferenceNotFound, match="'latency'; this study has macs, size"):
        study.solve({"latency": 0.5})
    with pytest.raises(RangeError, match="above 0"):
        study.solve({"macs": 0.0})
    with pytest.raises(ReferenceNotFound, match="'latency' cannot be spent without a limit; limits are on macs"):
        study.solve({"macs": 0.5}, spend="latency")
    with pytest.raises(BudgetInfeasible, match=r"cheapest plan takes \d") as caught:
        study.solve({"macs": 0.01})
    assert study.solve({"macs": caught.value.cheapest * 1.001}).shares["macs"] == pytest.approx(caught.value.cheapest)
    unpaired = study.to_json()
    unpaired["blueprint"]["layers"][0]["incoming"]["terms"] = [[[]]]
    for content in ("[]", "{}", json.dumps({**study.to_json(), "format": 9}), json.dumps(unpaired)):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(CorruptFile, match="broken"):
            read_study(tmp_path / "broken.json")


def test_ties_of_scores_keep_the_first(study):
    even = replace(study, scores={site: (1.0,) * len(scores) for site, scores in study.scores.items()})
    for kept in even.solve({"macs": 0.5}).plan.kept.values():
        assert kept == tuple(range(len(kept)))


def test_a_study_that_was_saved_reads_the_table_of_another_device(parts, tmp_path):
    class Table:
        """Another device: time is what the key of a layer says, and nothing can be measured here."""

        def milliseconds(self, shape):
            return shape.macs**0.5 / 100 + 0.001 * shape.out_channels

    made(parts, {"macs": macs_at}).save(tmp_path / "study.json")
    found = read_study(tmp_path / "study.json").timed(Table(), column="phone")
    assert found.columns == ("macs", "phone")
    assert found.units["phone"] == "ms"
    direct = made(parts, {"phone": lambda *at: Table().milliseconds(layer_shape(*at))})
    assert found.solve({"phone": 0.6}).widths == direct.solve({"phone": 0.6}).widths
    assert found.solve({"phone": 0.6, "macs": 0.5}).shares["macs"] <= 0.5
    # Read again, the column is replaced.
    again = found.calibrated("phone", [(0.5, 0.65)]).timed(Table(), column="phone")
    assert again.columns == ("macs", "phone")
    assert again.solve({"phone": 0.6}).widths == direct.solve({"phone": 0.6}).widths
    bare = replace(found, sites=None)
    bare.save(tmp_path / "bare.json")
    with pytest.raises(ReferenceNotFound, match="without its layers"):
        read_study(tmp_path / "bare.json").timed(Table())


def test_what_is_left_of_a_budget_is_spent_and_nothing_kept_goes(study):
    for share in (0.9, 0.75, 0.6, 0.45, 0.3):
        least, full = study.solve({"macs": share}), study.solve({"macs": share}, spend="macs")
        assert full.shares["macs"] <= share
        assert full.shares["macs"] >= least.shares["macs"]
        assert all(full.widths[site] >= width for site, width in least.widths.items())
        choice = full.allocation.choice
        total = sum(one.options[choice[one.name]].loss for one in study.problem.sites)
        assert full.loss == pytest.approx(total)
        assert full.allocation.lower_bound <= least.loss + 1e-12
        # Nothing more fits: one more unit at any site is beyond the budget, or beside the point.
        for site, width in full.widths.items():
            wider = [one for one in study.problem.widths[site] if one > width]
            if wider and 0 not in (width, full.widths[site]):
                grown = {**choice, site: choice[site] - 1}
                cost = study._share("macs", study.problem.varying("macs", grown))
                assert cost > share - 0.003 or cost < full.shares["macs"] + 0.003


def test_beside_a_plan_are_all_that_differ_by_one_step_and_are_allowed(study):
    found = study.solve({"macs": 0.6})
    around = study.beside(found, {"size": 0.8})
    assert len({one.plan.digest() for one in around}) == len(around) > 0
    for one in around:
        (site,) = [name for name, width in one.widths.items() if width != found.widths[name]]
        options = study.problem.widths[site]
        assert abs(options.index(one.widths[site]) - options.index(found.widths[site])) == 1
        assert one.shares["size"] <= 0.8 + 1e-12
        # Costs and losses are those of the same choice, found in the other way: as the only plan that there is.
        only = [
            replace(place, options=(place.options[one.allocation.choice[place.name]],)) for place in study.problem.sites
        ]
        assert one.loss == pytest.approx(sum(place.options[0].loss for place in only))
        assert study.solve(one.shares).loss <= one.loss + 1e-12
        assert one.allocation.lower_bound <= one.loss
    # A block is bypassed in all its groups or in none, so no single step leads to it.
    assert all(one.plan.bypassed == found.plan.bypassed for one in around)
    unlimited = study.beside(found, {})
    assert {one.plan.digest() for one in unlimited} >= {one.plan.digest() for one in around}
    steps = sum((at > 0) + (at + 1 < len(study.problem.widths[site])) for site, at in found.allocation.choice.items())
    assert len(unlimited) <= steps


def test_a_network_in_which_nothing_can_be_decided_has_one_plan(study):
    problem = replace(study.problem, sites=(), pairs=(), fixed={"macs": 10.0}, widths={})
    nothing = replace(study, problem=problem, predictors={})
    assert nothing.solve({"macs": 1.0}).shares == {"macs": 1.0}
    with pytest.raises(BudgetInfeasible, match="cheapest plan takes 100"):
        nothing.solve({"macs": 0.9})


def test_a_loss_of_two_sites_together_is_saved(study, tmp_path):
    first = study.problem.pairs[0]
    shape = [len(study.problem.widths[site]) for site in (first.site_a, first.site_b)]
    pair = replace(first, loss=np.arange(float(np.prod(shape))).reshape(shape))
    together = replace(study, problem=replace(study.problem, pairs=(pair, *study.problem.pairs[1:])))
    together.save(tmp_path / "study.json")
    read = read_study(tmp_path / "study.json")
    assert np.array_equal(read.problem.pairs[0].loss, pair.loss)
    assert read.solve({"macs": 0.5}).loss == together.solve({"macs": 0.5}).loss


def test_a_plan_that_counts_more_than_its_sum_is_solved_again(study):
    def counted(plan):
        """As if half of all that is saved came back."""
        asked.append(plan)
        (share,) = [one for one in sums if one[0] == plan.digest()][:1]
        return {"macs": share[1] + 0.5 * (1 - share[1])}

    asked = []
    sums = [(one.plan.digest(), one.shares["macs"]) for one in study.frontier("macs", np.linspace(0.05, 1, 400))]
    found = study.solve({"macs": 0.7}, counted=counted)
    assert 0.6 < found.shares["macs"] <= 0.7
    assert 1 < len(asked) < 10
    assert found.shares["size"] < 1, "what is not counted is as it was"
