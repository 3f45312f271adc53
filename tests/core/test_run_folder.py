"""A folder belongs to one command, and a stage that was done is not done again."""

import json

import pytest

from reverie.core.errors import CorruptFile, FolderInUse
from reverie.core.run_folder import open_run


def test_a_stage_is_done_once_and_read_afterwards(tmp_path):
    calls = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    for _ in range(2):
        with open_run(tmp_path / "run", verb="compress", config={"seed": 0}) as run:
            assert run.stage("one", work) == {"answer": 42}
    assert len(calls) == 1


def test_a_stage_that_fails_leaves_nothing_behind(tmp_path):
    def fail() -> dict[str, int]:
        raise ArithmeticError("no")

    with (
        pytest.raises(ArithmeticError),
        open_run(tmp_path / "run", verb="compress", config={}) as run,
    ):
        run.stage("one", fail)
    with open_run(tmp_path / "run", verb="compress", config={}) as run:
        assert run.stage("one", lambda: {"answer": 1}) == {"answer": 1}


def test_without_a_folder_stages_are_simply_done():
    with open_run(None, verb="compress", config={}) as run:
        assert run.stage("one", lambda: {"answer": 1}) == {"answer": 1}
        assert run.file("x") is None


def test_another_config_is_another_run_and_the_message_names_the_option(tmp_path):
    with open_run(tmp_path / "run", verb="compress", config={"seed": 0}):
        pass
    with (
        pytest.raises(FolderInUse, match="seed 0 there and 1 here"),
        open_run(tmp_path / "run", verb="compress", config={"seed": 1}),
    ):
        pass
    with pytest.raises(FolderInUse, match="dream"), open_run(tmp_path / "run", verb="dream", config={"seed": 0}):
        pass


def test_of_what_is_known_by_a_hash_the_message_says_that_it_is_another(tmp_path):
    for config in ({"weights_sha256": "a" * 64}, {"weights_sha256": "b" * 64}):
        try:
            with open_run(tmp_path, verb="compress", config=config):
                pass
        except FolderInUse as refused:
            said = str(refused)
    assert "another run: other weights. Choose" in said


def test_a_finished_run_says_what_it_is_what_was_found_and_where(tmp_path):
    with open_run(tmp_path / "run", verb="dream", config={"seed": 0}) as run:
        assert json.loads((tmp_path / "run/run.json").read_text())["finished"] is False
        record = run.finish(figures={"count": 3})
    assert json.loads((tmp_path / "run/run.json").read_text()) == record
    assert (record["verb"], record["config"], record["finished"]) == ("dream", {"seed": 0}, True)
    assert (record["figures"], {"machine", "versions", "commit"} <= record.keys()) == ({"count": 3}, True)
    # The same command may enter again.
    with open_run(tmp_path / "run", verb="dream", config={"seed": 0}), open_run(None, verb="dream", config={}) as none:
        assert none.finish()["finished"]


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FolderInUse, match=r"thesis\.txt"), open_run(tmp_path, verb="compress", config={}):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FolderInUse, match="is a file"), open_run(tmp_path / "run", verb="compress", config={}):
        pass


def test_damaged_files_are_said_to_be_damaged(tmp_path):
    with open_run(tmp_path, verb="compress", config={}) as run:
        run.stage("one", lambda: {"answer": 1})
    (tmp_path / "stages/one.json").write_text(json.dumps([1]))
    with pytest.raises(CorruptFile, match=r"one\.json"), open_run(tmp_path, verb="compress", config={}) as run:
        run.stage("one", lambda: {"answer": 1})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"run\.json"), open_run(tmp_path, verb="compress", config={}):
        pass


def test_a_run_of_another_format_is_refused(tmp_path):
    with open_run(tmp_path, verb="compress", config={}):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"format": 2}))
    with (
        pytest.raises(CorruptFile, match=r"run\.json has format 2; this version reads format 1"),
        open_run(tmp_path, verb="compress", config={}),
    ):
        pass


def test_a_run_that_was_killed_at_its_first_moment_is_entered_again(tmp_path):
    (tmp_path / ".lock").write_text("7")
    (tmp_path / ".run.json.a1b2.part").write_text('{"format"')
    with open_run(tmp_path, verb="compress", config={}):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "run.json"]


def test_a_config_is_what_json_makes_of_it(tmp_path):
    for _ in range(2):
        with open_run(tmp_path, verb="compress", config={"layers": ("first", "last"), "at": {1: 2.0}}):
            written = json.loads((tmp_path / "run.json").read_text())["config"]
            assert written == {"layers": ["first", "last"], "at": {"1": 2.0}}


def test_time_of_what_fails_counts_and_damaged_time_is_said_to_be_damaged(tmp_path):
    with open_run(tmp_path, verb="compress", config={}) as run, pytest.raises(ZeroDivisionError):
        run.timed("teaching", lambda: 1 / 0)
    assert json.loads((tmp_path / "stages/teaching.json").read_text())["seconds"] == run.seconds["teaching"] > 0
    for damaged in ([1], {}, {"seconds": "long"}):
        (tmp_path / "stages/teaching.json").write_text(json.dumps(damaged))
        with (
            open_run(tmp_path, verb="compress", config={}) as run,
            pytest.raises(CorruptFile, match=r"teaching\.json is not a stage of a run"),
        ):
            run.timed("teaching", lambda: None)


def test_time_adds_up_over_runs(tmp_path):
    for _ in range(2):
        with open_run(tmp_path, verb="compress", config={}) as run:
            run.timed("teaching", lambda: sum(range(100_000)))
    first = json.loads((tmp_path / "stages/teaching.json").read_text())["seconds"]
    with open_run(tmp_path, verb="compress", config={}) as run:
        run.timed("teaching", lambda: None)
        assert run.seconds["teaching"] > first
