"""`reverie bank fill|generate`: fill banks by two routes. What is done with finished ones is in `bank_upkeep`."""

from pathlib import Path
from typing import TYPE_CHECKING

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreaming import ANYTHING, USUAL, Asked, Craft, dream_arguments, loaded_shape
from reverie.cli.dreamt import agreement, agreement_text
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_network

if TYPE_CHECKING:
    from reverie.dream import Bank

__all__ = ["fill", "generate"]


def fill(
    model: str,
    /,
    *,
    out: Path,
    n: int = 256,
    side: int | None = None,
    asked: Asked = ANYTHING,
    craft: Craft = USUAL,
    batch_size: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Fill a bank with dreams; the same command in several processes shares the work, and goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The bank's folder; new, empty, or of the same command.
        n: How many dreams, at least 1.
        side: Every side of the images in pixels; the network's own where this is not given.
        asked: What is asked of the images.
        craft: How they are optimized.
        batch_size: Dreams that are optimized together, at least 1; not given: up to 128, fewer the larger they are.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import dream

    at_least_one(n=n, batch_size=batch_size)
    network = load_network(model, loading, any_axes=True)
    arguments = dream_arguments(network, loaded_shape(network, side), n, asked, craft)
    with progress() as on_event:
        bank = dream(network, **arguments, batch_size=batch_size, seed=seed, path=out, on_event=on_event)
    return _told(bank, out)


def generate(
    model: str,
    /,
    *,
    out: Path,
    n: int = 2048,
    warm_up: int = 100,
    steps: int = 5,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Fill a bank by a small generator: many dreams, a few steps each; goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The bank's folder; new, empty, or of the same command.
        n: How many dreams, at least 1.
        warm_up: Steps on the first batch, at least 1: they teach the generator to draw at all.
        steps: Steps on every later batch, at least 1.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import generate as generated

    at_least_one(n=n, warm_up=warm_up, steps=steps)
    network = load_network(model, loading, any_axes=True)
    with progress() as on_event:
        bank = generated(network, count=n, warm_up=warm_up, steps=steps, seed=seed, path=out, on_event=on_event)
    return _told(bank, out)


def _told(bank: "Bank", out: Path) -> Answer:
    found = agreement(bank)
    told = {"folder": str(out), "count": len(bank), "teacher_agreement": found, "config": dict(bank.config)}
    lines = (
        f"{len(bank)} dreams in {out}",
        agreement_text(bank.config, found),
        f"statistics to match: {bank.config['statistics']}",
    )
    return Answer(told, lines)
