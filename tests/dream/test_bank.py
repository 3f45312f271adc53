"""Banks: whole or not at all, the same bytes after a kill, and a sentence for every folder that is something else."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import reverie
from reverie.core.errors import CorruptFile, FolderInUse, ReferenceNotFound, VerificationFailed
from reverie.core.events import Event
from reverie.dream import Bank, class_term, dream

KILLED_AT = (2, 7, 13)
# One process that forks the ones to be killed, so that torch is imported once.
SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from reverie.dream import dream

torch.manual_seed(0)
torch.set_num_threads(1)
net = nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
)

def fill(last):
    def kill(event):
        if event.step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    dream(net, count=10, image_shape=(3, 8, 8), steps=5, batch_size=4, path=f"{sys.argv[1]}/{last}", on_event=kill)

for word in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        try:
            fill(int(word))
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of banks, each named after the step at which its process was killed."""
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(Path(reverie.__file__).parents[1])}
    words = [sys.executable, "-c", SCRIPT, str(folder), *map(str, KILLED_AT)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def asked(network: nn.Module, path: Path | None = None, **changed: object) -> Bank:
    arguments = {"count": 10, "image_shape": (3, 8, 8), "steps": 5, "batch_size": 4, "path": path}
    return dream(network, **(arguments | changed))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}


@pytest.mark.parametrize("killed_at", KILLED_AT)
def test_a_killed_run_ends_with_the_same_bytes(
    small_net: nn.Module, killed: Path, tmp_path: Path, killed_at: int
) -> None:
    left = files(killed / str(killed_at))
    assert len(left) == 1 + (killed_at - 1) // 5
    # The network of the script: the same seed as every test begins with.
    asked(small_net, killed / str(killed_at))
    asked(small_net, tmp_path / "whole")
    assert files(killed / str(killed_at)) == files(tmp_path / "whole")
    assert left.items() - {("manifest.json", left["manifest.json"])} <= files(tmp_path / "whole").items()


