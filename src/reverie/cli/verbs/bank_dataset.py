"""`reverie bank dataset`: a small data set of dreams with soft labels, for other programs."""

import shutil
from pathlib import Path
from typing import Literal

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreamt import how
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_network
from reverie.cli.verbs.bank_upkeep import exported

__all__ = ["dataset"]


def dataset(
    model: str,
    /,
    *,
    out: Path,
    per_class: int = 10,
    views: int = 20,
    steps: int = 200,
    layout: Literal["folder", "webdataset"] = "folder",
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Dream a small data set with soft labels for every view, and export it; goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The run folder; new, empty, or of the same command. OUT/made holds the banks, OUT/data the export.
        per_class: Images of each class, at least 1.
        views: Labeled random views of each image, at least 1: as many passes can be taught without the teacher.
        steps: Optimization steps per image, at least 1.
        layout: PNG files in one folder per class, or tar files as webdataset reads them.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.core.digest import sha256_network
    from reverie.core.run_folder import open_run
    from reverie.dream import distill_dataset

    at_least_one(per_class=per_class, views=views, steps=steps)
    network = load_network(model, loading, any_axes=True)
    asked = {"per_class": per_class, "views": views, "steps": steps, "layout": layout, "seed": seed}
    config = {"weights_sha256": sha256_network(network), **asked}
    data = out / "data"
    with open_run(out, verb="bank dataset", config=config) as run, progress() as on_event:
        bank, labels = distill_dataset(
            network, per_class=per_class, views=views, steps=steps, seed=seed, path=out / "made", on_event=on_event
        )
        if not data.exists():
            # Whole or not at all, as every file: a killed export is begun again beside its final name.
            half = out / ".data"
            shutil.rmtree(half, ignore_errors=True)
            exported(bank, half, layout, network.class_names, labels)
            half.rename(data)
        written = sum(entry.suffix in (".png", ".tar") for entry in data.rglob("*"))
        made = how(bank.config["joined"][0])
        found = {"count": len(bank), "views": len(labels.boxes), "written": written}
        run.finish(asked={"model": model}, how=made, figures=found)
    lines = (
        f"{len(bank)} images, {len(labels.boxes)} labeled views of each, in {data}",
        f"statistics to match: {made['statistics']}",
    )
    return Answer({"folder": str(out), **found, "how": made}, lines)
