"""The `reverie` command: its verbs, what is printed where, and the exit status.

No module on the way here imports torch: `reverie --help` answers before torch would have been found. Each verb imports
what it needs in its own body.

Standard output carries the answer only: a table for people, or with `--json` exactly one JSON object. A request that
fails prints one sentence on standard error, and with `--json` also `{"error": {"kind", "message", "status"}}`.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cyclopts import App

from reverie.cli import verbs
from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import quieted, say
from reverie.cli.failures import describe

__all__ = ["app", "main"]


def _version() -> str:
    try:
        return version("reverie")
    except PackageNotFoundError:
        return "unknown: not installed, run from its source"


app = App(
    name="reverie",
    help="Make a trained network small and fast on this machine, without its training data.",
    version=_version,
    help_format="plaintext",
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
)
for position, verb in enumerate(verbs.ALL):
    app.command(verb, sort_key=position)
for word, (about, group) in verbs.GROUPS.items():
    second = App(name=word, help=about, help_format="plaintext", print_error=False, exit_on_error=False)
    for verb in group:
        second.command(verb)
    app.command(second)
VERBS = {*verbs.ALL, *(verb for _, group in verbs.GROUPS.values() for verb in group)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and say how it went.

    Args:
        arguments: The words after `reverie`; those of this process where None.

    Returns:
        The exit status: 0, 1 for a defect, 2 for a request that cannot be met, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Until the words are understood, this is the best guess of how to report that they are not.
    manner, status = Manner(json="--json" in words, debug="--debug" in words), 0
    try:
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        if command not in VERBS:  # --help and --version
            command(*bound.args, **bound.kwargs)
            return 0
        manner = bound.arguments.get("manner", PLAIN)
        # Whatever other libraries print is no part of the answer.
        with contextlib.redirect_stdout(sys.stderr), quieted(debug=manner.debug), _searching_here():
            answer: Answer = command(*bound.args, **bound.kwargs)
        status = answer.status
        _print(answer, manner)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `reverie inspect MODEL | head`; Python would complain again while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last place that can turn it into a sentence
        return _fail(error, manner)
    return status


@contextlib.contextmanager
def _searching_here() -> Iterator[None]:
    """Find a package that lies where the command is given, as `python -m reverie` does; installed ones come first."""
    here, before = str(Path.cwd()), list(sys.path)
    sys.path += [] if here in before else [here]
    try:
        yield
    finally:
        sys.path[:] = before


def _print(answer: Answer, manner: Manner) -> None:
    if manner.json:
        sys.stdout.write(json.dumps(answer.value, allow_nan=False) + "\n")
        return
    from rich.console import Console

    # Drawn in memory first: rich ends the process by itself where nobody reads the output any more.
    width = shutil.get_terminal_size().columns
    drawn = Console(
        file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, highlight=False, markup=False, emoji=False
    )
    with drawn.capture() as captured:
        for part in answer.shown:
            drawn.print(part, soft_wrap=isinstance(part, str))
    sys.stdout.write(captured.get())


def _fail(error: BaseException, manner: Manner) -> int:
    failure = describe(error)
    if manner.debug:
        traceback.print_exception(error)
    say(failure.message if failure.status == 130 else f"error: {failure.message}")
    if manner.json:
        sys.stdout.write(json.dumps(failure.to_json()) + "\n")
    return failure.status
