"""Two processes of PyTorch's launcher take the steps that one would take."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reverie.distill.workers import Workers, current_workers

SCRIPT = Path(__file__).with_name("two_workers.py")
SOURCE = Path(__file__).parents[2] / "src"


LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder: Path, *, launcher: list[str] | None = None, **environment: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *(launcher or []), str(SCRIPT), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment},
    )


def finish(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        said, _ = process.communicate(timeout=250)
        assert process.returncode == 0, said[-2000:]


def check(one: Path, two: Path) -> None:
    for norm in (False, True):
        first, second = (load_file(two / f"student-{norm}-{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), "the processes drifted apart"
        assert (two / f"state-{norm}.safetensors").exists()
    # Batch norm sees half a batch in each of two processes; without it the steps are the same up to rounding.
    alone, together = load_file(one / "student-False-0.safetensors"), load_file(two / "student-False-0.safetensors")
    assert all(torch.allclose(tensor, together[name], atol=1e-5) for name, tensor in alone.items())


def test_two_processes_end_with_the_student_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What the launcher sets, without the seconds that it takes.
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    both = [start(tmp_path / "two", RANK=str(rank), **given) for rank in range(2)]
    finish(start(tmp_path / "one"), *both)
    check(tmp_path / "one", tmp_path / "two")


@pytest.mark.nightly
def test_the_launcher_itself(tmp_path: Path) -> None:
    finish(start(tmp_path / "one"))
    finish(start(tmp_path / "two", launcher=LAUNCHER))
    check(tmp_path / "one", tmp_path / "two")


def test_parts_of_a_batch_are_the_batch() -> None:
    batch = torch.arange(7)
    parts = [Workers(index, 3).share(batch) for index in range(3)]
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    assert Workers().share(batch) is batch


def test_a_process_alone_is_one_worker_and_averages_nothing() -> None:
    assert current_workers() == Workers(0, 1)
    tensor = torch.ones(2)
    Workers().average([tensor])
    assert tensor.tolist() == pytest.approx([1.0, 1.0])
