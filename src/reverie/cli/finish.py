"""What only the command line adds to the folder of a finished run: the words it was asked with, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.cli.dreamt import draw

if TYPE_CHECKING:
    from reverie.core.source import Source

__all__ = ["finish"]


def finish(out: Path, *, asked: dict[str, Any], source: "Source", class_names: Sequence[str]) -> dict[str, Any]:
    """Add the options to `run.json`, and draw the source where it is dreams; what the file then says."""
    from reverie.core.run_folder import RUN_FILE
    from reverie.core.store import read_json, write_json
    from reverie.report.folder import DREAMS_FILE

    run = {**read_json(out / RUN_FILE), "asked": asked}
    write_json(out / RUN_FILE, run)
    if source.name == "dreams":
        draw(source, out / DREAMS_FILE, class_names=class_names)
    return run
