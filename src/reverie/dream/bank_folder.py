"""A bank on disk, while it is being filled: by one process or by several at once, killed or not.

Work is divided by shard. A process claims the lowest shard that is neither finished nor claimed, dreams it, writes it,
then enters it in the manifest. A claim is a lock of the operating system on a small file: it ends with its holder, so
the shards of a killed process are taken over by those that live, or by the next run. A shard's bytes depend on its
place alone and the manifest is sorted by place, so the finished folder is the same whoever dreamed what, in any order.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from reverie.core.digest import sha256_json
from reverie.core.errors import CorruptFile, FolderInUse, NotWritable, ReferenceNotFound
from reverie.core.store import read_json, sha256_file, write_bytes, write_json
from reverie.dream.shard import Shard

__all__ = ["Folder", "read_manifest", "read_shard"]

FORMAT = 1
MANIFEST = "manifest.json"
# How long to wait before looking again whether another process has finished, or died.
POLL_SECONDS = 0.2


class Folder:
    """A bank being written. Make one with `Folder.open`, which also says what is already there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Shard] = {}
        self._claims: dict[int, IO[str]] = {}
        _ = self.shards

    @staticmethod
    @contextmanager
    def open(path: Path, config: Mapping[str, Any], teacher_sha256: str) -> Iterator["Folder"]:
        """Write to a bank: new, killed before its end, or being written by other processes that ask for the same.

        Raises:
            FolderInUse: The folder holds another bank or something else.
            CorruptFile: A finished shard is damaged.
            NotWritable: The folder cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise FolderInUse(f"{path} is a file; a bank needs a folder. Choose another path.")
        with _exclusive(path):
            if (path / MANIFEST).exists():
                _check_same(path, read_manifest(path), config, teacher_sha256)
            else:
                _begin(path, config, teacher_sha256)
        folder = Folder(path)
        try:
            yield folder
        finally:
            for index in list(folder._claims):
                folder._release(index)

    @property
    def shards(self) -> list[Shard]:
        """The finished shards, in order, whoever wrote them.

        Raises:
            CorruptFile: One is damaged.
        """
        entries = read_manifest(self.path)["shards"]
        for entry in entries:
            if entry["file"] not in self._known:
                self._known[entry["file"]] = read_shard(self.path, entry)
        return [self._known[entry["file"]] for entry in entries]

    def unfinished(self, total: int) -> Iterator[int]:
        """The places of shards to be made by this process, each claimed until it is added, until all are finished.

        Where all that is left is claimed by other processes, waits for them to finish or to die.

        Args:
            total: How many shards the bank has in the end.

        Raises:
            NotWritable: A claim cannot be written.
        """
        while True:
            taken = False
            for index in range(total):
                if self._finished(index):
                    continue
                if not self._claim(index):
                    taken = True
                    continue
                # Between the look and the claim, another may have finished it.
                if not self._finished(index):
                    yield index
                self._release(index)
            if all(self._finished(index) for index in range(total)):
                return
            if taken:
                time.sleep(POLL_SECONDS)

    def claim_all(self, total: int) -> None:
        """Be the only process that makes shards, where each depends on the one before, until the folder is left.

        Args:
            total: How many shards the bank has in the end.

        Raises:
            FolderInUse: Another process is.
            NotWritable: The claim cannot be written.
        """
        if not self._claim(total - 1):
            raise FolderInUse(
                f"{self.path}: another process is writing to it, and each batch begins where the one before ended. "
                "Wait for it, or choose another folder."
            )

    def add(self, shard: Shard, index: int) -> None:
        """Write a shard, then the manifest that names it.

        Args:
            shard: What was dreamed.
            index: Its place.
        """
        name = _shard_name(index)
        content = shard.to_bytes()
        write_bytes(self.path / name, content)
        entry = {"file": name, "count": len(shard.images), "sha256": hashlib.sha256(content).hexdigest()}
        with _exclusive(self.path):
            manifest = read_manifest(self.path)
            others = [one for one in manifest["shards"] if one["file"] != name]
            manifest["shards"] = sorted([*others, entry], key=lambda one: one["file"])
            write_json(self.path / MANIFEST, manifest)
        self._known[name] = shard

    def _finished(self, index: int) -> bool:
        name = _shard_name(index)
        return name in self._known or any(entry["file"] == name for entry in read_manifest(self.path)["shards"])

    def _claim(self, index: int) -> bool:
        try:
            file = self._claim_path(index).open("a")
        except OSError as error:
            raise _not_writable(self.path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._claims[index] = file
        # What a killed holder of this claim was writing.
        for left in self.path.glob(f".{_shard_name(index)}.*.part"):
            left.unlink(missing_ok=True)
        return True

    def _release(self, index: int) -> None:
        file = self._claims.pop(index)
        # Only after the shard is in the manifest: who opened the file before sees it there once the lock is his.
        if self._finished(index):
            self._claim_path(index).unlink(missing_ok=True)
        file.close()

    def _claim_path(self, index: int) -> Path:
        return self.path / f".{_shard_name(index)}.claim"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a bank's folder says about itself, checked.

    Raises:
        ReferenceNotFound: There is no bank.
        CorruptFile: The manifest is damaged.
    """
    where, advice = folder / MANIFEST, "Delete the folder to dream anew."
    if not where.exists():
        raise ReferenceNotFound(f"no dream bank in {folder}: it holds no {MANIFEST}")
    manifest = read_json(where)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptFile(f"{where} is not the manifest of a dream bank of format {FORMAT}. {advice}")
    try:
        sound = manifest["config_sha256"] == sha256_json(manifest["config"]) and all(
            isinstance(entry["file"], str)
            and Path(entry["file"]).name == entry["file"]
            and entry["count"] > 0
            and isinstance(entry["sha256"], str)
            for entry in manifest["shards"]
        )
        sound = sound and isinstance(manifest["teacher_sha256"], str) and manifest["config"]["count"] > 0
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"{where} is damaged ({type(error).__name__}: {error}). {advice}") from error
    if not sound:
        raise CorruptFile(f"{where} is damaged: it does not agree with itself. {advice}")
    return manifest


