"""Files are whole or absent, also when the writer is killed; a folder has one writer, until that one dies."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reverie.core import store
from reverie.core.errors import CorruptFile, FolderInUse, NotWritable, ReferenceNotFound
from reverie.core.store import locked, read_json, sha256_file, write_bytes, write_json

unless_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Run code in another process; it says `ready` on a line when it stands where the test wants it."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


STOP_BEFORE_RENAME = """
import sys, time
from pathlib import Path
from reverie.core import store

def wait(*_):
    print("ready", flush=True)
    time.sleep(60)

Path.replace = wait
store.write_bytes(Path(sys.argv[1]), b"new" * 1000)
"""

HOLD = """
import sys, time
from pathlib import Path
from reverie.core.store import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""

REWRITE_FOR_EVER = """
import sys
from pathlib import Path
from reverie.core.store import write_bytes
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        write_bytes(Path(sys.argv[1]), letter * 300_000)
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_before_the_rename_leaves_what_was_there(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    end(start(STOP_BEFORE_RENAME, str(path)))
    assert (path.read_bytes() if path.exists() else None) == old
    write_bytes(path, b"later")
    assert path.read_bytes() == b"later"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = start(REWRITE_FOR_EVER, str(path))
    try:
        while not path.exists():
            time.sleep(0.01)
        seen = {path.read_bytes() for _ in range(200)}
    finally:
        end(process)
    assert seen <= {b"a" * 300_000, b"b" * 300_000}


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(NotWritable, match=r"cannot write .*file: No space left on device\. Choose a folder"):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_files_have_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    old = os.umask(0o027)
    try:
        write_bytes(path, b"x")
    finally:
        assert os.umask(old) == 0o027
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(NotWritable, match=r"cannot write .*a/b"):
        write_bytes(tmp_path / "a" / "b", b"x")
    with pytest.raises(NotWritable, match=r"cannot write to .*a/b"), locked(tmp_path / "a" / "b"):
        pass


def test_a_folder_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(NotWritable, match="directory"):
        write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@unless_root
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NotWritable, match="Permission denied"):
        write_bytes(tmp_path / "file", b"x")
    with pytest.raises(NotWritable, match="Permission denied"), locked(tmp_path / "new"):
        pass


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"text": "é\n"}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert list(read_json(tmp_path / "file.json")) == ["b", "a"]
    assert (tmp_path / "file.json").read_text().endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_numbers_that_json_lacks(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file.json", {"figure": number})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}}', b"\xff\xfe", b"[" * 200_000, b"1" * 5000])
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"file\.json is not JSON .* Restore it, or delete it"):
        read_json(tmp_path / "file.json")


def test_what_is_not_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match=r"^no file .*absent$"):
        read_json(tmp_path / "absent")
    with pytest.raises(ReferenceNotFound, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # The test vector of FIPS 180-2, appendix B.1.
    assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    process = start(HOLD, str(tmp_path / "run"))
    try:
        with pytest.raises(FolderInUse, match=f"is being written by process {process.pid}"), locked(tmp_path / "run"):
            pass
    finally:
        end(process)
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_lock_ends_with_its_body(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), locked(tmp_path):
        raise failure
    with locked(tmp_path):
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
        with locked(tmp_path / "another"):
            pass


def test_json_files_are_readable_by_others(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    assert json.loads((tmp_path / "file.json").read_bytes()) == {"a": 1}
