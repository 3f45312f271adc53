"""`reverie dream`: images of what a network learned."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreaming import ANYTHING, USUAL, Asked, Craft, dream_arguments, loaded_shape
from reverie.cli.dreamt import agreement, agreement_text, draw, how, undrawn
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_beside, load_network
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.dream import Bank

__all__ = ["dream"]


def dream(
    model: str,
    /,
    *,
    out: Path,
    n: int = 64,
    side: int | None = None,
    asked: Asked = ANYTHING,
    craft: Craft = USUAL,
    judge: str | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Synthesize images that a network recognizes, from its weights alone.

    Writes a run folder with the bank and a picture, dreams.png; the same command again goes on where it stopped.
    Other ways to dream, and what to do with a bank: reverie bank --help.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The run folder; new, empty, or of the same command.
        n: How many images, at least 1.
        side: Every side of the images in pixels; the network's own where this is not given.
        asked: What is asked of the images.
        craft: How they are optimized.
        judge: A second network that says independently what it sees; it takes the same images and classes.
        seed: Same seed, same images.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    if judge is not None and asked.head != "single-label":
        raise RangeError(f"--judge compares classes: it needs --head single-label, not {asked.head}")
    at_least_one(n=n)
    network = load_network(model, loading, any_axes=True)
    shape = loaded_shape(network, side)
    # Before the minutes of dreaming: a judge that does not load should not cost them.
    judging = None if judge is None else load_beside(judge, loading, image_shape=shape, first=network)
    arguments = dream_arguments(network, shape, n, asked, craft)
    # Where nothing unusual is asked, a run is known by the same few words as ever.
    unusual = {
        name: value
        for options, usual in ((asked, ANYTHING), (craft, USUAL))
        for name, value in asdict(options).items()
        if value != getattr(usual, name)
    }
    config = {"n": n, "side": side, "steps": craft.steps, "seed": seed, **_plain(unusual)}
    said = {"model": model, "judge": judge, "image_shape": list(shape)}
    return _dreamed(network, judging, out, config, said, arguments | {"seed": seed})


def _dreamed(
    network: "ImageNetwork",
    judge: "ImageNetwork | None",
    out: Path,
    config: dict[str, Any],
    asked: dict[str, Any],
    arguments: dict[str, Any],
) -> Answer:
    """Fill the run folder."""
    from reverie.core.digest import sha256_network
    from reverie.core.run_folder import RUN_FILE, open_run
    from reverie.core.store import read_json
    from reverie.dream import dream as dreamed
    from reverie.report.folder import DREAMS_FILE

    config = {"weights_sha256": sha256_network(network), **config}
    with open_run(out, verb="dream", config=config) as run, progress() as on_event:
        known = read_json(out / RUN_FILE).get("figures", {}).get("seconds")
        fresh = not (out / "bank").exists()
        began = time.monotonic()
        bank = dreamed(network, **arguments, path=out / "bank", on_event=on_event)
        # A run that was killed has lost the time that its first part took.
        seconds = round(time.monotonic() - began, 2) if fresh else known
        picture = out / DREAMS_FILE
        drawn = draw(bank, picture, class_names=network.class_names)
        figures = _figures(bank, judge) | {"seconds": seconds}
        record = run.finish(asked=asked, how=how(bank.config), figures=figures)
    last = f"picture: {picture}" if drawn else undrawn(bank)
    shown = _shown(bank, figures, asked["judge"])
    return Answer({"folder": str(out), **record}, (*shown, last))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _figures(bank: "Bank", judge: "ImageNetwork | None") -> dict[str, Any]:
    from reverie.metrics import accuracy, duplicates, predict

    figures = {
        "count": len(bank),
        "teacher_agreement": agreement(bank),
        "judge_agreement": None,
        "duplicates": duplicates(bank.images),
    }
    if judge is not None:
        found = accuracy(predict(judge, bank.source()), bank.labels)
        figures["judge_agreement"] = {"value": found.value, "low": found.low, "high": found.high}
    return figures


def _shown(bank: "Bank", figures: dict[str, Any], judge: str | None) -> tuple[str, ...]:
    from reverie.report.text import percent_text, seconds_text

    took = "" if figures["seconds"] is None else f" in {seconds_text(figures['seconds'])}"
    lines = [
        f"{figures['count']} dreams{took}, as 8-bit images",
        f"statistics to match: {bank.config['statistics']}",
        agreement_text(bank.config, figures["teacher_agreement"]),
    ]
    if judge is not None:
        lines.append(agreement_text(bank.config, figures["judge_agreement"], who=judge))
    lines.append(f"near repeats of an earlier dream: {percent_text(figures['duplicates'])}")
    return tuple(lines)
