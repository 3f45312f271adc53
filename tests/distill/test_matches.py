"""Matches: layers of unequal widths and sizes are compared through adapters that are put in where they are needed."""

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.rng import preserved_rng
from reverie.core.source import Source
from reverie.distill import Match, angle_loss, attention_loss, distill, similarity_loss, stage_matches
from reverie.distill.features import map_shapes
from reverie.distill.matches import Matched


class Two(nn.Module):
    """Two convolutions, of which the second halves the map, and a head."""

    def __init__(self, width: int, *, seed: int, halve: int = 2) -> None:
        super().__init__()
        with preserved_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, width, 3, padding=1)
            self.second = nn.Conv2d(width, 2 * width, 3, stride=halve, padding=1)
            self.head = nn.Linear(2 * width, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))


def source() -> Source:
    images = torch.randint(0, 256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Source("noise", images)


def matched(*matches: Match, student: nn.Module | None = None) -> Matched:
    return Matched(matches, Two(8, seed=0), student or Two(4, seed=1), source().floats(slice(0, 4)), seed=0)


def test_an_adapter_stands_only_where_the_loss_refuses_the_features() -> None:
    found = matched(
        Match("first", "first"),
        Match("second", "second", loss=similarity_loss),
        Match("second", "second", loss=attention_loss),
        Match("second", "first"),
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in found.adapters.named_parameters()}
    assert shapes == {"0.weight": (8, 4), "3.weight": (8, 8)}


def test_maps_of_other_sizes_are_pooled_to_the_smaller() -> None:
    found = matched(Match("second", "second", loss=attention_loss), student=Two(4, seed=1, halve=1))
    assert set(dict(found.adapters.named_parameters())) == {"0.weight"}


def test_matching_pulls_a_student_of_another_width_towards_its_teacher() -> None:
    teacher, student = Two(8, seed=0), Two(4, seed=1)

    def unlike(network: nn.Module) -> float:
        images = source().floats()
        with torch.no_grad():
            mine, theirs = (torch.relu(one.get_submodule("first")(images)) for one in (network, teacher))
        return float(similarity_loss(mine, theirs))

    match = Match("first", "first", loss=similarity_loss, weight=300.0)
    given = {"steps": 60, "batch_size": 16, "learning_rate": 0.02, "precision": torch.float32}
    without = distill(teacher, student, source(), **given)
    pulled = distill(teacher, student, source(), matches=[match], **given)
    assert unlike(pulled.last) < 0.7 * unlike(without.last)
    assert unlike(student) == unlike(Two(4, seed=1))


def test_adapters_are_learned_and_survive_a_kill(tmp_path: object) -> None:
    given = {"matches": [Match("first", "first", weight=1.0)], "steps": 20, "batch_size": 16}
    whole = distill(Two(8, seed=0), Two(4, seed=1), source(), **given)
    path = tmp_path / "state.safetensors"  # type: ignore[operator]

    def stop(event: object) -> None:
        if event.step >= 10:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(Two(8, seed=0), Two(4, seed=1), source(), checkpoint=path, on_event=stop, **given)
    resumed = distill(Two(8, seed=0), Two(4, seed=1), source(), checkpoint=path, **given)
    assert resumed.history == whole.history
    assert whole.history[-1].train_loss < 0.7 * whole.history[1].train_loss


def test_what_cannot_be_matched_is_refused_by_name() -> None:
    with pytest.raises(ReferenceNotFound, match=r"'frist' is no layer of the student"):
        matched(Match("frist", "first"))
    with pytest.raises(ReferenceNotFound, match=r"'thrid' is no layer of the teacher"):
        matched(Match("first", "thrid"))
    with pytest.raises(ShapeError, match=r"no adapter leads from a feature \(n, 3\) of the student to \(n, 8, 4, 4\)"):
        matched(Match("head", "first"))
    with pytest.raises(ShapeError, match=r"'first'.*\(4, 8, 4, 4\).*\(4, 4, 4, 4\)"):
        matched(Match("first", "first", adapt=False))
    with pytest.raises(RangeError, match="at least 0, got -1"):
        Match("first", "first", weight=-1)
    with pytest.raises(ShapeError, match="3 or more images"):
        Matched(
            [Match("head", "head", loss=angle_loss)],
            Two(8, seed=0),
            Two(4, seed=1),
            source().floats(slice(0, 2)),
            seed=0,
        )


def test_a_module_that_runs_again_finishes_where_it_ran_last() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, stride=2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(x))))

    found = map_shapes(Shared(), torch.zeros(1, 1, 9, 9))
    assert list(found.items()) == [("first", (1, 2, 7, 7)), ("second", (1, 3, 3, 3)), ("relu", (1, 3, 3, 3))]
    matches = stage_matches(Shared(), Shared(), torch.zeros(1, 1, 9, 9))
    assert [(match.student, match.teacher) for match in matches] == [("first", "first"), ("relu", "relu")]
