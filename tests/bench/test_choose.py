from reverie.bench.choose import CHOOSE
from reverie.bench.figure import run_bench


def test_every_figure_has_a_name_of_its_own_and_a_command():
    questions = [question for job in CHOOSE for question in job.questions]
    names = [question.name for question in questions]
    assert len(set(names)) == len(names)
    assert all(question.command == f"reverie bench choose --only {question.name}" for question in questions)


def test_what_cannot_be_run_says_why():
    value, _ = run_bench("choose", CHOOSE, only=("deit-gain", "epi-distance"))
    found = {figure["name"]: figure for figure in value["figures"]}
    for name in ("deit-gain", "epi-distance"):
        assert found[name]["value"] is None
        assert found[name]["holds"] is None
        assert "not run: " in found[name]["reason"]
