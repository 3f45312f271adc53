"""What stands beside a figure: facts that move it, and nothing that tells who or where."""

import getpass
import json
import os
import platform
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from reverie.core import environment
from reverie.core.environment import commit, machine, versions


def test_the_facts_are_json_and_name_nobody() -> None:
    text = json.dumps(environment.environment())
    for private in {socket.gethostname(), str(Path.home()), str(Path.cwd())}:
        assert len(private) < 4 or private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_the_machine() -> None:
    facts = machine()
    assert facts["processor"]
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert facts["memory_bytes"] > 2**28


def test_the_graphics_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or machine()["gpu"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fast 9000")
    assert machine()["gpu"] == "Fast 9000"


X86 = "processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n"
ARM = "".join(f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU part\t: {{}}\n\n" for core in range(4))


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/proc/cpuinfo": X86}, "AMD EPYC"),
        (
            {
                "/proc/cpuinfo": ARM.format(*["0xd08"] * 4),
                "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            },
            "Raspberry Pi 4 Model B Rev 1.4, implementer 0x41, part 0xd08",
        ),
        ({"/proc/cpuinfo": ARM.format("0xd03", "0xd03", "0xd09", "0xd09")}, "implementer 0x41, part 0xd03 0xd09"),
        ({}, platform.processor() or platform.machine()),
    ],
)
def test_every_processor_has_its_own_name(files: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_text", lambda path: files.get(path, ""))
    assert environment.processor() == name


def test_apple_processors_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_text", lambda _: "")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(environment, "_said", lambda *words: f"Apple M1 by {words[-1]}")
    assert environment.processor() == "Apple M1 by machdep.cpu.brand_string"


def test_versions() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "surely-not-installed"))
    assert versions().keys() == {"python", "torch"}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_says_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "src" / "reverie" / "core" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(environment, "__file__", str(module))
    assert commit() is None
    git(tmp_path, "init", "--quiet")
    assert commit() is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit() == head
    (tmp_path / "untracked").write_text("")
    assert commit() == head
    module.write_text("changed")
    assert commit() == f"{head}+changes"
    said = environment._said
    monkeypatch.setattr(environment, "_said", lambda *words: None if "status" in words else said(*words))
    assert commit() == f"{head}+unknown"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() is None
