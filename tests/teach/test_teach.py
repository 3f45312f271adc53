"""Teaching from one end to the other: the table is true, the folder goes on after a kill, wrong input is a sentence."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cases import IMAGE_SHAPE, tiny_network, tiny_source
from reverie.core.errors import FolderInUse, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event
from reverie.core.network import ImageNetwork, Origin
from reverie.core.rng import preserved_rng
from reverie.core.source import Source, noise_source
from reverie.distill import distill
from reverie.dream import dream
from reverie.metrics import agreement, predict
from reverie.teach import Taught, adaptive_route, generator_route, pixel_route, start_student, teach
from reverie.teach.routes import Route
from reverie.zoo.load import load
from reverie.zoo.networks import CifarResNet

GIVEN: dict[str, Any] = {"teach_steps": 10, "batch_size": 16, "learning_rate": 0.02}
ARGUMENTS = {"blocks": 1, "widths": [6, 8, 8], "in_channels": 1, "num_classes": 4}


def network(seed: int) -> ImageNetwork:
    with preserved_rng():
        torch.manual_seed(seed)
        body = CifarResNet(**ARGUMENTS)
    origin = Origin("reverie.zoo.networks:CifarResNet", ARGUMENTS)
    return ImageNetwork(body, image_shape=IMAGE_SHAPE, mean=[0.5], std=[0.25], origin=origin).eval()


def source(count: int = 96) -> Source:
    return noise_source(count=count, image_shape=IMAGE_SHAPE, seed=1)


def run(**changes: object) -> Taught:
    given = {**GIVEN, "source": source(), **changes}
    return teach(network(0), [network(1), network(2)], **given)  # type: ignore[arg-type]


def test_the_table_has_every_kind_of_lessons_and_says_what_the_last_step_reached() -> None:
    test = tiny_source(3, count=40)
    found = run(test=test, real=tiny_source(4, count=300))
    assert [(line.images, line.count, len(line.agreement)) for line in found.lines] == [
        ("noise", 86, 2),
        ("noise", 86, 1),
        ("real", 86, 1),
    ]
    assert all(line.accuracy is not None and len(line.accuracy) == len(line.agreement) for line in found.lines)
    assert found.judged == 10
    _, judged = source().split(held_out=0.1, seed=0)
    expected = predict(network(0), judged)
    assert found.before.agreement == (agreement(predict(network(1), judged), expected).value,)
    assert json.loads(json.dumps(found.figures()))["lines"][1]["agreement"] == list(found.lines[1].agreement)
    assert found.difference is not None
    assert found.difference.difference == pytest.approx(
        found.network_accuracy.value - found.teacher_accuracy.value  # type: ignore[union-attr]
    )


def test_as_many_real_images_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Source] = []

    def heard(teacher: nn.Module, student: nn.Module, images: Source, **named: Any) -> Any:
        taught.extend([images] if images.name.startswith("real") else [])
        return distill(teacher, student, images, **named)

    monkeypatch.setattr(sys.modules["reverie.teach.teach"], "distill", heard)
    real = Source("real", noise_source(count=300, image_shape=IMAGE_SHAPE, seed=9).images)
    for seed in (0, 0, 1):
        run(control=False, real=real, seed=seed, teach_steps=2)
    first, again, other = (one.images for one in taught)
    assert len(first) == len(other) == 86
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_killed_run_goes_on_and_ends_with_the_same_student(tmp_path: Path) -> None:
    whole = run(control=False)

    def stop(event: Event) -> None:
        if event.stage == "distilling" and event.step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(control=False, folder=tmp_path / "run", on_event=stop)
    found = run(control=False, folder=tmp_path / "run")
    again = load(tmp_path / "run")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, found.network.state_dict()[name])
        assert torch.equal(tensor, again.state_dict()[name])
    assert {"model.onnx", "model.safetensors", "record.json", "run.json"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    with pytest.raises(FolderInUse, match="another run: seed 0 there and 1 here"):
        run(control=False, folder=tmp_path / "run", seed=1)
    other = network(0)
    other.mean.add_(0.1)
    with pytest.raises(FolderInUse, match="another run: other weights"):
        teach(other, [network(1), network(2)], **GIVEN, source=source(), control=False, folder=tmp_path / "run")


@pytest.mark.parametrize("route", [pixel_route, generator_route, adaptive_route])
def test_without_a_source_the_teacher_dreams_by_any_route(route: Route, tmp_path: Path) -> None:
    found = run(source=None, route=route, dreams=64, dream_steps=1, control=False, folder=tmp_path / "run")
    assert found.lines[0].images == "dreams"
    assert 0.5 * 64 < found.lines[0].count + found.judged <= 64
    assert (tmp_path / "run" / "bank").is_dir()
    again = run(source=None, route=route, dreams=64, dream_steps=1, control=False, folder=tmp_path / "run")
    assert again.lines == found.lines


def test_a_bank_of_another_teacher_is_refused(tmp_path: Path) -> None:
    dream(network(0), count=64, steps=1, path=tmp_path / "bank")
    assert run(source=None, bank=tmp_path / "bank", control=False).lines[0].images == "dreams"
    with pytest.raises(FolderInUse, match=r"dreams of another network than this teacher \(its weights differ\)"):
        teach(network(5), [network(1)], bank=tmp_path / "bank", teach_steps=1, control=False)


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    with pytest.raises(RangeError, match="no student"):
        teach(network(0), [])
    with pytest.raises(RangeError, match="at least 64"):
        run(source=None, dreams=3)
    with pytest.raises(RangeError, match="dream_steps must be at least 1, got 0"):
        run(source=None, dream_steps=0)
    told: list[Event] = []
    with pytest.raises(RangeError, match="learning_rate > 0, got learning_rate = 0"):
        run(source=None, learning_rate=0.0, on_event=told.append)
    assert not told
    other = ImageNetwork(nn.Flatten(), image_shape=(1, 9, 9))
    with pytest.raises(ShapeError, match=r"teacher takes images \(1, 8, 8\) and the student \(1, 9, 9\)"):
        teach(network(0), [other])
    fewer = ImageNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), image_shape=IMAGE_SHAPE)
    with pytest.raises(ShapeError, match="student answers for 3 classes and the teacher for 4"):
        teach(network(0), [network(1), fewer], on_event=told.append)
    assert not told
    with pytest.raises(ShapeError, match=r"\(n, 1, 8, 8\)"):
        run(source=noise_source(count=80, image_shape=(1, 9, 9), seed=0))
    with pytest.raises(ReferenceNotFound, match="no labels"):
        run(test=source())


def test_a_new_student_is_built_anew_and_one_with_weights_keeps_them() -> None:
    teacher = network(0)
    reference = "reverie.zoo.networks:CifarResNet(blocks=1, widths=[4, 8, 8], in_channels=1, num_classes=4)"
    one, again, other = (start_student(reference, teacher, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.body.conv1.weight, again.body.conv1.weight)
    assert not torch.equal(one.body.conv1.weight, other.body.conv1.weight)
    assert one.image_shape == teacher.image_shape
    assert torch.equal(one.mean, teacher.mean)
    embedded = load("zoo:fashion-vgg")
    assert not torch.equal(start_student("zoo:fashion-vgg", embedded).body.linear.weight, embedded.body.linear.weight)
    sliced = start_student(reference, teacher, from_teacher=True)
    kept = {tuple(filters.flatten().tolist()) for filters in teacher.body.conv1.weight}
    assert all(tuple(filters.flatten().tolist()) in kept for filters in sliced.body.conv1.weight)


def test_what_a_student_with_weights_does_not_state_is_its_teachers(tmp_path: Path) -> None:
    teacher, trained = network(0), network(1)
    save_file(trained.body.state_dict(), tmp_path / "student.safetensors")
    reference = "reverie.zoo.networks:CifarResNet(blocks=1, widths=[6, 8, 8], in_channels=1, num_classes=4)"
    start = start_student(f"{reference}@{tmp_path / 'student.safetensors'}", teacher)
    assert torch.equal(start.body.conv1.weight, trained.body.conv1.weight)
    assert (start.image_shape, start.mean.item(), start.std.item()) == (IMAGE_SHAPE, 0.5, 0.25)


def test_the_student_of_a_run_keeps_its_weights(tmp_path: Path) -> None:
    found = run(control=False, folder=tmp_path / "run")
    start = start_student(str(tmp_path / "run"), network(0))
    assert torch.equal(start.body.conv1.weight, found.network.body.conv1.weight)
    assert tiny_network().image_shape == start.image_shape
    with pytest.raises(RangeError, match="brings weights of its own, so it cannot begin with its teacher's"):
        start_student(str(tmp_path / "run"), network(0), from_teacher=True)
