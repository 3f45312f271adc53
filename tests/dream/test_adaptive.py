"""Disagreement against numbers worked by hand; the adaptive loop, stopped anywhere; pools and replay."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import CorruptFile, FolderInUse, RangeError, ShapeError
from reverie.core.events import Event
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.dream import Term, View, class_term, dream
from reverie.dream.adaptive import Adapted, adaptive_dreams
from reverie.dream.disagreement import disagreement_term, jensen_shannon, masked_disagreement_term
from reverie.dream.pool import join_banks, replay

LN2 = math.log(2)


def view(logits: Tensor, images: Tensor) -> View:
    return View(images, logits, torch.zeros(len(logits), dtype=torch.int64))


def test_the_divergence_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4), m = (3/8, 5/8).
    p, q = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    kl_p = 0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)
    kl_q = 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)
    assert float(jensen_shannon(p, q)) == pytest.approx((kl_p + kl_q) / 2, rel=1e-5)
    assert float(jensen_shannon(q, p)) == pytest.approx((kl_p + kl_q) / 2, rel=1e-5)
    halved = jensen_shannon(p, torch.tensor([[0.0, 2 * math.log(3)]]), temperature=2.0)
    assert float(halved) == pytest.approx((kl_p + kl_q) / 2, rel=1e-5)


def test_the_divergence_is_between_nothing_and_ln_two() -> None:
    rng = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0, 100.0):
        a, b = torch.randn(2, 200, 7, generator=rng) * scale
        values = jensen_shannon(a, b)
        assert bool((values >= -1e-6).all())
        assert bool((values <= LN2 + 1e-6).all())
        assert bool((jensen_shannon(a, a).abs() < 1e-6).all())
    # A thousand classes, hardly told apart: tiny, not negative, and not cut off.
    a, b = torch.randn(2, 3, 1000, generator=rng) * 0.01
    assert 0 < float(jensen_shannon(a, b).max()) < 1e-3


@pytest.mark.parametrize("confidence", [2.0, 6.0, 12.0])
def test_a_gradient_where_both_are_sure_and_disagree(confidence: float) -> None:
    """Clamped probabilities have none here."""
    teacher = torch.zeros(1, 10)
    teacher[0, 3] = confidence
    student = torch.zeros(1, 10, requires_grad=True)
    with torch.no_grad():
        student[0, 7] = confidence
    (gradient,) = torch.autograd.grad(jensen_shannon(teacher, student).sum(), student)
    assert float(gradient.norm()) > 0
    assert float(gradient[0, 3]) < 0 < float(gradient[0, 7])


def test_terms_of_disagreement() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(5, 1, 2, 2)
    answer = student(images).detach()
    same = disagreement_term(student)
    assert float(same(view(answer, images))) == pytest.approx(1.0, abs=1e-5)
    sure = torch.eye(3)[answer.argmin(1)] * 100
    assert float(same(view(sure, images))) == pytest.approx(
        1 - float(jensen_shannon(sure, answer).mean()) / LN2, abs=1e-6
    )
    masked = masked_disagreement_term(student)
    assert float(masked(view(sure, images))) == 0.0
    agreeing = answer * 3
    divergence = F.kl_div(answer.log_softmax(1), agreeing.log_softmax(1), reduction="batchmean", log_target=True)
    assert float(masked(view(agreeing, images))) == pytest.approx(-float(divergence), rel=1e-5)
    mixed = torch.cat([agreeing[:2], sure[2:]])
    assert float(masked(view(mixed, images))) < 0
    for wrong in (disagreement_term, masked_disagreement_term):
        with pytest.raises(RangeError, match="temperature"):
            wrong(student, temperature=0)
    with pytest.raises(ShapeError, match="must know the same classes"):
        same(view(torch.zeros(5, 4), images))


def test_a_term_names_the_weights_of_its_student() -> None:
    student = nn.Linear(2, 2)
    before = disagreement_term(student).describe()
    assert disagreement_term(copy.deepcopy(student)).describe() == before
    with torch.no_grad():
        student.weight[0, 0] += 1
    assert disagreement_term(student).describe() != before


def test_dreams_move_towards_disagreement() -> None:
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)) for _ in range(2))
    asked = {"count": 8, "image_shape": (3, 8, 8), "steps": 80}

    def apart(term: Term) -> tuple[float, float]:
        bank = dream(teacher, **asked, term=term)  # type: ignore[arg-type]
        with torch.no_grad():
            return float(jensen_shannon(bank.logits, student(bank.source().floats())).mean()), float(bank.loss.mean())

    (plain, _), (sought, loss) = apart(class_term()), apart(class_term() + 3.0 * disagreement_term(student))
    assert sought > 1.3 * plain
    assert loss < 1.0  # the teacher still sees the class: chance is ln 4


def teach(student: nn.Module, pool: Source, number: int) -> nn.Module:
    """A teacher of labels: a few exact steps, the same for the same arguments."""
    student = copy.deepcopy(student).eval()
    for _ in range(3):
        student.zero_grad()
        F.cross_entropy(student(pool.floats()), pool.labels).backward()
        with torch.no_grad():
            for parameter in student.parameters():
                parameter -= (0.1 + number) * parameter.grad
    return student


def adapted(network: nn.Module, path: Path | None, **changed: object) -> Adapted:
    torch.manual_seed(3)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    arguments: dict[str, object] = {"counts": [6, 4, 4], "image_shape": (3, 8, 8), "steps": 3, "teach": teach}
    return adaptive_dreams(network, student, path=path, **(arguments | changed))  # type: ignore[arg-type]


def essence(result: Adapted) -> list[Tensor]:
    return [result.pool.images, result.pool.labels, *result.student.state_dict().values()]


def test_the_loop_with_and_without_a_folder(small_net: nn.Module, tmp_path: Path) -> None:
    kept, loose = adapted(small_net, tmp_path), adapted(small_net, None)
    assert all(map(torch.equal, essence(kept), essence(loose)))
    assert [one.dreams + one.repeats for one in kept.rounds] == [6, 4, 4]
    assert kept.rounds[0].student_agrees is None
    assert all(0 <= one.student_agrees <= 1 for one in kept.rounds[1:] if one.student_agrees is not None)
    assert [one["steps"] for one in kept.pool.config["joined"]] == [3, 3, 3]
    names = [part["name"] for part in kept.pool.config["joined"][1]["term"]]
    assert "disagreement" in names
    assert "disagreement" not in [part["name"] for part in kept.pool.config["joined"][0]["term"]]
    plain = adapted(small_net, None, weight=0.0)
    assert not torch.equal(plain.pool.images[6:], loose.pool.images[6:])
    assert torch.equal(plain.pool.images[:6], loose.pool.images[:6])


@pytest.mark.parametrize("stopped", ["dreaming 0", "teaching 0", "dreaming 1", "teaching 2"])
def test_a_stopped_loop_ends_as_one_that_was_not(small_net: nn.Module, tmp_path: Path, stopped: str) -> None:
    what, _, at = stopped.partition(" ")
    rounds = 0

    def listen(event: Event) -> None:
        nonlocal rounds
        rounds += event.stage == "adaptive rounds"
        if what == "dreaming" and event.stage == "dreaming" and rounds == int(at) and event.step == 2:
            raise KeyboardInterrupt

    def broken(student: nn.Module, pool: Source, number: int) -> nn.Module:
        if what == "teaching" and number == int(at):
            raise KeyboardInterrupt
        return teach(student, pool, number)

    with pytest.raises(KeyboardInterrupt):
        adapted(small_net, tmp_path, on_event=listen, teach=broken)
    assert all(map(torch.equal, essence(adapted(small_net, tmp_path)), essence(adapted(small_net, None))))


def test_what_was_taught_is_not_taught_again(small_net: nn.Module, tmp_path: Path) -> None:
    first = adapted(small_net, tmp_path)

    def never(student: nn.Module, pool: Source, number: int) -> nn.Module:
        raise AssertionError(number)

    assert all(map(torch.equal, essence(first), essence(adapted(small_net, tmp_path, teach=never))))


def test_folders_of_other_loops(small_net: nn.Module, tmp_path: Path) -> None:
    adapted(small_net, tmp_path)
    with pytest.raises(FolderInUse, match=r"counts \[6, 4, 4\] there and \[6\] here"):
        adapted(small_net, tmp_path, counts=[6])
    with pytest.raises(FolderInUse, match=r"weight 0\.1 there and 2\.0 here"):
        adapted(small_net, tmp_path, weight=2.0)
    with pytest.raises(FolderInUse, match=r"lessons\.steps None there and 4 here"):
        adapted(small_net, tmp_path, lessons={"steps": 4})
    with pytest.raises(FolderInUse, match=r"disagreement .* there and .*masked disagreement.* here"):
        adapted(small_net, tmp_path, disagree=masked_disagreement_term)
    other = copy.deepcopy(small_net)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    with pytest.raises(FolderInUse, match="other weights"):
        adapted(other, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderInUse, match=r"holds other files \(thesis\.txt\)"):
        adapted(small_net, tmp_path / "elsewhere")
    (tmp_path / "student-0.safetensors").write_bytes(b"no tensors, but more than eight bytes")
    with pytest.raises(CorruptFile, match=r"student-0\.safetensors is not the student of this loop"):
        adapted(small_net, tmp_path)
    for wrong in ({"counts": []}, {"weight": -1.0}, {"weight": math.nan}):
        with pytest.raises(RangeError, match="at least one count and a weight of at least 0"):
            adapted(small_net, None, **wrong)


def test_a_student_of_other_classes_is_refused_before_anything_is_dreamed(small_net: nn.Module) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    dreamed: list[Event] = []
    with pytest.raises(ShapeError, match="for 4 classes and the student for 5"):
        adaptive_dreams(small_net, student, teach=teach, counts=[6], image_shape=(3, 8, 8), on_event=dreamed.append)
    assert not dreamed


def test_images_of_another_size_than_the_networks_are_meant_for(small_net: nn.Module) -> None:
    student = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4))
    teacher, pupil = (ImageNetwork(one, image_shape=(3, 8, 8)) for one in (small_net, student))
    asked = {"counts": [3, 2], "image_shape": (3, 6, 6), "steps": 1, "teach": lambda student, *_: student}
    found = adaptive_dreams(teacher, pupil, **asked)  # type: ignore[arg-type]
    assert found.pool.images.shape[1:] == (3, 6, 6)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ShapeError, match="Sequential cannot take images of 3 channels, 6 by 6 pixels"):
        adaptive_dreams(teacher, fixed, **asked)  # type: ignore[arg-type]


def test_a_pool_holds_nothing_twice(small_net: nn.Module) -> None:
    bank = dream(small_net, count=5, image_shape=(3, 8, 8), steps=1)
    other = dream(small_net, count=3, image_shape=(3, 8, 8), steps=1, seed=1)
    pool = join_banks([bank, other, bank])
    assert torch.equal(pool.images, torch.cat([bank.images, other.images]))
    with pytest.raises(RangeError, match="at least one bank"):
        join_banks([])
    smaller = dream(small_net, count=2, image_shape=(3, 6, 6), steps=1)
    with pytest.raises(ShapeError, match=r"images \(3, 6, 6\).*cannot join .*images \(3, 8, 8\)"):
        join_banks([bank, smaller])


def test_replay_gives_every_class_and_the_hardest_their_share() -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    difficulty = torch.arange(73.0)
    picks = replay(labels, difficulty, count=30, seed=0)
    assert labels[picks].bincount().tolist() == [10, 10, 10]
    of_zero = picks[labels[picks] == 0]
    assert len(of_zero.unique()) == 10
    assert set(range(45, 50)) <= set(of_zero.tolist())  # the five hardest of class 0
    assert {70, 71, 72} == set(picks[labels[picks] == 2].tolist())  # too few: repeated, not left out
    assert torch.equal(picks, replay(labels, difficulty, count=30, seed=0))
    assert not torch.equal(picks, replay(labels, difficulty, count=30, seed=1))
    evenly: Callable[[int], Tensor] = lambda seed: replay(labels, difficulty, count=30, seed=seed, hard=0.0)  # noqa: E731
    assert {45, 46, 47, 48, 49} - set(evenly(0).tolist())
    with pytest.raises(ShapeError, match="one label and one difficulty"):
        replay(labels, difficulty[:5], count=3, seed=0)
    with pytest.raises(RangeError, match="replay needs images"):
        replay(labels, difficulty, count=3, seed=0, hard=1.5)
