"""The loop: it learns, from the same view, leaves no trace, keeps the best, and resumes bit for bit."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import CorruptFile, Diverged, FolderInUse, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event
from reverie.core.network import ImageNetwork
from reverie.core.source import Source, noise_source
from reverie.distill import (
    Distilled,
    balanced_curriculum,
    correlation_loss,
    distill,
    flat,
    same_layers,
    soft_label_loss,
)
from reverie.distill.features import select_kept
from reverie.metrics import agreement, predict


class Small(nn.Module):
    """Convolution, batch norm, dropout and a head: everything that training has to get right."""

    def __init__(self, width: int, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width * 4, classes)
        self.views: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.views.append(images.detach().clone())
        hidden = torch.relu(self.norm(self.conv(images)))
        pooled = nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
        return self.head(self.drop(pooled))


def small(width: int, seed: int, classes: int = 4) -> ImageNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = Small(width, classes)
        nn.init.normal_(body.head.weight, std=1.5)
        nn.init.zeros_(body.conv.bias)
        nn.init.normal_(body.norm.bias, std=0.5)
    with torch.no_grad():
        body.norm.running_var.fill_(0.3)
        # Rows that sum to zero: no class wins by the mean of the features alone.
        body.head.weight -= body.head.weight.mean(1, keepdim=True)
    return ImageNetwork(body, image_shape=(1, 6, 6), mean=[0.5], std=[0.5])


def source(count: int = 200) -> Source:
    """Four patches of random gray an image: the teachers above disagree with themselves from image to image."""
    patches = torch.randint(0, 256, (count, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Source("patches", patches.repeat_interleave(3, 2).repeat_interleave(3, 3))


def run(**changes: object) -> Distilled:
    arguments: dict[str, object] = {"steps": 40, "batch_size": 16, "learning_rate": 0.05}
    arguments.update(changes)
    return distill(small(8, 1), small(8, 2), source(), **arguments)  # type: ignore[arg-type]


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_student_comes_closer_and_the_report_is_true() -> None:
    taught = run(steps=150)
    assert taught.held_out_loss_nats < 0.5 * taught.history[0].held_out_loss_nats
    _, held = source().split(held_out=0.1, seed=0)
    expected, given = predict(small(8, 1), held), predict(taught.student, held)
    assert taught.held_out_loss_nats == pytest.approx(
        float(soft_label_loss(given, expected, temperature=1.0)), abs=1e-6
    )
    assert taught.held_out_agreement == agreement(given, expected)
    assert [milestone.step for milestone in taught.history] == list(range(0, 151, 15))


def test_feature_matching_pulls_the_kept_channels() -> None:
    teacher, student = small(8, 1), small(4, 2)
    kept = [6, 0, 3, 5]

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            images = (source().floats() - 0.5) / 0.5
            wanted = teacher.body.norm.eval()(teacher.body.conv(images))[:, kept]
            body = network.get_submodule("body")
            given = body.get_submodule("norm").eval()(body.get_submodule("conv")(images))
        return float((given - wanted).square().sum() / wanted.square().sum())

    arguments = {"steps": 60, "batch_size": 16, "learning_rate": 0.05}
    without = distill(teacher, student, source(), **arguments)  # type: ignore[arg-type]
    matches = same_layers({"body.norm": kept})
    matched = distill(teacher, student, source(), matches=matches, **arguments)  # type: ignore[arg-type]
    assert error(matched.student) < 0.3 * error(without.student)


def test_teacher_and_student_see_the_same_view_and_it_varies() -> None:
    teacher, student = small(8, 1), small(8, 2)
    # A copy shares this list with its original, so it records what the copies inside see.
    seen_by_teacher, seen_by_student = Shared(), Shared()
    teacher.body.views, student.body.views = seen_by_teacher, seen_by_student  # type: ignore[assignment]
    distill(teacher, student, source(), steps=6, batch_size=16)
    training = [view for view in seen_by_student.items if len(view) == 16]
    assert len(training) == 6
    for view in training:
        assert any(view.shape == other.shape and torch.equal(view, other) for other in seen_by_teacher.items)
    originals = {image.numpy().tobytes() for image in (source().floats() - 0.5) / 0.5}
    assert any(image.numpy().tobytes() not in originals for image in training[0].contiguous())


def test_views_are_drawn_anew_at_every_step() -> None:
    teacher, student = small(8, 1), small(8, 2)
    seen = Shared()
    student.body.views = seen  # type: ignore[assignment]
    one_image = Source("one image", source().images[:1].repeat(32, 1, 1, 1))
    distill(teacher, student, one_image, steps=4, batch_size=16)
    training = [view for view in seen.items if len(view) == 16]
    assert len(training) == 4
    assert all(not torch.equal(a, b) for index, a in enumerate(training) for b in training[:index])


class Shared:
    """A list that stays one list when its owner is copied."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []

    def append(self, item: Tensor) -> None:
        self.items.append(item)

    def __deepcopy__(self, memo: object) -> "Shared":
        return self


