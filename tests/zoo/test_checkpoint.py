"""Files of weights: good ones of every age load, bad ones end in one sentence, and hostile ones run nothing."""

import io
import os
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from reverie.core.errors import CorruptFile, ReferenceNotFound, UntrustedFile
from reverie.zoo import isolated_reader
from reverie.zoo.checkpoint import read_checkpoint

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "bn.running_var": torch.ones(2), "bn.count": torch.tensor(3)}


class Hostile:
    """A pickle that touches the canary when it is read by a naive reader."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rezipped(content: bytes, change: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    """The same zip with every entry passed through `change`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(*change(entry, old.read(entry)))
    return buffer.getvalue()


def safetensors_header(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """The isolated reader's work in this process, without its limits: the same checks, some seconds faster."""
    monkeypatch.setattr(isolated_reader, "limit_resources", lambda size: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    folder = tmp_path / "isolated"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def read(content: bytes) -> dict[str, Any]:
        (folder / "file").write_bytes(content)
        return isolated_reader.read(folder / "file")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield read
    torch.sparse.check_sparse_tensor_invariants.disable()


def assert_equal(found: Any, wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_any_age_loads_in_order(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    wrapped = {f"module.{name.replace('conv', '_orig_mod.conv')}": tensor for name, tensor in STATE.items()}
    path.write_bytes(saved({"epoch": 3, "state_dict": wrapped}, legacy=legacy))
    checkpoint = read_checkpoint(path)
    assert_equal(checkpoint.tensors, STATE)
    assert checkpoint.ordered
    assert checkpoint.container == "state_dict"


def test_safetensors_loads_and_says_that_it_keeps_no_order(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(safetensors.torch.save(STATE))
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == STATE.keys()
    assert not checkpoint.ordered


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    path.write_bytes(saved({"state_dict": STATE, "a": Hostile(canary)}, legacy=legacy))
    with pytest.raises(
        UntrustedFile, match=r"weights\.pth is a pickle that would run code: it calls \w+\.system\. Nothing was run"
    ):
        read_checkpoint(path)
    assert not canary.exists()
    # The file is really hostile: a naive reader runs it.
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_of_any_protocol_is_refused(read_here: Any, tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(isolated_reader.Refused) as refused:
        read_here(pickle.dumps(Hostile(canary), protocol=protocol))
    if protocol >= 2:
        assert refused.value.kind == "untrusted"
        assert ".system" in str(refused.value)
    assert not canary.exists()


def test_a_pickled_module_is_refused_by_name(read_here: Any) -> None:
    with pytest.raises(isolated_reader.Refused, match=r"it calls torch\.nn\.modules\.linear\.Linear") as refused:
        read_here(saved(torch.nn.Linear(2, 2)))
    assert refused.value.kind == "untrusted"


def test_the_environment_cannot_switch_the_guard_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    path.write_bytes(saved(Hostile(canary)))
    with pytest.raises(UntrustedFile):
        read_checkpoint(path)
    assert not canary.exists()


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    """A legacy file of 1 KB that declares a storage of 8 GB: allocated before a byte of it is read."""
    path = tmp_path / "weights.pth"
    content = saved({"weight": torch.zeros(77)}, legacy=True)
    # 77 is the storage's size, as a one-byte integer ("K"), wherever the pickle mentions it.
    path.write_bytes(content.replace(b"K\x4d", b"J" + struct.pack("<i", 2**31 - 1)))
    with pytest.raises(CorruptFile, match=r"weights\.pth asks for far more memory than its size"):
        read_checkpoint(path)


def one_bit_less(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_name(name: str) -> Callable[[bytes], bytes]:
    """Add an entry to the zip."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(buffer, "a") as archive:
                archive.writestr(name, b"x")
        return buffer.getvalue()

    return change


def compressed(content: bytes) -> bytes:
    def change(entry: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        entry.compress_type = zipfile.ZIP_DEFLATED
        return entry, data

    return rezipped(content, change)


def overstated(content: bytes) -> bytes:
    """The zip directory says that the first entry has a gigabyte."""
    at = content.rindex(b"PK\x01\x02", 0, content.index(b"PK\x01\x02") + 4)
    return content[: at + 24] + struct.pack("<I", 2**30) + content[at + 28 :]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (one_bit_less, "corrupt", "truncated or damaged"),
        (lambda content: content[:-40], "corrupt", "truncated or damaged"),
        (with_name("archive/data.pkl"), "corrupt", "two zip entries of one name"),
        (with_name("archive/code/model.py"), "untrusted", "TorchScript"),
        (with_name("archive/archive_format"), "untrusted", "torch.export archive"),
        (compressed, "corrupt", "compressed or encrypted"),
        (overstated, "corrupt", "its zip directory declares 1,07"),
        (lambda content: rezipped(content, lambda entry, data: ("archive/other", data)), "corrupt", "two zip entries"),
        (lambda content: b"\x89HDF\r\n\x1a\n" + content, "corrupt", "HDF5"),
        (lambda content: b"hello, I am text", "corrupt", "neither a PyTorch checkpoint nor"),
        (lambda content: content.replace(b"conv.weight", b"conv.w\xff\xfeght"), "corrupt", "truncated or damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_zips(read_here: Any, change: Callable[[bytes], bytes], kind: str, sentence: str) -> None:
    with pytest.raises(isolated_reader.Refused, match=sentence) as refused:
        read_here(change(saved(STATE)))
    assert refused.value.kind == kind


@pytest.mark.parametrize("length", [*range(1, 600, 7), -300, -40, -8, -1])
def test_truncated_legacy_files(read_here: Any, length: int) -> None:
    with pytest.raises(isolated_reader.Refused, match=r"truncated|neither"):
        read_here(saved(STATE, legacy=True)[:length])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "holds no tensors, only an empty dictionary"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors, only 'epoch', 'lr'"),
        ([torch.ones(2)], "holds a list, not a dictionary of tensors"),
        ({"w": torch.ones(2, 2).to_sparse()}, "holds 'w' as a torch.sparse_coo tensor"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "torch.complex64, which no weights have"),
        ({"w": torch.zeros(1).expand(10**12)}, "declares 'w' with 1,000,000,000,000 values, more than the 4 bytes"),
        (dict.fromkeys(map(str, range(200)), torch.ones(1000)), "but its tensors declare 800,000"),
    ],
)
def test_what_is_no_state_dict(read_here: Any, value: object, sentence: str) -> None:
    with pytest.raises(isolated_reader.Refused, match=sentence):
        read_here(saved(value))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x00" * 4, "declares a header|truncated"),
        (safetensors_header(b"{}")[:9], "declares a header of 2 bytes"),
        (struct.pack("<Q", 2**40) + b"{}", r"declares a header of 1,099,511,627,776 bytes and has 10 bytes"),
        (safetensors_header(b"{not json"), "truncated or damaged"),
        (safetensors_header(b"[]"), "truncated or damaged"),
        (safetensors_header(b'{"w": 3}'), "truncated or damaged"),
        (safetensors_header(b"[" * 100_000), "truncated or damaged"),
        (safetensors_header(b"{}"), "holds no tensors"),
        (
            safetensors_header(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', b"1234"),
            "truncated or damaged",
        ),
        (safetensors_header(b'{"w":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', b"12345678"), "type C64"),
        (safetensors.torch.save(STATE)[:-1], "truncated or damaged"),
        (safetensors.torch.save(STATE) + b"x", "truncated or damaged"),
        (safetensors.torch.save({"w": torch.tensor([1.0, float("nan")])}), r"1 of 2 values as NaN or infinite in 'w'"),
        (safetensors.torch.save({"w": torch.tensor([float("inf")] * 3)}), r"3 of 3 values as NaN or infinite in 'w'"),
        (safetensors.torch.save({"bn.running_var": torch.tensor([1.0, -2.0])}), r"a negative variance, -2, in 'bn.run"),
    ],
)
def test_bad_safetensors(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=sentence) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_values_are_checked_after_the_isolated_reader_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"w": torch.tensor([float("nan")])}))
    with pytest.raises(CorruptFile, match="NaN or infinite"):
        read_checkpoint(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match=r"no file of weights .*none\.pth"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ReferenceNotFound, match="is a folder or device"):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ReferenceNotFound, match="is a folder or device"):
        read_checkpoint(tmp_path / "pipe.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(STATE))
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ReferenceNotFound, match="Check its permissions"):
        read_checkpoint(path)
