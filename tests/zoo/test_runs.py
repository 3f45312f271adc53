"""A saved network rebuilds anywhere, damage is always an error, and a record can start no code."""

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reverie.core.edit import Bypass, Factorize, Keep, Record, replay
from reverie.core.errors import (
    CorruptFile,
    NotWritable,
    ReferenceNotFound,
    ReverieError,
    UntrustedFile,
    VerificationFailed,
    WeightsMismatch,
)
from reverie.core.network import ImageNetwork, Origin
from reverie.zoo.load import load
from reverie.zoo.networks import CifarResNet
from reverie.zoo.runs import RECORD_FILE, WEIGHTS_FILE, read_run, save

ARGUMENTS = {"blocks": 2, "widths": [4, 6, 8], "in_channels": 1, "num_classes": 3}
CUT = Record(
    (
        Keep(
            {
                "layer1.0.conv1.weight": {0: (0, 2)},
                "layer1.0.bn1.weight": {0: (0, 2)},
                "layer1.0.bn1.bias": {0: (0, 2)},
                "layer1.0.bn1.running_mean": {0: (0, 2)},
                "layer1.0.bn1.running_var": {0: (0, 2)},
                "layer1.0.conv2.weight": {1: (0, 2)},
            },
            {"layer1.0.conv1.out_channels": 2, "layer1.0.bn1.num_features": 2, "layer1.0.conv2.in_channels": 2},
        ),
    )
)
SKIP = Record((Bypass(("layer2.1",)),))
IMAGES = torch.rand(2, 1, 8, 8)


def wrapped(body: nn.Module, origin: Origin | None) -> ImageNetwork:
    network = ImageNetwork(
        body, image_shape=(1, 8, 8), mean=[0.3], std=[0.7], class_names=["a", "b", "c"], origin=origin
    )
    return network.eval()


@pytest.fixture
def network() -> ImageNetwork:
    return wrapped(CifarResNet(**ARGUMENTS), Origin("reverie.zoo.networks:CifarResNet", ARGUMENTS))


@pytest.fixture
def run(tmp_path: Path, network: ImageNetwork) -> Path:
    save(network.with_body(replay(CUT, network.body)), tmp_path / "run", record=CUT, extra={"base": "zoo:x"})
    return tmp_path / "run"


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path, network: ImageNetwork, run: Path) -> None:
    cut = network.with_body(replay(CUT, network.body)).eval()
    back = read_run(run)
    assert torch.equal(back.network(IMAGES), cut(IMAGES))
    assert not back.network.training
    assert (back.record, back.extra, back.origin) == (CUT, {"base": "zoo:x"}, network.origin)
    assert (back.network.image_shape, back.network.class_names) == ((1, 8, 8), ("a", "b", "c"))
    assert sorted(path.name for path in run.iterdir()) == [WEIGHTS_FILE, RECORD_FILE]


def test_a_run_that_began_with_a_run_keeps_the_whole_record(tmp_path: Path, run: Path) -> None:
    first = load(run)
    second = first.with_body(replay(SKIP, first.body)).eval()
    save(second, tmp_path / "second", record=SKIP)
    back = read_run(tmp_path / "second")
    assert back.record == CUT + SKIP
    assert back.origin == Origin("reverie.zoo.networks:CifarResNet", ARGUMENTS)
    assert torch.equal(back.network(IMAGES), second(IMAGES))


def test_a_run_named_with_an_architecture_is_of_that_architecture(run: Path) -> None:
    named = "reverie.zoo.networks:CifarResNet"
    assert torch.equal(load(f"{named}(blocks=2)@{run}")(IMAGES), load(run)(IMAGES))
    with pytest.raises(WeightsMismatch, match=re.escape(f"asks for blocks=3, and {run} began with {{'blocks': 2,")):
        load(f"{named}(blocks=3)@{run}")
    with pytest.raises(WeightsMismatch, match=re.escape("asks for shortcut='pad', and")):
        load(f"{named}(shortcut='pad')@{run}")