def read_shard(folder: Path, entry: Mapping[str, Any]) -> Shard:
    """A shard that the manifest names.

    Raises:
        CorruptFile: It is missing, or is not what was written.
    """
    where = folder / entry["file"]
    if not where.exists():
        raise CorruptFile(f"{where} is missing, and the manifest names it. Delete the folder to dream anew.")
    if sha256_file(where) != entry["sha256"]:
        raise CorruptFile(f"{where} is not what was written (its SHA-256 differs). Delete the folder to dream anew.")
    shard = Shard.from_bytes(where.read_bytes(), str(where))
    if len(shard.images) != entry["count"]:
        raise CorruptFile(f"{where} holds {len(shard.images)} dreams, the manifest says {entry['count']}.")
    return shard


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Alone with the manifest for a moment; others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise _not_writable(folder, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in folder.glob(f".{MANIFEST}.*.part"):
            left.unlink(missing_ok=True)
        yield


def _begin(path: Path, config: Mapping[str, Any], teacher_sha256: str) -> None:
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if strangers:
        raise FolderInUse(f"{path} holds {strangers[0]} and no bank. Choose an empty or new folder.")
    manifest = {
        "format": FORMAT,
        "config": dict(config),
        "config_sha256": sha256_json(config),
        "teacher_sha256": teacher_sha256,
        "shards": [],
    }
    write_json(path / MANIFEST, manifest)


def _check_same(path: Path, manifest: Mapping[str, Any], config: Mapping[str, Any], teacher_sha256: str) -> None:
    advice = "Choose another folder, or ask for the same."
    if manifest["teacher_sha256"] != teacher_sha256:
        raise FolderInUse(f"{path} holds dreams of another network (its weights differ). {advice}")
    before, now = manifest["config"], json.loads(json.dumps(config))
    differing = [key for key in {*before, *now} if before.get(key) != now.get(key)]
    # What is told is the shortest: "steps 5, now asked 6" rather than all that follows from it.
    differing.sort(key=lambda key: (len(json.dumps([before.get(key), now.get(key)])), key))
    if differing:
        key = differing[0]
        raise FolderInUse(f"{path} holds dreams made with {key} {before.get(key)}, now asked {now.get(key)}. {advice}")


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.safetensors"


def _not_writable(path: Path, error: OSError) -> NotWritable:
    return NotWritable(f"cannot write to {path}: {error.strerror or error}. Choose a folder with write permission.")
