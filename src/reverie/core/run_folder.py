"""A folder that one run writes, and that the same command may enter again after a kill.

Every finished stage leaves a file; a stage whose file is there is read, not done again. The folder says from its first
moment which command it belongs to, so another one is refused instead of mixed in.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from reverie.core.environment import environment
from reverie.core.errors import CorruptFile, FolderInUse
from reverie.core.store import locked, read_json, write_json

__all__ = ["RUN_FILE", "RUN_FORMAT", "RunFolder", "open_run"]

RUN_FILE = "run.json"
RUN_FORMAT = 1

Value = TypeVar("Value")


class RunFolder:
    """Where a run keeps its stages; without a folder, stages are simply done.

    Attributes:
        path: The folder, or None.
        head: What the run is, as `run.json` begins.
        seconds: Time that each stage took when it was done, by name.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.head = dict(head or {})
        self.seconds: dict[str, float] = {}

    def file(self, name: str) -> Path | None:
        """The path of a file in the folder, or None without a folder."""
        return None if self.path is None else self.path / name

    def stage(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON value of a stage: read where it was done before, else done and written.

        Args:
            name: The stage's name; its file is `stages/NAME.json`.
            do: Computes the value.

        Raises:
            CorruptFile: The stage's file is not one that this method wrote.
        """
        file = self.file(f"stages/{name}.json")
        if file is not None and file.exists():
            stored = _read_stage(file, "seconds", "value")
            self.seconds[name] = stored["seconds"]
            value: dict[str, Any] = stored["value"]
            return value
        started = time.monotonic()
        value = do()
        self.seconds[name] = time.monotonic() - started
        if file is not None:
            write_json(file, {"seconds": self.seconds[name], "value": value})
        return value

    def finish(self, **found: Any) -> dict[str, Any]:
        """Say in `run.json` that all is there, where it was made, and what was found; what the file then holds.

        Args:
            found: JSON values, by name.

        Raises:
            NotWritable: The folder cannot be written.
        """
        record = {**self.head, "finished": True, **environment(), **found}
        if self.path is not None:
            write_json(self.path / RUN_FILE, record)
        return record

    def timed(self, name: str, do: Callable[[], Value]) -> Value:
        """Do something that keeps its own files, and add the time it took to what it took in earlier runs.

        Raises:
            CorruptFile: The file of those times is not one that this method wrote.
        """
        file = self.file(f"stages/{name}.json")
        before = _read_stage(file, "seconds")["seconds"] if file is not None and file.exists() else 0.0
        started = time.monotonic()
        try:
            return do()
        finally:
            self.seconds[name] = before + time.monotonic() - started
            if file is not None:
                write_json(file, {"seconds": self.seconds[name]})


def _read_stage(file: Path, *names: str) -> dict[str, Any]:
    stored = read_json(file)
    known = isinstance(stored, dict) and stored.keys() >= set(names)
    if not known or not isinstance(stored["seconds"], int | float):
        raise CorruptFile(f"{file} is not a stage of a run. Delete it to do that stage again.")
    return dict(stored)


@contextmanager
def open_run(path: Path | None, *, verb: str, config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Enter a run folder as its only writer, making it if need be.

    Args:
        path: The folder; None for a run that writes nothing.
        verb: What the run does.
        config: JSON values that decide what the run computes. A folder with another config is another run.

    Raises:
        FolderInUse: The folder holds another run or other files, or another process is writing to it.
        CorruptFile: Its `run.json` is damaged, or of another format.
        NotWritable: The folder cannot be written.
    """
    head = {"format": RUN_FORMAT, "verb": verb, "config": dict(config)}
    if path is None:
        yield RunFolder(None, head)
        return
    # What begins with a dot is the lock, and what a kill left of a file that was being written.
    strangers = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
    if path.exists() and not path.is_dir():
        raise FolderInUse(f"{path} is a file; choose a folder that does not exist yet")
    if strangers and RUN_FILE not in strangers:
        raise FolderInUse(
            f"{path} holds other files ({', '.join(sorted(strangers)[:3])}); choose a folder that is empty or new"
        )
    with locked(path):
        for left in path.glob(f".{RUN_FILE}.*.part"):
            left.unlink(missing_ok=True)
        run_file = path / RUN_FILE
        if run_file.exists():
            _check_same(path, read_json(run_file), verb=verb, config=config)
        else:
            write_json(run_file, {**head, "finished": False})
        yield RunFolder(path, head)


def _check_same(path: Path, found: object, *, verb: str, config: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise CorruptFile(f"{path / RUN_FILE} is not the record of a run. Choose another folder.")
    if found.get("format") != RUN_FORMAT:
        raise CorruptFile(
            f"{path / RUN_FILE} has format {found.get('format')}; this version reads format {RUN_FORMAT}. "
            "Choose another folder."
        )
    if found.get("verb") != verb:
        raise FolderInUse(f"{path} holds a run of `{found.get('verb')}`, not `{verb}`. Choose another folder.")
    there: dict[str, Any] = found["config"]
    here: dict[str, Any] = json.loads(json.dumps(dict(config)))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        details = ", ".join(_difference(name, there.get(name), here.get(name)) for name in differing[:3])
        raise FolderInUse(f"{path} holds another run: {details}. Choose another folder, or give the same options.")


def _difference(name: str, there: object, here: object) -> str:
    """Two settings that differ, for a reader: of what is known by a hash, that it is another."""
    hashed = name.removesuffix("_sha256")
    return f"other {hashed}" if hashed != name else f"{name} {there!r} there and {here!r} here"
