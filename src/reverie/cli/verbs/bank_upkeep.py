"""`reverie bank`: check finished banks, look at them, hand them on; and capture the moments that dreams should have."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.dreamt import answers, bank_folder, draw, how, undrawn
from reverie.cli.limits import at_least_one, check_files
from reverie.cli.loading import AS_STATED, Loading, load_network, own_images
from reverie.core.errors import ShapeError, VerificationFailed

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.dream import Bank

__all__ = ["capture", "export", "exported", "picture", "verify"]


def verify(bank: Path, /, *, model: str | None = None, loading: Loading = AS_STATED, manner: Manner = PLAIN) -> Answer:
    """Check a bank: every shard against the manifest, and, with its network, every stored answer.

    Args:
        bank: The bank's folder, or that of the run that dreamed it.
        model: The network it was dreamed of; its weights are compared, and its answers computed anew.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank
    from reverie.metrics import duplicates

    found = Bank.load(bank_folder(bank))
    found.verify()
    told = {"folder": str(bank), "count": len(found), "duplicates": duplicates(found.images), "answers_checked": False}
    told["how"] = how(found.config)
    if model is not None:
        network = _teacher(found, bank, model, loading)
        farthest = float((answers(found, network) - found.logits).abs().max())
        told |= {"answers_checked": True, "farthest_logit": farthest}
        if farthest > 1e-2:
            raise VerificationFailed(f"{model} answers the dreams of {bank} otherwise than stored: by {farthest:g}")
    checked = "shards and answers" if model is not None else "shards"
    lines = (
        f"{len(found)} dreams, {checked} as they were written",
        f"statistics to match: {found.config.get('statistics', 'not stated')}",
        f"near repeats of an earlier dream: {told['duplicates']:.2%}",
    )
    return Answer(told, lines)


def picture(
    bank: Path,
    /,
    *,
    out: Path,
    per_row: int = 10,
    model: str | None = None,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Draw a bank by class.

    Args:
        bank: The bank's folder, or that of the run that dreamed it.
        out: The PNG file.
        per_row: Dreams of a class that are shown, at least 1.
        model: The network it was dreamed of, for the names of its classes; numbers where this is not given.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank

    at_least_one(per_row=per_row)
    check_files(out=out)
    found = Bank.load(bank_folder(bank))
    if not draw(found, out, class_names=_class_names(found, bank, model, loading), per_row=per_row):
        raise ShapeError(undrawn(found))
    return Answer({"picture": str(out), "count": len(found)}, (f"picture: {out}",))


def export(
    bank: Path,
    /,
    *,
    out: Path,
    layout: Literal["folder", "webdataset"] = "folder",
    model: str | None = None,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Hand a bank to other programs.

    Args:
        bank: The bank's folder, or that of the run that dreamed it.
        out: A new folder.
        layout: PNG files in one folder per class, or tar files as webdataset reads them.
        model: The network it was dreamed of, for the names of its classes; numbers where this is not given.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank

    found = Bank.load(bank_folder(bank))
    written = exported(found, out, layout, _class_names(found, bank, model, loading), None)
    return Answer({"folder": str(out), "count": len(found), "written": written}, (f"{len(found)} dreams in {out}",))


def capture(model: str, /, *, images: str, out: Path, loading: Loading = AS_STATED, manner: Manner = PLAIN) -> Answer:
    """Measure the moments of a network's layers on real images once, and keep the moments instead of the images.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        images: zoo:fashion-mnist, a folder of image files, or an .npz file; labels are not read.
        out: The file of moments, for `reverie bank fill --statistics`.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import capture_statistics

    check_files(out=out)
    network = load_network(model, loading, any_axes=True)
    found = capture_statistics(network, own_images(images, network))
    found.save(out)
    told = {"file": str(out), "origin": found.origin, "layers": len(found.layers)}
    return Answer(told, (f"moments of {len(found.layers)} layers, {found.origin}: {out}",))


def exported(bank: "Bank", out: Path, layout: str, class_names: Any, labels: Any) -> int:  # noqa: ANN401  torch's types
    """Write a bank as other programs read it; how many files or images were written."""
    from reverie.dream import export_folder, export_webdataset

    if layout == "folder":
        export_folder(bank, out, class_names=class_names, labels=labels)
        return len(bank)
    return len(export_webdataset(bank, out, labels=labels))


def _teacher(found: "Bank", bank: Path, model: str, loading: Loading) -> "ImageNetwork":
    """The network that a bank was dreamed of, and no other."""
    from reverie.core.digest import sha256_network

    network = load_network(model, loading, any_axes=True)
    if sha256_network(network) != found.teacher_sha256:
        raise VerificationFailed(f"{bank} was dreamed of other weights, or another normalization, than {model} has")
    return network


def _class_names(found: "Bank", bank: Path, model: str | None, loading: Loading) -> tuple[str, ...]:
    return () if model is None else _teacher(found, bank, model, loading).class_names
