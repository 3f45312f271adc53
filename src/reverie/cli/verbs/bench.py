"""`reverie bench`: measure the package's own figures on this machine."""

import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.limits import check_files

__all__ = ["bench"]


def bench(
    name: str,
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    out: Path | None = None,
    folder: Path | None = None,
    markdown: Path | None = None,
    manner: Manner = PLAIN,
) -> Answer:
    """Run one benchmark and say, figure by figure, whether it met what was asked.

    Args:
        name: Which benchmark: choose, coverage, distill, dream, main-job.
        only: Measure this figure, and those that the same run yields; may be given several times.
        out: Also write the JSON object to this file.
        folder: Keep what was measured here, and go on from what is there.
        markdown: Also write the benchmark's page to this file; coverage has one.
        manner: How the answer is given.
    """
    del manner
    from reverie.bench import BENCHES, DETAILS, PAGES, RESUMABLE
    from reverie.bench.figure import run_bench
    from reverie.bench.summary import figures_table
    from reverie.core.errors import RangeError, ReferenceNotFound
    from reverie.core.store import write_bytes, write_json
    from reverie.report.table import to_rich

    if name not in BENCHES:
        raise ReferenceNotFound(f"no benchmark {name!r}; there is {', '.join(BENCHES)}")
    if markdown is not None and name not in PAGES:
        raise RangeError(f"--markdown writes the page of {', '.join(PAGES)}, and {name} has none: leave it out")
    check_files(out=out, markdown=markdown)
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary) if folder is None else folder
        jobs = RESUMABLE[name](kept) if name in RESUMABLE else BENCHES[name]
        with progress() as on_event:
            answers = None if name in RESUMABLE else folder
            value, figures = run_bench(name, jobs, only=only, folder=answers, on_event=on_event)
        tables = [to_rich(DETAILS[name](kept))] if name in DETAILS else []
        if markdown is not None:
            write_bytes(markdown, PAGES[name](kept, value).encode())
    if out is not None:
        write_json(out, value)
    shown = [figure for figure in figures if not only or figure.measured is not None or figure.question.name in only]
    return Answer(value, (*tables, to_rich(figures_table(shown))))