def traces(network: nn.Module) -> list[object]:
    return [
        [value.clone() for value in network.state_dict().values()],
        [value.stride() for value in network.parameters()],
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [parameter.grad is None for parameter in network.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
    ]


def equal_traces(a: list[object], b: list[object]) -> bool:
    tensors = zip(a[0], b[0], strict=True)  # type: ignore[call-overload]
    return all(torch.equal(x, y) for x, y in tensors) and a[1:] == b[1:]


@pytest.mark.parametrize("raising", [False, True])
def test_networks_and_random_state_are_as_before(raising: bool) -> None:
    teacher, student = small(8, 1).train(), small(8, 2).eval()
    teacher.body.norm.eval()
    student.body.conv.weight.requires_grad_(False)
    before, random_state = [traces(teacher), traces(student)], torch.get_rng_state()

    def listener(event: Event) -> None:
        if raising and event.step >= 10:
            raise KeyboardInterrupt

    if raising:
        with pytest.raises(KeyboardInterrupt):
            distill(
                teacher,
                student,
                source(),
                matches=same_layers({"body.norm": None}),
                steps=20,
                batch_size=16,
                on_event=listener,
            )
    else:
        taught = distill(teacher, student, source(), matches=same_layers({"body.norm": None}), steps=20, batch_size=16)
        assert not same(taught.student, student)
        assert not taught.student.training
        assert not taught.student.get_parameter("body.conv.weight").requires_grad
        assert not any(module._forward_hooks for module in taught.student.modules())
    assert equal_traces(before[0], traces(teacher))
    assert equal_traces(before[1], traces(student))
    assert torch.equal(torch.get_rng_state(), random_state)


def stop_at(step: int) -> Callable[[Event], None]:
    def listener(event: Event) -> None:
        if event.step >= step:
            raise KeyboardInterrupt

    return listener


@pytest.mark.parametrize("stopped", [10, 24, 39])
def test_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path, stopped: int) -> None:
    whole = run(matches=same_layers({"body.norm": None}))
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(matches=same_layers({"body.norm": None}), checkpoint=path, on_event=stop_at(stopped))
    resumed = run(matches=same_layers({"body.norm": None}), checkpoint=path)
    assert same(resumed.student, whole.student)
    assert resumed.history == whole.history
    assert not same(run(matches=same_layers({"body.norm": None}), seed=1).student, whole.student)


def test_finished_checkpoint_returns_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    whole = run(checkpoint=path)
    events: list[Event] = []
    again = run(checkpoint=path, on_event=events.append)
    assert events == []
    assert same(again.student, whole.student)
    assert again.held_out_agreement == whole.held_out_agreement


def test_checkpoint_of_another_run_is_refused_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run(checkpoint=path, steps=4)
    for changes in ({"seed": 1}, {"steps": 5}, {"learning_rate": 0.01}, {"matches": same_layers({"body.norm": None})}):
        with pytest.raises(FolderInUse, match="another distillation"):
            run(**{"checkpoint": path, "steps": 4, **changes})
    with pytest.raises(FolderInUse, match="another distillation"):
        distill(small(8, 1), small(8, 3), source(), steps=4, batch_size=16, learning_rate=0.05, checkpoint=path)
    other = small(8, 1)
    other.mean.add_(0.1)
    for teacher, images in ((small(8, 4), source()), (small(8, 1), source(201)), (other, source())):
        with pytest.raises(FolderInUse, match="another distillation"):
            distill(teacher, small(8, 2), images, steps=4, batch_size=16, learning_rate=0.05, checkpoint=path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x80\x04\x95 not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"state\.safetensors"):
            run(checkpoint=path, steps=4)


