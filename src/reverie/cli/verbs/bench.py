"""`reverie bench`: measure the package's own figures on this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress

__all__ = ["bench"]


def bench(
    name: str,
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    out: Path | None = None,
    manner: Manner = PLAIN,
) -> Answer:
    """Run one benchmark and say, figure by figure, whether it met what was asked.

    Args:
        name: Which benchmark: main-job.
        only: Measure this figure only; may be given several times.
        out: Also write the JSON object to this file.
        manner: How the answer is given.
    """
    del manner
    from reverie.bench import BENCHES
    from reverie.bench.figure import run_bench
    from reverie.bench.summary import figures_table
    from reverie.core.errors import ReferenceNotFound
    from reverie.core.store import write_json
    from reverie.report.table import to_rich

    if name not in BENCHES:
        raise ReferenceNotFound(f"no benchmark {name!r}; there is {', '.join(BENCHES)}")
    with progress() as on_event:
        value, figures = run_bench(name, BENCHES[name], only=only, on_event=on_event)
    if out is not None:
        write_json(out, value)
    return Answer(value, (to_rich(figures_table(figures)),))
