"""Adaptive dreams, the whole loop: dream, teach a student, dream what it gets wrong, add that to the pool, teach on.

Teaching is a function that the caller passes, so that this loop knows no method of distillation. With a folder, every
step can be killed and goes on: banks by shard, students by round, whatever the teaching function keeps by itself.

Cost: that of the dreams, plus one pass of the student per step from the second round on, plus teaching.
Source: Yin et al. 2020, arXiv:1912.08795, section 3.3.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from reverie.core.digest import sha256_network
from reverie.core.errors import CorruptFile, RangeError, ShapeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork, as_network
from reverie.core.rng import derive_seed, preserved_rng
from reverie.core.run_folder import open_run
from reverie.core.source import Source
from reverie.core.store import write_bytes
from reverie.dream.bank import Bank
from reverie.dream.calibrate import choose_statistics
from reverie.dream.disagreement import disagreement_term
from reverie.dream.dream import dream
from reverie.dream.heads import single_label
from reverie.dream.pool import join_banks
from reverie.dream.rehearsal import checked_shape, first_answer, usual_term
from reverie.dream.terms import Term
from reverie.metrics import predict

__all__ = ["Adapted", "Round", "Teach", "adaptive_dreams"]

# (student, pool, round) -> the student, taught on; the argument may be changed or not.
Teach = Callable[[nn.Module, Source, int], nn.Module]


@dataclass(frozen=True)
class Round:
    """One round of the loop.

    Attributes:
        dreams: Dreams that it added to the pool, after repeats were dropped.
        repeats: Dreams that were dropped.
        student_agrees: Share of its new dreams on which the student, before it was taught on them, named the class
            asked for; None in the first round, which has no student yet.

    Example:
        >>> Round(dreams=14, repeats=2, student_agrees=0.25).student_agrees
        0.25
    """

    dreams: int
    repeats: int
    student_agrees: float | None


@dataclass(frozen=True, eq=False)
class Adapted:
    """What the loop ends with.

    Attributes:
        pool: All dreams.
        student: After the last round.
        rounds: What each round did.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
        >>> pool = Bank(images, torch.tensor([0, 1]), torch.zeros(2, 2), torch.arange(2), {"count": 2})
        >>> found = Adapted(pool, nn.Flatten(), (Round(2, 0, None),))
        >>> len(found.pool), sum(one.dreams for one in found.rounds)
        (2, 2)
    """

    pool: Bank
    student: nn.Module
    rounds: tuple[Round, ...]

    def figures(self) -> dict[str, Any]:
        """Dreams in the pool and what each round did, as JSON values."""
        return {"count": len(self.pool), "rounds": [asdict(one) for one in self.rounds]}


def adaptive_dreams(
    teacher: nn.Module,
    student: nn.Module,
    *,
    teach: Teach,
    lessons: Mapping[str, Any] | None = None,
    counts: Sequence[int],
    disagree: Callable[[nn.Module], Term] = disagreement_term,
    weight: float = 0.1,
    term: Term | None = None,
    image_shape: Sequence[int] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    path: Path | str | None = None,
    on_event: Listener = silent,
) -> Adapted:
    """Dream a plain pool, teach a student, then round by round dream where the student still errs, and teach on.

    Args:
        teacher: A classifier of images; see `dream`.
        student: Takes the same images and returns logits of the same classes.
        teach: Called with (student, pool, round); returns the student taught on the pool. Must give the same result for
            the same arguments, or a killed run does not end as one that was not.
        lessons: What decides how `teach` teaches, as JSON values: a folder of other lessons is refused.
        counts: Dreams of each round, the first plain; at least one.
        disagree: Makes the term from the current student; `masked_disagreement_term` is the other one.
        weight: Of that term, >= 0. 0 makes every round plain: the control. At 1 a student recognizes hardly any dream,
            and learns less from them than from plain ones (docs/benchmarks/dream.md).
        term: What all dreams satisfy; None is the recipe, as in `dream`.
        image_shape: (c, h, w); the network's own where None.
        steps: Of each batch; None as in `dream`.
        batch_size: Images optimized together; None as in `dream`.
        seed: Decides all dreams.
        path: Run folder of banks and students; the same call goes on there after a kill. None keeps all in memory.
        on_event: Told of every step, and after each round.

    Raises:
        RangeError: No counts, or a negative weight.
        ShapeError: The student answers for other classes than the teacher, or one of them does not take such images.
        FolderInUse: `path` holds another loop or other files, or another process is writing to it.
        CorruptFile: A kept student is damaged.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> student = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> found = adaptive_dreams(body, student, teach=lambda student, pool, number: student, counts=[3, 2],
        ...                         image_shape=(1, 8, 8), steps=2)
        >>> [one.dreams + one.repeats for one in found.rounds]
        [3, 2]

    Fails when: the student is as good as the teacher: what it gets wrong is then what the teacher gets wrong too.
    Reference: Yin et al., 2020, arXiv:1912.08795, section 3.3. Differs: repeats are dropped from the pool.
    """
    if not counts or not weight >= 0:
        raise RangeError(f"the loop needs at least one count and a weight of at least 0, got {list(counts)}, {weight}")
    network, shape = _checked(teacher, student, image_shape)
    base = term or usual_term(network, shape, choose_statistics(network, image_shape=shape), single_label())
    question = {"counts": list(counts), "weight": weight, "seed": seed, "steps": steps, "batch_size": batch_size}
    question |= {
        "disagreement": [part.name for part in disagree(student).parts],
        **{f"lessons.{name}": value for name, value in (lessons or {}).items()},
    }
    question |= {"weights_sha256": sha256_network(teacher), "student_sha256": sha256_network(student)}
    with open_run(None if path is None else Path(path), verb="bank adapt", config=question) as run:
        banks: list[Bank] = []
        rounds: list[Round] = []
        for number, count in enumerate(counts):
            bank = dream(
                teacher,
                count=count,
                image_shape=image_shape,
                steps=steps,
                batch_size=batch_size,
                seed=derive_seed(seed, "adaptive", number),
                term=base + weight * disagree(student) if number and weight else base,
                path=run.file(f"bank-{number}"),
                on_event=on_event,
            )
            agrees = _agreement(student, bank) if number else None
            before = sum(one.dreams for one in rounds)
            banks.append(bank)
            pool = join_banks(banks)
            rounds.append(Round(len(pool) - before, count - len(pool) + before, agrees))
            kept = run.file(f"student-{number}.safetensors")
            student = _taught(student, pool.source(), number, teach=teach, kept=kept)
            on_event(Event("adaptive rounds", number + 1, len(counts)))
        found = Adapted(pool, student, tuple(rounds))
        run.finish(figures=found.figures())
        return found


def _checked(
    teacher: nn.Module, student: nn.Module, image_shape: Sequence[int] | None
) -> tuple[ImageNetwork, tuple[int, ...]]:
    """The teacher and the shape of its images; a student that cannot be compared is refused before anything is done."""
    network = as_network(teacher, image_shape)
    shape = checked_shape(network, image_shape)
    with preserved_rng():
        answers = [first_answer(one, shape, single_label()) for one in (network, as_network(student, shape))]
    theirs, ours = (answer.shape[1] for answer in answers)
    if theirs != ours:
        raise ShapeError(
            f"the teacher answers for {theirs} classes and the student for {ours}; both must know the same. "
            "Give the student a last layer with the teacher's classes."
        )
    return network, shape


def _taught(student: nn.Module, pool: Source, number: int, *, teach: Teach, kept: Path | None) -> nn.Module:
    """The student of a round: read where it was kept, else taught and kept."""
    if kept is not None and kept.exists():
        student = copy.deepcopy(student)
        try:
            student.load_state_dict(load(kept.read_bytes()))
        except (SafetensorError, RuntimeError) as error:
            raise CorruptFile(
                f"{kept} is not the student of this loop ({str(error).splitlines()[0]}). "
                "Delete the folder to start over."
            ) from error
        return student
    student = teach(student, pool, number)
    if kept is not None:
        write_bytes(kept, save(_tensors(student)))
    return student


def _agreement(student: nn.Module, bank: Bank) -> float:
    # In a Sequential, since dreams may be of another size than the one an image network is meant for.
    logits = predict(nn.Sequential(student), bank.source())
    return float((logits.argmax(1) == bank.labels).float().mean())


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
