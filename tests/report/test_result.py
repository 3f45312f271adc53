"""The tables and the page of a compression, from the figures that a run folder keeps."""

import copy
from pathlib import Path
from typing import Any

import pytest

from reverie.core.errors import CorruptFile, ReferenceNotFound
from reverie.core.store import write_json
from reverie.report.folder import write_report
from reverie.report.html import compression_report
from reverie.report.result import attempts_table, decisions_table, methods_table, result_table, seconds_table
from reverie.report.table import to_markdown

HOSTILE = "<img src=x onerror=alert(1)>"


def _measured(
    value: float, low: float | None = None, high: float | None = None, relative: float | None = None
) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high, "relative": relative}


FIGURES: dict[str, Any] = {
    "rows": [
        {
            "quantity": "latency",
            "unit": "ms",
            "how": "ONNX Runtime",
            "teacher": _measured(2.0, 1.9, 2.2, 1.0),
            "compressed": _measured(1.2, 1.1, 1.5, 0.597),
            "control": _measured(1.2, None, None, 0.598),
        },
        {
            "quantity": "test accuracy",
            "unit": "share",
            "how": "10,000 images",
            "teacher": _measured(0.941),
            "compressed": _measured(0.9301, 0.925, 0.935),
            "control": None,
        },
    ],
    "decisions": [
        {"site": HOSTILE, "units": 64, "kept": 16, "loss": 0.01, "loss_error": 0.002},
        {"site": "layer1.0.conv1", "units": 32, "kept": 0, "loss": 0.0, "loss_error": 0.0},
    ],
    "attempts": [{"predicted": 0.6, "measured": 0.65}, {"predicted": 0.55, "measured": 0.597}],
    "bypassed": ["layer1.0"],
    "notes": [HOSTILE],
    "seconds": {"dreaming": 90.0, "teaching": 30.0},
}


def test_every_figure_stands_beside_the_teachers_and_the_controls() -> None:
    table = result_table(FIGURES)
    assert table.columns == ("", "teacher", "compressed", "noise control")
    assert [tuple(map(str, row)) for row in table.rows] == [
        ("latency", "2 ms (1.90 to 2.20 ms)", "1.20 ms (59.7%; 1.10 to 1.50 ms)", "1.20 ms (59.8%)"),
        ("test accuracy", "94.10%", "93.01% (92.50 to 93.50%)", ""),
    ]
    without = result_table({**FIGURES, "rows": [{**row, "control": None} for row in FIGURES["rows"]]})
    assert without.columns == ("", "teacher", "compressed")
    assert str(without.rows[0][2]) == "1.20 ms (59.7%; 1.10 to 1.50 ms)"


def test_the_plan_says_what_is_left_of_each_site() -> None:
    assert [str(row[1]) for row in decisions_table(FIGURES).rows] == ["16 of 64", "bypassed"]


def test_the_loop_is_told_turn_by_turn() -> None:
    assert attempts_table(FIGURES).rows == (("1", "60.00%", "65.00%"), ("2", "55.00%", "59.70%"))


def test_each_number_says_how_it_was_obtained() -> None:
    assert methods_table(FIGURES).rows == (("latency", "ONNX Runtime"), ("test accuracy", "10,000 images"))


def test_the_stages_add_up() -> None:
    assert str(seconds_table(FIGURES).rows[-1][1]) == "2 min 00 s"


@pytest.mark.parametrize("path", [("rows",), ("rows", 0, "teacher"), ("rows", 0, "unit"), ("decisions", 0, "kept")])
def test_figures_that_lack_a_part_are_an_error(path: tuple[str | int, ...]) -> None:
    damaged: Any = copy.deepcopy(FIGURES)
    inner = damaged
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    with pytest.raises(CorruptFile, match="not the figures of a finished compression"):
        (result_table if path[0] == "rows" else decisions_table)(damaged)


def test_the_page_shows_the_same_table_and_no_hostile_tag() -> None:
    page = compression_report({"model": HOSTILE, "size": None}, FIGURES, environment={})
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 5
    assert "<img" not in page
    for row in result_table(FIGURES).rows:
        assert str(row[0]) in page
    assert "59.7%" in page
    assert "layer1.0." in page


def test_the_picture_travels_inside_the_page() -> None:
    page = compression_report({"model": "a"}, FIGURES, environment={}, dreams_png=b"\x89PNG")
    assert '<img src="data:image/png;base64,iVBORw=="' in page


def test_the_table_reads_in_markdown() -> None:
    assert "| latency | 2 ms (1.90 to 2.20 ms) |" in to_markdown(result_table(FIGURES))


def test_a_folder_is_drawn_again_to_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"verb": "compress", "config": {"latency": 0.6}, "figures": FIGURES})
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path, out=tmp_path / "again.html").read_bytes() == first


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (None, ReferenceNotFound),
        ([], CorruptFile),
        ({"verb": "compress", "config": {}, "finished": False}, ReferenceNotFound),
        ({"verb": "dream", "config": {}, "figures": {}}, ReferenceNotFound),
        ({"verb": "compress", "config": {}, "figures": {}}, CorruptFile),
    ],
    ids=["no run", "no record", "unfinished", "another verb", "no figures"],
)
def test_a_folder_without_a_finished_compression_is_an_error(
    run: object, error: type[Exception], tmp_path: Path
) -> None:
    if run is not None:
        write_json(tmp_path / "run.json", run)
    with pytest.raises(error):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
