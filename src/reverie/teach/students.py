"""Where a student comes from: an architecture by reference, new or with weights, or slices of its teacher."""

import torch
from torch import nn

from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.core.network import ImageNetwork, build_origin
from reverie.core.rng import derive_seed, preserved_rng, seed_global
from reverie.distill import subclone
from reverie.zoo.load import load
from reverie.zoo.references import INITIAL, ArchitectureReference, ZooReference, parse

__all__ = ["start_student"]


def start_student(reference: str, teacher: ImageNetwork, *, seed: int = 0, from_teacher: bool = False) -> ImageNetwork:
    """The student of a reference, before its first lesson.

    `zoo:NAME` and `package.module:factory` are architectures here: they are built anew, with random weights. A
    reference with weights, and the folder of a run, keep theirs, and what they do not state is the teacher's. A new
    architecture takes the teacher's images and preprocessing; one of the zoo has its own.

    Args:
        reference: Which network.
        teacher: Says which images a new architecture takes.
        seed: Of the random weights.
        from_teacher: Whether a new student begins with slices of the teacher's weights; see `subclone`.

    Raises:
        ReferenceNotFound: Nothing is there; the message names what was looked for.
        RangeError: `from_teacher` for a student that brings weights.
        ShapeError: The architecture does not take the teacher's images, or none of the teacher's weights fit it.

    Example:
        >>> from reverie.zoo.load import load
        >>> teacher = load("zoo:fashion-resnet20")
        >>> student = start_student("reverie.zoo.networks:CifarVGG(stages=[[8]], in_channels=1)", teacher)
        >>> student.image_shape
        (1, 28, 28)
    """
    parsed = parse(reference)
    if isinstance(parsed, ArchitectureReference) and parsed.weights is None:
        named = load(
            f"{reference}@{INITIAL}",
            image_shape=teacher.image_shape,
            mean=teacher.mean.flatten().tolist(),
            std=teacher.std.flatten().tolist(),
        )
        named.class_names = teacher.class_names
    else:
        named = load(reference, like=teacher)
    new = isinstance(parsed, ZooReference) or (isinstance(parsed, ArchitectureReference) and parsed.weights is None)
    if not new:
        if from_teacher:
            raise RangeError(
                f"{reference} brings weights of its own, so it cannot begin with its teacher's. Leave from_teacher "
                "(--from-teacher) out, or name the architecture without weights."
            )
        return named
    student = _anew(named, reference, seed=seed)
    if not from_teacher:
        return student
    example = (torch.zeros(2, *teacher.image_shape) - teacher.mean) / teacher.std
    return student.with_body(subclone(teacher.body, student.body, example).network.eval())


def _anew(network: ImageNetwork, reference: str, *, seed: int) -> ImageNetwork:
    """The same architecture with the random weights of a seed."""
    if network.origin is None:
        raise ReferenceNotFound(f"{reference} does not say how it is built, so it cannot be built anew.")
    with preserved_rng():
        seed_global(derive_seed(seed, "student"))
        built: nn.Module = build_origin(network.origin)
    body = built.body if isinstance(built, ImageNetwork) else built
    return network.with_body(body.eval())
