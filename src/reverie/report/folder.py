"""The report of a run folder, drawn from what the folder holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.core.errors import CorruptFile, ReferenceNotFound
from reverie.core.run_folder import RUN_FILE
from reverie.core.store import read_json, write_bytes
from reverie.report.html import compression_report

__all__ = ["DREAMS_FILE", "REPORT_FILE", "read_run_file", "write_report"]

DREAMS_FILE = "dreams.png"
REPORT_FILE = "report.html"


def read_run_file(folder: Path) -> Mapping[str, Any]:
    """The `run.json` of a finished compression.

    Raises:
        ReferenceNotFound: The folder holds no run, or one that is not finished.
        CorruptFile: The file is not the record of a run.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise ReferenceNotFound(f"{folder} is no run: it holds no {RUN_FILE}. Give the folder that a run wrote.")
    run = read_json(path)
    if not isinstance(run, dict) or not isinstance(run.get("config"), dict):
        raise CorruptFile(f"{path} is not the record of a run. Run the command again in another folder.")
    if run.get("verb") != "compress":
        raise ReferenceNotFound(
            f"{folder} holds a run of `{run.get('verb')}`; a report is drawn of one of `compress`. Give its folder."
        )
    if not isinstance(run.get("figures"), dict):
        raise ReferenceNotFound(f"{folder} holds a run that has not finished. Run the same command again to finish it.")
    return run


def write_report(folder: Path, *, out: Path | None = None) -> Path:
    """Draw the report of a finished compression, with the picture of its dreams where there is one.

    Args:
        folder: The run.
        out: The HTML file to write; `report.html` in the folder where None.

    Returns:
        The file written.

    Raises:
        ReferenceNotFound: The folder holds no finished compression.
        CorruptFile: Its record is damaged.
        NotWritable: The report cannot be written.
    """
    run = read_run_file(folder)
    picture = folder / DREAMS_FILE
    text = compression_report(
        run.get("asked") or run["config"],
        run["figures"],
        environment=run,
        dreams_png=picture.read_bytes() if picture.is_file() else None,
    )
    target = folder / REPORT_FILE if out is None else out
    write_bytes(target, text.encode())
    return target
