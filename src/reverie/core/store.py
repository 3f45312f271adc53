"""Files: whole or not at all.

A file is written beside its final name, flushed to the disk, then renamed, so a reader sees the old file, the new one,
or none. A folder has at most one writer, by a lock that the operating system drops when its holder dies.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reverie.core.errors import CorruptFile, FolderInUse, NotWritable, ReferenceNotFound

__all__ = ["locked", "read_json", "sha256_file", "write_bytes", "write_json"]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, making its folder if need be.

    Raises:
        NotWritable: The folder or file cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files private; a result is as readable as any file its user makes.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotWritable(
            f"cannot write {path}: {error.strerror or error}. Choose a folder with write permission and free space."
        ) from error


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  any JSON value
    """Write a JSON value, indented, keys in the order given, as a whole file."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file.

    Raises:
        ReferenceNotFound: There is no such file, or it cannot be read.
        CorruptFile: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReferenceNotFound(f"no file {path}") from error
    except OSError as error:
        raise ReferenceNotFound(
            f"cannot read {path}: {error.strerror or error}. Give a file that you may read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON ({error}). Restore it, or delete it to start over.") from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder while the body runs.

    The lock is an `flock` on `folder/.lock`: it ends with its process, so a killed run leaves none behind.

    Raises:
        FolderInUse: Another process holds it; the message names its process id.
        NotWritable: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise NotWritable(
            f"cannot write to {folder}: {error.strerror or error}. Choose a folder with write permission."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise FolderInUse(
                f"{folder} is being written by process {file.read().strip() or 'unknown'}. "
                "Wait for it to end, or choose another folder."
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
