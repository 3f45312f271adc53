"""`reverie bank measure`: how good a bank's dreams are, by every figure that what is at hand allows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.dreamt import agreement, agreement_text, bank_folder, how
from reverie.cli.loading import AS_STATED, Loading, labeled_images, load_beside, load_network
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source

__all__ = ["measure"]

# How a figure is told; the share that the network sees is a line of its own, with its interval.
SAID = {
    "duplicates_share": "near repeats of an earlier dream: {:.2%}",
    "moment_error_deviations": "means differ from those stored by {:.3f} stored deviations",
    "moment_log_variance_error": "logarithms of variances differ from those stored by {:.3f}",
    "accuracy_kept_on_dreams_share": "accuracy kept where statistics are counted anew on the dreams: {:.1%}",
    "accuracy_kept_on_noise_share": "the same on noise: {:.1%}",
    "judge_score": "score in the judge, from 1 to its number of classes: {:.2f}",
    "judge_agreement_share": "the judge sees the class asked for in {:.2%}",
    "kernel_distance": "kernel distance to the real images in the judge's features: {:.4f}",
    "frechet_distance": "Fréchet distance likewise: {:.3f}",
    "coverage_share": "real images with a dream among their neighbors: {:.1%}",
    "relative_diversity": "diversity within classes, over that of the real images: {:.2f}",
}

Words = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)]


def measure(
    bank: Path,
    /,
    *,
    model: str | None = None,
    judge: str | None = None,
    real: str | None = None,
    layers: Words = (),
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Measure the dreams of a bank; docs/benchmarks/dream.md defines every figure.

    Alone it gives agreement and repeats.
    With --model also the fit of the stored moments, and with --judge what the judge sees, and the score in it.
    --model and --real add what of the accuracy is kept by batch norm counted anew on the dreams, and on noise.
    --judge and --real add distances and coverage in the judge's features; --layers, variety within classes.

    Args:
        bank: The bank's folder, or that of the run that dreamed it.
        model: The network it was dreamed of.
        judge: An independently trained network of the same images and classes.
        real: Real images with labels: zoo:fashion-mnist, a folder with one subfolder per class, or an .npz file.
        layers: Layers of the judge in which variety is measured, such as body.layer1 body.layer2 body.layer3.
        seed: Of the noise, and of the mix of dreams whose moments are taken.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank
    from reverie.metrics import duplicates

    if layers and (judge is None or real is None):
        raise RangeError("--layers are the judge's, and compare with real images: give --judge and --real as well")
    found = Bank.load(bank_folder(bank))
    agreed = agreement(found)
    figures: dict[str, float | None] = {
        "teacher_agreement_share": agreed["value"],
        "duplicates_share": duplicates(found.images),
    }
    source = found.source()
    network = None if model is None else load_network(model, loading, any_axes=True)
    if network is not None:
        figures |= _of_the_network(network, source, None if real is None else labeled_images(real, network), seed)
    if judge is not None:
        judging = load_beside(judge, loading, image_shape=found.images.shape[1:], first=network)
        figures |= _of_the_judge(judging, source, None if real is None else labeled_images(real, judging), layers)
    lines = [agreement_text(found.config, agreed)]
    lines += [SAID[name].format(value) for name, value in figures.items() if name in SAID and value is not None]
    told = {"folder": str(bank), "count": len(found), "how": how(found.config), "figures": figures}
    return Answer(told, tuple(lines))


def _of_the_network(
    network: "ImageNetwork", source: "Source", real: "Source | None", seed: int
) -> dict[str, float | None]:
    """What the network's batch normalization says of the dreams."""
    from reverie.core.source import noise_source
    from reverie.distill import reestimate_batch_norm
    from reverie.metrics import evaluate, moment_fit
    from reverie.metrics.stored_moments import stored_layers

    if not stored_layers(network):
        return {}
    fit = moment_fit(network, source, seed=seed)
    figures: dict[str, float | None] = {
        "moment_error_deviations": fit.mean_error,
        "moment_log_variance_error": fit.log_variance_error,
    }
    if real is not None:
        noise = noise_source(count=len(source), image_shape=network.image_shape, seed=seed)
        before = evaluate(network, real).accuracy.value
        for name, images in (("dreams", source), ("noise", noise)):
            again = evaluate(reestimate_batch_norm(network, images), real).accuracy.value
            figures[f"accuracy_kept_on_{name}_share"] = again / before if before else None
    return figures


def _of_the_judge(
    judge: "ImageNetwork", source: "Source", real: "Source | None", layers: tuple[str, ...]
) -> dict[str, float | None]:
    """What an independent network says of the dreams."""
    from reverie.metrics import (
        accuracy,
        coverage,
        features,
        frechet_distance,
        inception_score,
        kernel_distance,
        predict,
        relative_diversity,
    )

    logits = predict(judge, source)
    figures: dict[str, float | None] = {"judge_score": inception_score(logits)}
    if source.labels is not None:
        figures["judge_agreement_share"] = accuracy(logits, source.labels).value
    if real is None:
        return figures
    ours, theirs = features(judge, source), features(judge, real)
    figures["kernel_distance"] = kernel_distance(ours, theirs)
    figures["frechet_distance"] = frechet_distance(ours, theirs)
    figures["coverage_share"] = coverage(ours, theirs)
    if layers:
        figures["relative_diversity"] = relative_diversity(judge, source, real, layers)
    return figures
