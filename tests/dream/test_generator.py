"""The generator route: reproducible, resumed in the middle, better with practice; running statistics by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reverie.core.errors import CorruptFile, FolderInUse, RangeError, ShapeError, StatisticsMissing
from reverie.core.events import Event
from reverie.core.network import ImageNetwork
from reverie.dream import Bank, BatchNormStatistics, Moments, View, class_term
from reverie.dream.generator import ConditionalGenerator, generate, load_generator
from reverie.dream.running import running_statistics_term

SHAPE = (3, 8, 8)


def made(network: nn.Module, path: Path | None = None, **changed: object) -> Bank:
    arguments: dict[str, object] = {"count": 11, "image_shape": SHAPE, "warm_up": 4, "steps": 2, "batch_size": 4}
    return generate(network, path=path, **(arguments | changed))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if "generator" in entry.name or entry.suffix}


def test_same_seed_same_bytes_in_memory_and_on_disk(small_net: nn.Module, tmp_path: Path) -> None:
    first, again, kept, other = made(small_net), made(small_net), made(small_net, tmp_path), made(small_net, seed=1)
    assert first.images.shape == (11, *SHAPE)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, kept.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(Bank.load(tmp_path).images, first.images)
    assert sorted(first.labels.bincount(minlength=4).tolist()) == [2, 3, 3, 3]
    assert first.config["route"] == "generator"


@pytest.mark.parametrize("stopped", [2, 5, 7])
def test_a_stopped_run_goes_on_with_the_same_bytes(small_net: nn.Module, tmp_path: Path, stopped: int) -> None:
    def stop(event: Event) -> None:
        if event.step == stopped:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(small_net, tmp_path / "stopped", on_event=stop)
    made(small_net, tmp_path / "stopped")
    made(small_net, tmp_path / "whole")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_folder_without_its_generator(small_net: nn.Module, tmp_path: Path) -> None:
    made(small_net, tmp_path)
    with pytest.raises(FolderInUse, match="made with steps 2, now asked 3"):
        made(small_net, tmp_path, steps=3)
    for kept in tmp_path.glob(".generator-*"):
        kept.unlink()
    with pytest.raises(CorruptFile, match="the generator after 3 batches"):
        made(small_net, tmp_path)


def test_a_generator_that_was_cut_off(small_net: nn.Module, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(small_net, tmp_path, on_event=stop)
    (kept,) = tmp_path.glob(".generator-*")
    kept.write_bytes(kept.read_bytes()[:100])
    for again in (lambda: made(small_net, tmp_path), lambda: load_generator(tmp_path)):
        with pytest.raises(CorruptFile, match=r"generator-00001\.safetensors is no generator"):
            again()


def test_one_process_at_a_time(small_net: nn.Module, tmp_path: Path) -> None:
    def again(event: Event) -> None:
        if event.step == 5:
            with pytest.raises(FolderInUse, match="another process is writing to it"):
                made(small_net, tmp_path)

    first = made(small_net, tmp_path, on_event=again)
    assert torch.equal(made(small_net, tmp_path).images, first.images)
    assert first.teacher_sha256 == Bank.load(tmp_path).teacher_sha256
    assert [entry.name for entry in tmp_path.glob("*.claim")] == []


def test_practice_helps() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    loss = made(network, count=80, batch_size=8, warm_up=40, term=class_term()).loss
    fresh = made(network, count=8, batch_size=8, warm_up=2, term=class_term()).loss
    assert float(loss[-8:].mean()) < 0.92 * float(fresh.mean())


def test_numbers_and_networks_out_of_range(small_net: nn.Module) -> None:
    for name in ("count", "warm_up", "steps", "batch_size"):
        with pytest.raises(RangeError, match=f"{name} must be at least 1, got 0"):
            made(small_net, **{name: 0})
    with pytest.raises(RangeError, match=r"targets must lie in 0\.\.3, got 9\.\.9"):
        made(small_net, targets=[9] * 11)
    with pytest.raises(RangeError, match=r"targets must lie in 0\.\.3, got 0\.5"):
        made(small_net, targets=torch.full((11,), 0.5))
    with pytest.raises(ShapeError, match="for each of 11 images"):
        made(small_net, targets=[1, 2])
    with pytest.raises(ShapeError, match="need logits"):
        made(nn.BatchNorm2d(3))
    wrapped = ImageNetwork(small_net, image_shape=SHAPE)
    with pytest.raises(ShapeError, match="images of 1 channels, the network takes 3"):
        made(wrapped, image_shape=(1, 8, 8))
    sized = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ShapeError, match="cannot take images of 3 channels, 9 by 9 pixels"):
        made(sized, image_shape=(3, 9, 9))
    with pytest.raises(StatisticsMissing, match="statistics from batch normalization were asked for"):
        made(sized, statistics=BatchNormStatistics())
    with pytest.raises(ShapeError, match=r"draws images \(c, h, w\)"):
        made(small_net, image_shape=(3, 8))
    assert ConditionalGenerator(classes=2, image_shape=(2, 7, 9))(torch.zeros(1, 66)).shape == (1, 2, 7, 9)


def seen(mean: float, variance: float) -> View:
    one = Moments("", torch.tensor([mean]), torch.tensor([variance]), torch.tensor([0.0]), torch.tensor([1.0]))
    return View(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), (one,))


def test_running_statistics_by_hand() -> None:
    term = running_statistics_term(momentum=0.75)
    assert float(term(seen(2.0, 1.0))) == pytest.approx(2.0)  # the first batch is its own past
    # The average moves a quarter of the way from 2 to 0.
    assert float(term(seen(0.0, 1.0))) == pytest.approx(1.5)
    assert float(term(seen(0.0, 5.0))) == pytest.approx(1.125 + 1.0)
    with pytest.raises(RangeError, match="momentum must be at least 0 and below 1"):
        running_statistics_term(momentum=1.0)
