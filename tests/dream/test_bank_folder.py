"""A bank filled by several processes, killed at random moments: the same bytes as from one that nobody disturbed."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import reverie
from reverie.core.errors import CorruptFile
from reverie.dream.bank import Bank, Folder, Shard
from reverie.dream.bank_folder import read_manifest

SHARDS = 12
CONFIG = {"count": 2 * SHARDS, "seed": 0}

# One process that forks workers and kills them, so that torch is imported once.
DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from test_bank_folder import CONFIG, SHARDS, shard
from reverie.dream import dream
from reverie.dream.bank import Folder

torch.set_num_threads(1)

def fill(what, folder):
    if what == "dream":
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
        dream(net, count=12, image_shape=(3, 8, 8), steps=4, batch_size=2, path=folder)
        return
    with Folder.open(folder, CONFIG, "teacher") as bank:
        for index in bank.unfinished(SHARDS):
            with (folder / ".made").open("a") as made:
                made.write(f"{index} ")
            time.sleep(0.02)
            bank.add(shard(index), index)

def begin(*job):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fill(*job)
            status = 0
        finally:
            os._exit(status)
    return pid

for what, name, kills, workers in json.loads(sys.argv[1]):
    job, rng = (what, Path(name)), random.Random(kills)
    for _ in range(kills):
        pids = [begin(*job) for _ in range(workers)]
        time.sleep(rng.random() * 0.25)
        for pid in pids if rng.random() < 0.5 else pids[:1]:
            os.kill(pid, signal.SIGKILL)
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        assert all(status == 0 or os.WIFSIGNALED(status) for status in statuses), statuses
    ends = [os.waitpid(pid, 0)[1] for pid in [begin(*job) for _ in range(workers)]]
    assert ends == [0] * workers, ends
"""


def shard(index: int) -> Shard:
    """A batch whose bytes depend on its place only."""
    rng = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (2, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Shard(images, torch.tensor([0, 1]), torch.eye(2), torch.tensor([2 * index, 2 * index + 1]))


def filled(folder: Path, order: list[int]) -> dict[str, bytes]:
    with Folder.open(folder, CONFIG, "teacher") as bank:
        for index in order:
            bank.add(shard(index), index)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}


Job = tuple[str, Path, int, int]


def drive(*jobs: Job) -> None:
    """Fill folders: what with, which, how often workers are killed first, and how many work at once."""
    paths = os.pathsep.join([str(Path(reverie.__file__).parents[1]), str(Path(__file__).parent)])
    asked = json.dumps([(what, str(folder), kills, workers) for what, folder, kills, workers in jobs])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, asked],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that three processes filled, and one that two filled after having been killed three times."""
    folder = tmp_path_factory.mktemp("driven")
    drive(("folder", folder / "shared", 0, 3), ("folder", folder / "killed", 3, 2))
    return folder


def test_the_order_of_writing_leaves_no_mark(tmp_path: Path) -> None:
    order = torch.randperm(SHARDS, generator=torch.Generator().manual_seed(1)).tolist()
    assert filled(tmp_path / "mixed", order) == filled(tmp_path / "in turn", list(range(SHARDS)))
    assert len(Bank.load(tmp_path / "mixed")) == 2 * SHARDS


def test_nobody_makes_a_shard_twice(driven: Path, tmp_path: Path) -> None:
    made = (driven / "shared" / ".made").read_text().split()
    assert sorted(map(int, made)) == list(range(SHARDS))
    assert files(driven / "shared") == filled(tmp_path / "alone", list(range(SHARDS)))
    assert [one.name for one in (driven / "shared").glob("*.claim")] == []


def test_killed_three_times_two_at_work(driven: Path, tmp_path: Path) -> None:
    assert files(driven / "killed") == filled(tmp_path / "whole", list(range(SHARDS)))


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["folder", "dream"])
def test_killed_twenty_times(what: str, tmp_path: Path) -> None:
    drive((what, tmp_path / "whole", 0, 1), *((what, tmp_path / f"killed {kills}", kills, 2) for kills in range(1, 21)))
    for kills in range(1, 21):
        assert files(tmp_path / f"killed {kills}") == files(tmp_path / "whole"), kills


def test_a_claim_is_respected_until_its_holder_lets_go(tmp_path: Path) -> None:
    """Two holders in one process: the lock belongs to the open file, not to the process."""
    found: list[int] = []
    with Folder.open(tmp_path, CONFIG, "teacher") as first:
        places = first.unfinished(2)
        assert next(places) == 0

        def second() -> None:
            with Folder.open(tmp_path, CONFIG, "teacher") as other:
                for index in other.unfinished(2):
                    found.append(index)
                    other.add(shard(index), index)

        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        assert found == [1]
        # Leaving without adding, as a process that dies does: the other one takes over.
    waiting.join(timeout=30)
    assert found == [1, 0]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    with Folder.open(tmp_path, CONFIG, "teacher") as bank:
        left = [tmp_path / ".shard-00000.safetensors.abc.part", tmp_path / ".manifest.json.abc.part"]
        for path in left:
            path.write_text("half")
        index = next(bank.unfinished(1))
        bank.add(shard(index), index)
    assert [path for path in left if path.exists()] == []


def test_an_error_of_the_body_gives_claims_back(tmp_path: Path) -> None:
    def body() -> None:
        with Folder.open(tmp_path, CONFIG, "teacher") as bank:
            for _ in bank.unfinished(1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        body()
    with Folder.open(tmp_path, CONFIG, "teacher") as bank:
        assert list(zip(bank.unfinished(1), [0], strict=False)) == [(0, 0)]
    assert caught.value is not None


def test_a_damaged_shard_is_found_when_it_is_read_again(tmp_path: Path) -> None:
    filled(tmp_path, list(range(SHARDS)))
    (tmp_path / "shard-00003.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptFile, match="shard-00003"), Folder.open(tmp_path, CONFIG, "teacher"):
        pass
    assert len(read_manifest(tmp_path)["shards"]) == SHARDS


def test_distinct_drops_what_repeats(tmp_path: Path) -> None:
    one, other = shard(0), shard(1)
    bank = Bank.from_shards([one, other, one], {"count": 6})
    kept = bank.distinct()
    assert torch.equal(kept.images, torch.cat([one.images, other.images]))
    assert torch.equal(kept.seeds, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(bank.picked(torch.tensor([5, 0])).labels, torch.tensor([1, 0]))