def test_the_best_milestone_is_kept_not_the_last() -> None:
    # A student that already is its teacher, at far too high a rate: it can only get worse.
    teacher = small(8, 1)
    taught = distill(teacher, teacher, source(), steps=30, batch_size=16, learning_rate=1.0)
    assert taught.best_step == 0
    assert taught.held_out_loss_nats < 1e-6
    assert taught.history[-1].held_out_loss_nats > 1e-3
    assert taught.held_out_agreement.value == 1.0
    assert same(taught.student, teacher)


def test_divergence_names_the_step() -> None:
    with pytest.raises(Diverged, match=r"at step [1-9]\d*, learning rate 1e\+30"):
        run(learning_rate=1e30)


def test_unequal_networks_are_refused_by_name() -> None:
    with pytest.raises(ShapeError, match="student answers for 5 classes and the teacher for 4"):
        distill(small(8, 1), small(8, 2, classes=5), source(), steps=2, batch_size=16)
    with pytest.raises(ReferenceNotFound, match=r"'body\.nrm' is no layer of the teacher.*'body"):
        run(matches=same_layers({"body.nrm": None}))

    def narrow(kept: list[int] | None) -> None:
        matches = same_layers({"body.conv": kept})
        distill(small(8, 1), small(4, 2), source(), matches=matches, steps=2, batch_size=16)

    with pytest.raises(ShapeError, match=r"'body\.conv'.*\(4, 8, 6, 6\), of which all.*\(4, 4, 6, 6\)"):
        narrow(None)
    with pytest.raises(ShapeError, match=r"of which 3 channels"):
        distill(
            small(8, 1), small(4, 2), source(), matches=same_layers({"body.conv": [0, 1, 2]}), steps=2, batch_size=16
        )
    with pytest.raises(RangeError, match="from 0 to 8, the teacher has 8"):
        distill(
            small(8, 1), small(4, 2), source(), matches=same_layers({"body.conv": [0, 1, 2, 8]}), steps=2, batch_size=16
        )
    with pytest.raises(ShapeError, match=r"\(n, 1, 5, 6\)"):
        distill(small(8, 1), small(8, 2), noise_source(count=8, image_shape=(1, 5, 6), seed=0), steps=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("held_out", 1.0),
        ("weight_decay", -1e-4),
        ("average", 1.0),
        ("clip", 0.0),
        ("patience", 0),
        ("learning_rate", math.nan),
    ],
)
def test_arguments_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(RangeError, match=f"{name} = {value}"):
        run(**{name: value})


def test_a_negative_weight_of_features_is_refused() -> None:
    with pytest.raises(RangeError, match=r"at least 0, got -0.1 for 'body.norm'"):
        same_layers({"body.norm": None}, weight=-0.1)


def test_events_count_up_to_the_total() -> None:
    events: list[Event] = []
    run(on_event=events.append)
    assert [event.step for event in events] == sorted({event.step for event in events})
    assert events[-1].step == events[-1].total == 40
    assert {event.stage for event in events} == {"distilling"}
    assert set(events[-1].figures) == {"held_out_loss_nats", "held_out_agreement_share"}


def test_kept_channels_are_found_on_whatever_axis_they_are() -> None:
    tokens = torch.arange(12.0).view(1, 2, 6)
    assert torch.equal(select_kept(tokens, torch.zeros(1, 2, 2), [5, 1], layer="t"), tokens[:, :, [5, 1]])
    maps = torch.arange(16.0).view(1, 4, 2, 2)
    assert torch.equal(select_kept(maps, torch.zeros(1, 2, 2, 2), [3, 0], layer="m"), maps[:, [3, 0]])
    order = [3, 2, 1, 0]
    assert torch.equal(select_kept(maps, maps, order, layer="m"), maps[:, order])
    assert copy.copy(select_kept(maps, maps, None, layer="m")) is not None


