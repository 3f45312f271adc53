"""`reverie dream`: images of what a network learned."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.loading import AS_STATED, Loading, load_network

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.dream import Bank
    from reverie.metrics import Share

__all__ = ["dream"]

PER_ROW = 10


def dream(
    model: str,
    /,
    *,
    out: Path,
    n: int = 64,
    size: int | None = None,
    steps: int = 250,
    judge: str | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Synthesize images that a network recognizes, from its weights alone.

    Writes a run folder with the bank and a picture, dreams.png; the same command again goes on where it stopped.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The run folder; new, empty, or of the same command.
        n: How many images.
        size: Height and width of the images; the network's own where this is not given.
        steps: Optimization steps per image; below 50 few images are finished.
        judge: A second network that says independently what it sees.
        seed: Same seed, same images.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    network = load_network(model, loading)
    channels, height, width = network.image_shape
    shape = (channels, height, width) if size is None else (channels, size, size)
    # Before the minutes of dreaming: a judge that does not load should not cost them.
    judging = None if judge is None else load_network(judge, Loading(image_shape=shape))
    asked = {"model": model, "judge": judge, "image_shape": list(shape)}
    config = {"n": n, "size": size, "steps": steps, "seed": seed}
    return _dreamed(network, judging, out, config, asked)


def _dreamed(
    network: "ImageNetwork", judge: "ImageNetwork | None", out: Path, config: dict[str, Any], asked: dict[str, Any]
) -> Answer:
    """Fill the run folder."""
    from reverie.core.digest import sha256_tensors
    from reverie.core.environment import environment
    from reverie.core.run_folder import open_run
    from reverie.core.store import read_json, write_json
    from reverie.dream import dream as dreamed
    from reverie.report.folder import DREAMS_FILE, RUN_FILE
    from reverie.report.picture import dream_grid, save_png

    config = {"weights_sha256": sha256_tensors(network.state_dict()), **config}
    with open_run(out, verb="dream", config=config), progress() as on_event:
        known = read_json(out / RUN_FILE).get("figures", {}).get("seconds")
        fresh = not (out / "bank").exists()
        began = time.monotonic()
        bank = dreamed(
            network,
            count=config["n"],
            image_shape=asked["image_shape"],
            steps=config["steps"],
            seed=config["seed"],
            path=out / "bank",
            on_event=on_event,
        )
        # A run that was killed has lost the time that its first part took.
        seconds = round(time.monotonic() - began, 2) if fresh else known
        picture = dream_grid(bank.images, bank.labels, class_names=network.class_names, per_row=PER_ROW)
        save_png(picture, out / DREAMS_FILE)
        figures = _figures(bank, judge) | {"seconds": seconds}
        run = {"format": 1, "verb": "dream", "config": config, "finished": True, "asked": asked}
        write_json(out / RUN_FILE, run | environment() | {"figures": figures})
    return Answer({"folder": str(out), **run, "figures": figures}, _shown(figures, asked["judge"], out / DREAMS_FILE))


def _figures(bank: "Bank", judge: "ImageNetwork | None") -> dict[str, Any]:
    from reverie.metrics import accuracy, duplicates, predict

    figures = {
        "count": len(bank),
        "teacher_agreement": _share_json(accuracy(bank.logits, bank.labels)),
        "judge_agreement": None,
        "duplicates": duplicates(bank.images),
    }
    if judge is not None:
        figures["judge_agreement"] = _share_json(accuracy(predict(judge, bank.source()), bank.labels))
    return figures


def _share_json(share: "Share") -> dict[str, float]:
    return {"value": share.value, "low": share.low, "high": share.high}


def _shown(figures: dict[str, Any], judge: str | None, picture: Path) -> tuple[str, ...]:
    from reverie.report.text import percent_text, seconds_text

    def share(found: dict[str, float]) -> str:
        value, low, high = (percent_text(found[part]) for part in ("value", "low", "high"))
        return f"{value} (95% interval {low} to {high})"

    took = "" if figures["seconds"] is None else f" in {seconds_text(figures['seconds'])}"
    lines = [
        f"{figures['count']} dreams{took}, as 8-bit images",
        f"the network sees the class asked for in {share(figures['teacher_agreement'])}",
    ]
    if judge is not None:
        lines.append(f"{judge} sees it in {share(figures['judge_agreement'])}")
    lines.append(f"near repeats of an earlier dream: {percent_text(figures['duplicates'])}")
    return (*lines, f"picture: {picture}")
