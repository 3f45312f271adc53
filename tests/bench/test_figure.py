"""Benchmarks: every figure is answered, or says why not."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from reverie.bench import BENCHES
from reverie.bench.dreams import through_png
from reverie.bench.figure import Ask, Figure, Job, Measured, Question, at_least, at_most, run_bench
from reverie.bench.summary import figures_table
from reverie.core.errors import CorruptFile, MissingExtra, ReferenceNotFound
from reverie.core.events import Listener


def _job(name: str, value: float | Exception) -> Job:
    def run(on_event: Listener) -> Mapping[str, Measured]:
        del on_event
        if isinstance(value, Exception):
            raise value
        return {name: Measured(value, (value, 2 * value), "range")}

    return Job((Question(name, "s", at_most(1.0), f"run {name}"),), run)


@pytest.mark.parametrize(
    ("ask", "value", "holds"),
    [(at_most(1.0), 1.0, True), (at_most(1.0), 1.01, False), (at_least(0.7), 0.7, True), (at_least(0.7), 0.69, False)],
)
def test_a_bound_belongs_to_what_was_asked(ask: object, value: float, holds: bool) -> None:
    question = Question("a", "s", ask, "run a")  # type: ignore[arg-type]
    assert Figure(question, Measured(value)).to_json()["holds"] is holds


def test_the_object_has_the_agreed_form() -> None:
    value, _ = run_bench("b", [_job("fast", 0.5), _job("slow", 2.0)])
    assert value.keys() == {"bench", "commit", "machine", "versions", "figures"}
    assert value["figures"][0] == {
        "name": "fast",
        "value": 0.5,
        "unit": "s",
        "ask": {"at_most": 1.0},
        "holds": True,
        "spread": [0.5, 1.0],
        "spread_kind": "range",
        "command": "run fast",
    }
    assert value["figures"][1]["holds"] is False
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_what_cannot_run_has_a_reason_and_the_rest_runs() -> None:
    value, figures = run_bench("b", [_job("a", MissingExtra("install timm")), _job("b", 0.1)])
    first, second = value["figures"]
    assert (first["value"], first["holds"], first["reason"]) == (None, None, "MissingExtra: install timm")
    assert second["holds"] is True
    assert [row[2] for row in figures_table(figures).rows] == ["not run", "0.1"]


def test_only_what_is_asked_for_runs() -> None:
    value, _ = run_bench("b", [_job("a", RuntimeError("ran")), _job("b", 0.1)], only=["b"])
    assert value["figures"][0]["reason"] == "not asked for in this run"
    with pytest.raises(ReferenceNotFound, match="a, b"):
        run_bench("b", [_job("a", 0.1), _job("b", 0.1)], only=["c"])


def test_what_is_kept_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.bench.figure.environment", lambda: {"commit": "first"})
    before, _ = run_bench("b", [_job("a", 0.5), _job("b", MissingExtra("install timm"))], folder=tmp_path)
    monkeypatch.setattr("reverie.bench.figure.environment", lambda: {"commit": "second"})
    after, _ = run_bench("b", [_job("a", RuntimeError("ran")), _job("b", 0.1)], folder=tmp_path)
    assert after["figures"][0] == {**before["figures"][0], "commit": "first"}
    assert after["figures"][1]["value"] == 0.1
    assert "commit" not in after["figures"][1]


@pytest.mark.parametrize("content", ["{", "[]", '{"commit": "first"}'])
def test_kept_answers_that_are_damaged_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"a\.json is not .* to "):
        run_bench("b", [_job("a", 0.5)], folder=tmp_path)


def test_a_long_job_goes_on_in_a_folder_of_its_own(tmp_path: Path) -> None:
    def resume(on_event: Listener, folder: Path) -> Mapping[str, Measured]:
        del on_event
        assert folder == tmp_path / "a"
        return {"a": Measured(2.0)}

    questions = (Question("a", "s", None, "run a"), Question("b", "s", None, "run a"))
    job = Job(questions, lambda _: {"a": Measured(1.0), "b": Measured(1.0)}, resume)
    assert [figure.measured for figure in run_bench("b", [job])[1]] == [Measured(1.0), Measured(1.0)]
    found = run_bench("b", [job], folder=tmp_path)[1]
    assert found[0].measured == Measured(2.0)
    assert (found[1].measured, found[1].reason) == (None, "this run could not tell it")


def test_a_figure_asked_for_brings_those_of_its_run() -> None:
    both = (Question("a", "s", None, "run a"), Question("b", "s", None, "run b"))
    job = Job(both, lambda _: {"a": Measured(1.0), "b": Measured(2.0)})
    value, _ = run_bench("b", [job], only=["a"])
    assert [figure["value"] for figure in value["figures"]] == [1.0, 2.0]


def test_a_defect_is_not_hidden_as_a_reason() -> None:
    with pytest.raises(ZeroDivisionError):
        run_bench("b", [_job("a", ZeroDivisionError())])


def test_figures_have_names_of_their_own() -> None:
    for jobs in BENCHES.values():
        names = [question.name for job in jobs for question in job.questions]
        assert len(set(names)) == len(names)


def test_a_figure_of_two_benches_is_asked_the_same() -> None:
    asks: dict[str, set[Ask | None]] = {}
    for question in (question for jobs in BENCHES.values() for job in jobs for question in job.questions):
        asks.setdefault(question.name, set()).add(question.ask)
    assert {name: found for name, found in asks.items() if len(found) > 1} == {}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_survive_their_files(channels: int) -> None:
    images = torch.randint(0, 256, (3, channels, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(through_png(images), images)
