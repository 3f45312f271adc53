"""The options of every verb that dreams: what is asked of the images, and how they are optimized."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from reverie.cli.limits import at_least_one
from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound, ShapeError

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.dream import Head, MakeCanvas, StatisticsSource, Term

__all__ = ["ANYTHING", "USUAL", "Asked", "Craft", "dream_arguments", "dream_head", "loaded_shape"]


@Parameter(name="*")
@dataclass(frozen=True)
class Asked:
    """What is asked of the images.

    Attributes:
        targets: "balanced" (as if not given), "random", classes in turn by number or name, or a file: .npy, .png, .npz.
        head: What the network answers: one class, several labels, a vector to match, or a class at every position.
        layer: The layer whose output --head embedding matches, such as body.layer3; not given: the network's answer.
    """

    targets: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)] = (
        "balanced",
    )
    head: Literal["single-label", "multi-label", "embedding", "dense-map"] = "single-label"
    layer: str | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class Craft:
    """How the images are optimized; a weight that is not given is the recipe's own.

    Attributes:
        recipe: "default" serves every network; "published" is DeepInversion with the paper's raw sums, to compare.
        steps: Optimization steps per image, at least 1; not given: 250, or as many as were published.
        stages: Resolutions from coarse to fine, at least 1; each has twice the sides of the one before, equal steps.
        learning_rate: Of each stage's first step, above 0; not given: fourier 0.05, pixels 0.1, deep-prior 0.01.
        canvas: What is optimized: the images' spectrum, their pixels, or an untrained network that draws them.
        augment: How images are varied: affine (shift, zoom, turn, mirror; the usual), shift and mirror, crop, none.
        statistics: auto (batch norm's, else calibrated), batch-norm, calibrated, none, or a file of bank capture.
        statistics_weight: Weight of matching statistics, at least 0; 5 in the default recipe, 0.2 for calibrated ones.
        first_weight: How many ordinary layers the first one counts for in the statistics, at least 0.
        smooth: Weight of smoothness (total variation), at least 0; not given: 1, or 10 without statistics.
        smooth_power: Power of differences between neighboring pixels, above 0: 2 gives smooth images, 1 flat areas.
        norm: Weight of staying near gray, at least 0; 0.001 in the default recipe.
        patches: Weight of patches that differ from each other, at least 0, for vision transformers; begin with 0.1.
    """

    recipe: Literal["default", "published"] = "default"
    steps: int | None = None
    stages: int = 1
    learning_rate: float | None = None
    canvas: Literal["fourier", "pixels", "deep-prior"] = "fourier"
    augment: Literal["affine", "shift", "crop", "none"] | None = None
    statistics: str = "auto"
    statistics_weight: float | None = None
    first_weight: float = 1.0
    smooth: float | None = None
    smooth_power: float = 2.0
    norm: float | None = None
    patches: float = 0.0


ANYTHING = Asked()
USUAL = Craft()


def loaded_shape(network: "ImageNetwork", side: int | None) -> tuple[int, ...]:
    """The shape of the images: the network's own, or of other sides."""
    if side is None:
        return tuple(network.image_shape)
    if side < 1:
        raise RangeError(f"--side is a number of pixels, at least 1; got {side}")
    return network.image_shape[0], *(side for _ in network.image_shape[1:])


def dream_arguments(
    network: "ImageNetwork", shape: tuple[int, ...], count: int, asked: Asked, craft: Craft
) -> dict[str, Any]:
    """The arguments of `reverie.dream.dream` that the options stand for.

    Raises:
        RangeError: Options that exclude each other, or a number out of its range.
        ReferenceNotFound: A class, a layer or a file that is not there.
        CorruptFile: A file that holds something else.
        ShapeError: Targets of another shape.
        StatisticsMissing: Statistics were asked for that the network lacks.
    """
    from reverie.dream import attention_layers, deep_image_prior

    _check(asked, craft)
    if craft.patches and not any(attention_layers(*named) for named in network.named_modules()):
        raise RangeError("--patches compares the patches of a vision transformer, and this network has no attention")
    network_asked = _answering(network, asked)
    arguments: dict[str, Any] = {
        "count": count,
        "image_shape": shape,
        "targets": _targets(network_asked, shape, count, asked),
        "head": dream_head(asked.head),
        "layer": asked.layer,
        "statistics": _source(craft.statistics, network, shape),
    }
    if craft.recipe == "published":
        return arguments | _published(network, shape, craft)
    canvas = _canvas(craft.canvas)
    if craft.stages > 1 and canvas is deep_image_prior:
        raise RangeError("--canvas deep-prior has one resolution: leave out --stages, or take fourier or pixels")
    return arguments | {
        "term": _term(network_asked, shape, arguments["head"], arguments["statistics"], craft),
        "canvas": canvas,
        **_stages(craft, canvas),
        "augment": _augment(craft.augment, shape, asked.head),
        "taps": attention_layers if craft.patches else None,
    }


def dream_head(name: str) -> "Head":
    """The head of a name, also as a bank's configuration writes it."""
    from reverie.dream import dense_map, embedding, multi_label, single_label

    heads = {
        "single-label": single_label,
        "multi-label": multi_label,
        "embedding": embedding,
        "dense-map": dense_map,
    }
    return heads[name.replace(" ", "-")]()


def _check(asked: Asked, craft: Craft) -> None:
    """Refuse what cannot go together, and numbers out of range, in the options' own words."""
    if asked.layer is not None and asked.head != "embedding":
        raise RangeError(f"--layer names features to match: it needs --head embedding, not {asked.head}")
    if craft.recipe == "published":
        own = ("canvas", "augment", "stages", "statistics_weight", "first_weight", "smooth", "smooth_power", "norm")
        changed = [name for name in (*own, "patches") if getattr(craft, name) != getattr(USUAL, name)]
        if changed:
            raise RangeError(f"--recipe published has its own {_option(changed[0])}: leave one of the two out")
        if asked.head != "single-label":
            raise RangeError(f"--recipe published asks for classes: it needs --head single-label, not {asked.head}")
    weights = ("statistics_weight", "first_weight", "smooth", "norm", "patches")
    for name in weights:
        value = getattr(craft, name)
        if value is not None and not value >= 0:
            raise RangeError(f"{_option(name)} is a weight, at least 0; got {value:g}")
    for name, value in (("smooth_power", craft.smooth_power), ("learning_rate", craft.learning_rate)):
        if value is not None and not value > 0:
            raise RangeError(f"{_option(name)} must be above 0, got {value:g}")
    at_least_one(steps=craft.steps, stages=craft.stages)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _answering(network: "ImageNetwork", asked: Asked) -> "ImageNetwork":
    from reverie.dream import answering

    return network if asked.layer is None else answering(network, asked.layer)


def _published(network: "ImageNetwork", shape: tuple[int, ...], craft: Craft) -> dict[str, Any]:
    """The published recipe, its stages in proportion where another number of steps was asked for."""
    from reverie.dream import published_recipe

    recipe = published_recipe(network, image_shape=shape)
    published = sum(stage.steps for stage in recipe.stages)
    steps = craft.steps or published
    stages = [
        replace(
            stage,
            steps=max(1, round(stage.steps * steps / published)),
            learning_rate=craft.learning_rate or stage.learning_rate,
        )
        for stage in recipe.stages
    ]
    return {"term": recipe.term, "canvas": recipe.canvas, "stages": stages}


def _canvas(name: str) -> "MakeCanvas":
    from reverie.dream import FourierCanvas, PixelCanvas, deep_image_prior

    canvases: dict[str, MakeCanvas] = {
        "fourier": FourierCanvas,
        "pixels": PixelCanvas.noise,
        "deep-prior": deep_image_prior,
    }
    return canvases[name]


def _stages(craft: Craft, canvas: "MakeCanvas") -> dict[str, Any]:
    """Several stages, or the numbers from which a dream makes its own."""
    from reverie.dream import halving_stages, usual_learning_rate
    from reverie.dream.dream import STEPS

    if craft.stages == 1:
        return {"steps": craft.steps, "learning_rate": craft.learning_rate}
    rate = usual_learning_rate(canvas) if craft.learning_rate is None else craft.learning_rate
    return {"stages": halving_stages(craft.stages, steps=craft.steps or STEPS, learning_rate=rate)}


def _augment(name: str | None, shape: tuple[int, ...], head: str) -> Any:  # noqa: ANN401  torch's types
    """None is the default, which each stage scales to its own size."""
    from reverie.core.augment import RandomAffine, ShiftAndFlip, still
    from reverie.dream import RandomCrop
    from reverie.dream.recipe import SHIFT_SHARE

    if name is None:
        return None
    if name != "none" and head == "dense-map":
        raise RangeError(f"--augment {name} moves what --head dense-map asks for at its place: leave it out")
    if name in ("affine", "crop") and len(shape) != 3:
        raise ShapeError(f"--augment {name} is for pictures (c, h, w), the network takes {shape}: take shift or none")
    if name == "affine":
        return RandomAffine(round(SHIFT_SHARE * min(shape[1:])))
    if name == "shift":
        return ShiftAndFlip(round(SHIFT_SHARE * min(shape[1:])))
    return RandomCrop(0.25) if name == "crop" else still


def _source(name: str, network: "ImageNetwork", shape: tuple[int, ...]) -> "StatisticsSource | None":
    from reverie.dream import BatchNormStatistics, NoStatistics, Statistics, calibrate_statistics

    if name == "auto":
        return None
    if name == "batch-norm":
        return BatchNormStatistics()
    if name == "none":
        return NoStatistics()
    if name == "calibrated":
        return calibrate_statistics(network, image_shape=shape)
    if not Path(name).exists():
        raise ReferenceNotFound(
            f"--statistics {name} is none of auto, batch-norm, calibrated and none, and no file of that name is there. "
            "Write one with reverie bank capture."
        )
    return Statistics.load(name)


def _term(
    network: "ImageNetwork",
    shape: tuple[int, ...],
    head: "Head",
    source: "StatisticsSource | None",
    craft: Craft,
) -> "Term | None":
    """None is the recipe's own; else the recipe's parts with the weights that were given."""
    from reverie.dream import choose_statistics, norm_term, patch_similarity_term, statistics_term, total_variation_term
    from reverie.dream.recipe import default_term, prior_term, usual_statistics_weight
    from reverie.dream.rehearsal import sees_statistics

    weights = ("statistics_weight", "first_weight", "smooth", "smooth_power", "norm", "patches")
    if all(getattr(craft, name) == getattr(USUAL, name) for name in weights):
        return None
    matched = source or choose_statistics(network, image_shape=shape)
    seen = sees_statistics(network, shape, matched)
    if not seen and (craft.statistics_weight or craft.first_weight != 1):
        given = "--statistics-weight" if craft.statistics_weight else "--first-weight"
        raise RangeError(f"{given} weighs statistics, and there are none with --statistics {craft.statistics}")
    usual = {part.name: part.weight for part in (default_term() if seen else prior_term()).parts}
    smooth = usual["total variation"] if craft.smooth is None else craft.smooth
    term = head.term + smooth * total_variation_term(power=craft.smooth_power)
    term += (usual["norm"] if craft.norm is None else craft.norm) * norm_term()
    if seen:
        weight = usual_statistics_weight(matched) if craft.statistics_weight is None else craft.statistics_weight
        term += weight * statistics_term(first_weight=craft.first_weight)
    return term + craft.patches * patch_similarity_term()


def _targets(network: "ImageNetwork", shape: tuple[int, ...], count: int, asked: Asked) -> Any:  # noqa: ANN401
    """A draw, classes, or a tensor."""
    from reverie.dream import balanced_targets, random_targets

    words = asked.targets
    draws = {("balanced",): balanced_targets, ("random",): random_targets}
    if words in draws:
        if asked.head != "single-label":
            example = {"multi-label": "--targets 0 3", "embedding": "--targets picture.png"}
            raise RangeError(
                f"--head {asked.head} does not know what to ask for. Give it: {example.get(asked.head, '')}"
                f"{' or ' if asked.head in example else ''}--targets targets.npy"
            )
        return draws[words]
    if len(words) == 1 and _names_a_file(words[0], network, asked.head):
        return _from_file(network, Path(words[0]), shape, count, asked)
    if asked.head == "embedding" and len(words) == 1 and words[0].startswith("zoo:"):
        return _features(network, words[0], shape, count)
    if asked.head in ("embedding", "dense-map"):
        raise RangeError(f"--head {asked.head} takes its targets from one file, got --targets {' '.join(words)}")
    return _classes(network, shape, count, asked)


def _names_a_file(word: str, network: "ImageNetwork", head: str) -> bool:
    """Whether a target is a file, by its ending; where no classes are asked for, whatever is there, as a folder."""
    from reverie.zoo.datasets import IMAGE_ENDINGS

    ends = Path(word).suffix.lower() in {".npy", ".npz", *IMAGE_ENDINGS}
    if head in ("single-label", "multi-label"):
        return ends and word not in network.class_names
    return ends or Path(word).exists()


def _classes(network: "ImageNetwork", shape: tuple[int, ...], count: int, asked: Asked) -> Any:  # noqa: ANN401
    """Class numbers or names in turn; of several labels those that every image should have."""
    import torch

    from reverie.dream.rehearsal import first_answer

    known = first_answer(network, shape, dream_head(asked.head)).shape[1]
    chosen = [_class(word, network.class_names, known) for word in asked.targets]
    if asked.head == "single-label":
        return [chosen[index % len(chosen)] for index in range(count)]
    labels = torch.zeros(count, known)
    labels[:, chosen] = 1
    return labels


def _class(word: str, names: tuple[str, ...], known: int) -> int:
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < known:
        return int(word)
    called = f" or one of {', '.join(names[:12])}" if names else ""
    raise RangeError(
        f"--targets {word} is no class: give balanced, random, a file, a number from 0 to {known - 1}{called}"
    )


def _from_file(network: "ImageNetwork", path: Path, shape: tuple[int, ...], count: int, asked: Asked) -> Any:  # noqa: ANN401
    import numpy as np
    import torch

    from reverie.dream.rehearsal import first_answer

    if not path.exists():
        raise ReferenceNotFound(f"no targets {path}: there is no such file")
    if path.suffix.lower() != ".npy":
        if asked.head != "embedding":
            raise RangeError(
                f"--targets {path} holds pictures, whose features --head embedding matches; got {asked.head}"
            )
        return _features(network, str(path), shape, count)
    try:
        read = np.load(path, allow_pickle=False)
        found = torch.from_numpy(read.astype(np.float32 if read.dtype.kind == "f" else np.int64))
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise CorruptFile(f"{path} cannot be read as an .npy file of numbers ({str(error)[:120]})") from error
    answer = first_answer(network, shape, dream_head(asked.head))
    one = {"single-label": 0, "dense-map": answer.ndim - 2}.get(asked.head, answer.ndim - 1)
    found = found[None] if found.ndim == one else found
    return _for_each(found, count, str(path))


def _features(network: "ImageNetwork", where: str, shape: tuple[int, ...], count: int) -> Any:  # noqa: ANN401
    """What the network, or its layer, makes of real images."""
    import torch

    from reverie.cli.loading import own_images
    from reverie.core.modes import frozen
    from reverie.zoo.datasets import IMAGE_ENDINGS

    if Path(where).suffix.lower() in IMAGE_ENDINGS:
        images = _picture(Path(where), shape)
    else:
        images = own_images(where, network).floats(slice(0, count))
    if tuple(images.shape[1:]) != shape:
        raise ShapeError(f"{where} holds images {tuple(images.shape[1:])}, the dreams are {shape}: resize one of them")
    with frozen(network), torch.no_grad():
        return _for_each(network(images.to(network.mean.device)).cpu(), count, where)


def _for_each(targets: Any, count: int, where: str) -> Any:  # noqa: ANN401
    """One for each image, or one for all."""
    if targets.ndim and len(targets) == 1:
        return targets.expand(count, *targets.shape[1:])
    if targets.ndim == 0 or len(targets) != count:
        raise ShapeError(
            f"{where} holds {len(targets) if targets.ndim else 'no list of'} targets for --n {count} images"
        )
    return targets


def _picture(path: Path, shape: tuple[int, ...]) -> Any:  # noqa: ANN401
    """(1, c, h, w) in [0, 1]."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ShapeError(f"{path} is a picture, the network takes {shape}; give its features as an .npy file")
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("L" if shape[0] == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFile(f"{path} cannot be read as an image ({error})") from error
    return torch.from_numpy(pixels).view(*pixels.shape[:2], shape[0]).permute(2, 0, 1)[None].float() / 255