def test_the_average_is_what_is_judged_and_kept_and_it_survives_a_kill(tmp_path: Path) -> None:
    whole = run(average=0.9)
    assert not same(whole.last, run().last)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(average=0.9, checkpoint=path, on_event=stop_at(24))
    resumed = run(average=0.9, checkpoint=path)
    assert same(resumed.last, whole.last)
    assert resumed.history == whole.history
    _, held = source().split(held_out=0.1, seed=0)
    expected, given = predict(small(8, 1), held), predict(whole.last, held)
    judged = float(soft_label_loss(given, expected, temperature=1.0))
    assert judged == pytest.approx(whole.history[-1].held_out_loss_nats, abs=1e-6)


def test_after_one_step_the_average_has_followed_one_step() -> None:
    began, went = small(8, 2).body.head.weight, run(steps=1).last.get_submodule("body.head").weight
    followed = run(steps=1, average=0.9).last.get_submodule("body.head").weight
    assert torch.allclose(followed, began + (1 - 2 / 11) * (went - began))  # decay (1 + t) / (10 + t) at t = 1


def test_patience_stops_a_student_that_only_gets_worse() -> None:
    teacher, events = small(8, 1), list[Event]()
    given = {"steps": 100, "batch_size": 16, "learning_rate": 1.0, "on_event": events.append}
    taught = distill(teacher, teacher, source(), patience=2, **given)  # type: ignore[arg-type]
    assert [milestone.step for milestone in taught.history] == [0, 10, 20]
    assert events[-1].step == events[-1].total == 100
    assert len(distill(teacher, teacher, source(), patience=30, **given).history) == 11  # type: ignore[arg-type]


def test_the_last_student_is_that_of_the_last_step() -> None:
    teacher = small(8, 1)
    taught = distill(teacher, teacher, source(), steps=30, batch_size=16, learning_rate=1.0)
    assert same(taught.student, teacher)
    assert not same(taught.last, teacher)


def test_losses_schedules_and_orders_are_taken_as_functions() -> None:
    seen: list[Tensor] = []

    def counted(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append(student)
        return correlation_loss(student, teacher)

    taught = run(loss=counted, order=balanced_curriculum, schedule=flat, weight_decay=1e-4)
    assert len(seen) == 40
    assert not same(taught.last, run(loss=correlation_loss, weight_decay=1e-4).last)


def test_a_teacher_that_answers_no_numbers_is_named() -> None:
    broken = small(8, 1)
    calls = 0

    class Breaks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return broken(images) * (float("nan") if calls > 6 else 1.0)

    with pytest.raises(Diverged, match=r"teacher's answers at step \d+ are not finite numbers.*teacher's weights"):
        distill(Breaks(), small(8, 2), source(), steps=20, batch_size=16)


def test_networks_for_other_images_are_refused_with_both_sizes() -> None:
    other = ImageNetwork(Small(8), image_shape=(1, 8, 8))
    with pytest.raises(ShapeError, match=r"teacher takes images \(1, 6, 6\) and the student \(1, 8, 8\)"):
        distill(small(8, 1), other, source(), steps=2)


def test_a_source_with_too_few_images_to_judge_with_is_refused() -> None:
    with pytest.raises(RangeError, match=r"cannot hold out 0\.1 of 2 images"):
        distill(small(8, 1), small(8, 2), source(2), steps=2)


def test_clipped_steps_are_no_longer_than_the_rate_times_the_clip() -> None:
    given = small(8, 2)
    taught = run(steps=1, learning_rate=0.5, clip=1e-3, precision=torch.float32)
    moved = [taught.last.get_parameter(name) - parameter for name, parameter in given.named_parameters()]
    length = float(torch.cat([tensor.detach().flatten() for tensor in moved]).norm())
    # Nesterov's first step is 1 + 0.9 gradients long.
    assert length == pytest.approx(0.5 * 1.9 * 1e-3, rel=1e-3)
    assert not same(taught.last, run(steps=1, learning_rate=0.5, precision=torch.float32).last)
