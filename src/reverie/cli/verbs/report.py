"""`reverie report`: draw the report of a run again."""

from pathlib import Path

from reverie.cli.answer import PLAIN, Answer, Manner

__all__ = ["report"]


def report(run: Path, /, *, out: Path | None = None, manner: Manner = PLAIN) -> Answer:
    """Draw the report of a finished compression again, from what its folder holds.

    Args:
        run: The folder that `reverie compress` wrote.
        out: The HTML file to write; report.html in the folder where this is not given.
        manner: How the answer is given.
    """
    del manner
    from reverie.report.folder import read_run_file, write_report
    from reverie.report.result import result_table
    from reverie.report.table import to_rich

    written = write_report(run, out=out)
    found = read_run_file(run)
    return Answer({"report": str(written), **found}, (to_rich(result_table(found["figures"])), f"report: {written}"))