def test_every_damaged_byte_is_noticed(run: Path) -> None:
    chance = random.Random(0)
    for name in (RECORD_FILE, WEIGHTS_FILE):
        whole = (run / name).read_bytes()
        for _ in range(100):
            at = chance.randrange(len(whole))
            (run / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
            with pytest.raises((CorruptFile, ReferenceNotFound)):
                read_run(run)
        (run / name).write_bytes(whole[:-100])
        with pytest.raises(CorruptFile):
            read_run(run)
        (run / name).write_bytes(whole)
    read_run(run)


def resealed(run: Path, **changes: Any) -> None:
    """Change the record as an attacker would: with a checksum that fits."""
    value = json.loads((run / RECORD_FILE).read_text()) | changes
    del value["record_sha256"]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    value["record_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (run / RECORD_FILE).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("os:system", {"command": "touch canary"}),
        ("subprocess:run", {"args": "touch canary", "shell": True}),
        ("reverie.core.store:write_json", {"path": "canary", "value": 1}),
        (
            "reverie.zoo.runs:edited_network",
            {"factory": "os:system", "arguments": {"command": "touch canary"}, "record": {}},
        ),
        ("torch:load", {"f": "canary", "weights_only": False}),
    ],
)
def test_a_record_can_start_no_code(
    run: Path, monkeypatch: pytest.MonkeyPatch, factory: str, arguments: dict[str, Any]
) -> None:
    monkeypatch.chdir(run)
    resealed(run, origin={"factory": factory, "arguments": arguments})
    with pytest.raises(UntrustedFile, match=re.escape(f"asks to run the factory '{factory}'")):
        load(run)
    with pytest.raises(UntrustedFile, match="Name its own"):
        load(f"reverie.zoo.networks:CifarResNet@{run}")
    assert not (run / "canary").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"origin": "x"},
        {"origin": {"factory": "reverie.zoo.networks:CifarResNet", "arguments": [1]}},
        {"origin": {"factory": "reverie.zoo.networks:CifarResNet", "arguments": {"blocks": "many"}}},
        {"origin": {"factory": "reverie.zoo.networks:CifarResNet", "arguments": {"nonsense": 1}}},
        {"record": {"format": 9, "edits": []}},
        {"record": {"format": 1, "edits": [{"kind": "explode"}]}},
        {"record": {"format": 1, "edits": [{"kind": "bypass", "modules": ["nowhere"]}]}},
        {"record": []},
        {"preprocessing": {"image_shape": ["x"], "mean": [0], "std": [1]}},
        {"preprocessing": {"image_shape": [3, 8, 8], "mean": [0], "std": [1]}},
        {"preprocessing": {"image_shape": [1, 8, 8], "mean": [0], "std": [0]}},
        {"class_names": ["a"]},
        {"class_names": None},
        {"extra": 3},
        {"weights_sha256": "0" * 64},
    ],
)
def test_a_record_that_makes_no_sense_is_one_sentence(run: Path, changes: dict[str, Any]) -> None:
    resealed(run, **changes)
    with pytest.raises(ReverieError) as error:
        load(run)
    assert "\n" not in str(error.value)


def test_folders_that_hold_no_run(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceNotFound, match=r"empty is no run: it holds no record\.json"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "run.json").write_text("{}")
    with pytest.raises(ReferenceNotFound, match=r"empty is a run that has not finished: it holds no record\.json"):
        load(tmp_path / "empty")
    (run / WEIGHTS_FILE).unlink()
    with pytest.raises(ReferenceNotFound, match=r"cannot read .*model\.safetensors: No such file"):
        load(run)
    (run / RECORD_FILE).write_text("[]")
    with pytest.raises(CorruptFile, match="is no record of a run"):
        load(run)


def test_save_refuses_what_it_could_not_read_back(tmp_path: Path, network: ImageNetwork) -> None:
    cut = network.with_body(replay(CUT, network.body))
    with pytest.raises(
        VerificationFailed, match=r"layer1\.0\.conv1\.weight is \(\(2, 4, 3, 3\), torch\.float32\) in the network"
    ):
        save(cut, tmp_path / "run", record=Record())
    with pytest.raises(ReferenceNotFound, match="does not say how it is built"):
        save(wrapped(network.body, None), tmp_path / "run", record=Record())
    with pytest.raises(ValueError, match="JSON compliant"):
        save(network, tmp_path / "run", record=Record(), extra={"loss": float("nan")})
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable):
        save(network, tmp_path / "file" / "run", record=Record())


def test_saving_and_loading_draw_no_random_numbers(tmp_path: Path, network: ImageNetwork) -> None:
    before = torch.get_rng_state()
    save(network, tmp_path / "run", record=Record())
    load(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


USER_MODULE = """
from torch import nn
class SmallNet(nn.Module):
    def __init__(self, *, width=5):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.extra = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.head = nn.Linear(width, 2)
    def forward(self, x):
        return self.head(self.extra(self.bn(self.conv(x))).mean((2, 3)))
"""


@pytest.mark.parametrize(("in_two", "rank"), [("conv", 2), ("head", 1)])
def test_the_documented_reader_needs_only_torch_and_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_two: str, rank: int
) -> None:
    (tmp_path / "networks_of_a_user.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "loading_without_reverie.md").read_text()
    reader = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert reader is not None
    teacher = load(
        "networks_of_a_user:SmallNet(width=6)@initial", image_shape=(3, 8, 8), mean=(0.1, 0.2, 0.3), std=(1, 2, 3)
    )
    kept = {0: (1, 2, 5)}
    record = Record(
        (
            Bypass(("extra",)),
            Keep(
                {"conv.weight": kept, "conv.bias": kept, "head.weight": {1: (1, 2, 5)}}
                | {f"bn.{name}": kept for name in ("weight", "bias", "running_mean", "running_var")},
                {"conv.out_channels": 3, "bn.num_features": 3, "head.in_features": 3},
            ),
            Factorize(in_two, rank),
        )
    )
    cut = teacher.with_body(replay(record, teacher.body)).eval()
    save(cut, tmp_path / "run", record=record)
    with pytest.raises(
        UntrustedFile, match=re.escape(f"name it yourself: networks_of_a_user:SmallNet@{tmp_path / 'run'}")
    ):
        load(tmp_path / "run")
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = cut(images)
        assert torch.equal(load(f"networks_of_a_user:SmallNet@{tmp_path / 'run'}")(images), wanted)
    torch.save(images, tmp_path / "images.pt")
    program = (
        f"import sys\nsys.modules['reverie'] = None\nsys.path.insert(0, {str(tmp_path)!r})\n{reader[1]}\n"
        "from networks_of_a_user import SmallNet\n"
        f"network = rebuild({str(tmp_path / 'run')!r}, SmallNet)\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r})\n"
        f"with torch.no_grad(): torch.save(network(images), {str(tmp_path / 'out.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "out.pt"), wanted)