def test_a_finished_bank_is_read_not_dreamed(small_net: nn.Module, tmp_path: Path) -> None:
    first = asked(small_net, tmp_path)
    told: list[Event] = []
    again = asked(small_net, tmp_path, on_event=told.append)
    assert told == []
    for name in ("images", "labels", "logits", "seeds"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert torch.equal(getattr(first, name), getattr(Bank.load(tmp_path), name))


def test_memory_and_folder_hold_the_same(small_net: nn.Module, tmp_path: Path) -> None:
    kept, loose = asked(small_net, tmp_path), asked(small_net)
    assert torch.equal(kept.images, loose.images)
    assert torch.equal(kept.logits, loose.logits)
    assert (kept.folder, loose.folder) == (tmp_path, None)
    kept.verify()
    loose.verify()


def test_figures_are_of_the_eight_bit_images(small_net: nn.Module) -> None:
    bank = asked(small_net)
    logits = small_net.eval()(bank.source().floats())
    torch.testing.assert_close(bank.logits, logits.detach(), rtol=1e-5, atol=1e-5)
    chosen = logits.softmax(1)[torch.arange(10), bank.labels].detach()
    torch.testing.assert_close(bank.confidence, chosen)
    torch.testing.assert_close(bank.loss, -chosen.log())
    assert torch.equal(bank.agrees, logits.argmax(1) == bank.labels)
    assert bank.source().name == "dreams"
    assert torch.equal(bank.source().labels, bank.labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 6}, r"made with steps 5, now asked 6\. Choose another folder"),
        ({"seed": 1}, r"made with seed 0, now asked 1"),
        ({"count": 9}, r"made with count 10, now asked 9"),
        ({"term": class_term()}, r"made with term"),
    ],
)
def test_another_question_in_the_same_folder(
    small_net: nn.Module, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    asked(small_net, tmp_path)
    before = files(tmp_path)
    with pytest.raises(FolderInUse, match=message):
        asked(small_net, tmp_path, **changed)
    assert files(tmp_path) == before


def test_another_network_in_the_same_folder(small_net: nn.Module, tmp_path: Path) -> None:
    asked(small_net, tmp_path)
    nn.init.zeros_(small_net[1].running_mean)
    small_net[1].running_mean[0] += 1
    with pytest.raises(FolderInUse, match=r"dreams of another network"):
        asked(small_net, tmp_path)


def test_folders_of_other_things(small_net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FolderInUse, match=r"holds thesis\.tex and no bank"):
        asked(small_net, tmp_path)
    with pytest.raises(FolderInUse, match=r"is a file; a bank needs a folder"):
        asked(small_net, tmp_path / "thesis.tex")
    with pytest.raises(ReferenceNotFound, match="no dream bank in"):
        Bank.load(tmp_path)


def test_an_unfinished_bank_says_so(small_net: nn.Module, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(small_net, tmp_path, on_event=stop)
    with pytest.raises(CorruptFile, match=r"4 of 10 dreams; the run was killed\. Run it again"):
        Bank.load(tmp_path)


def test_damage_is_found(small_net: nn.Module, tmp_path: Path) -> None:
    bank = asked(small_net, tmp_path)
    shard = tmp_path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(CorruptFile, match=r"shard-00001.*SHA-256 differs"):
        bank.verify()
    shard.unlink()
    with pytest.raises(CorruptFile, match=r"shard-00001\.safetensors is missing"):
        Bank.load(tmp_path)
    shard.write_bytes(whole)
    bank.verify()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["config"]["steps"] = 7
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"does not agree with itself"):
        Bank.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(CorruptFile, match="not the manifest of a dream bank"):
        asked(small_net, tmp_path)


def test_a_manifest_names_no_file_outside(small_net: nn.Module, tmp_path: Path) -> None:
    asked(small_net, tmp_path / "bank")
    where = tmp_path / "bank" / "manifest.json"
    manifest = json.loads(where.read_text())
    manifest["shards"][0]["file"] = "../elsewhere.safetensors"
    where.write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match="does not agree with itself"):
        Bank.load(tmp_path / "bank")


def test_shards_of_other_content(small_net: nn.Module, tmp_path: Path) -> None:
    asked(small_net, tmp_path)
    shard, where = tmp_path / "shard-00000.safetensors", tmp_path / "manifest.json"
    tensors = load_file(shard)
    for wrong in ({"images": tensors["images"]}, tensors | {"labels": tensors["labels"].int()}):
        save_file(wrong, shard)
        manifest = json.loads(where.read_text())
        manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        where.write_text(json.dumps(manifest))
        with pytest.raises(CorruptFile, match=r"no shard of a dream bank|other kinds or lengths"):
            Bank.load(tmp_path)


def test_a_bank_that_cannot_be(small_net: nn.Module) -> None:
    bank = asked(small_net)
    logits = bank.logits.clone()
    logits[0, 0] = float("nan")
    with pytest.raises(VerificationFailed, match="not finite"):
        Bank(bank.images, bank.labels, logits, bank.seeds, bank.config).verify()
    with pytest.raises(VerificationFailed, match=r"outside 0\.\.3"):
        Bank(bank.images, bank.labels + 4, bank.logits, bank.seeds, bank.config).verify()
    # Integers that are no classes: labels of 0 and 1 for one logit, a map, and a vector to match.
    for targets in (torch.ones(2, 1, dtype=torch.int64), torch.full((2, 3), 7)):
        Bank(bank.images[:2], targets, targets.float(), bank.seeds[:2], bank.config).verify()
    with pytest.raises(VerificationFailed, match=r"outside 0\.\.2"):
        Bank(bank.images[:1], torch.full((1, 5), 3), torch.zeros(1, 3, 5), bank.seeds[:1], bank.config).verify()


def test_a_manifest_without_a_digest(small_net: nn.Module, tmp_path: Path) -> None:
    asked(small_net, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["shards"][0]["sha256"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"is damaged \(KeyError: 'sha256'\)"):
        Bank.load(tmp_path)
