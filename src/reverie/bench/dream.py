"""The figures of dreaming: what a step costs, what others see in dreams, and whether banks survive.

`docs/benchmarks/dream.md` says what each figure is. Those that need real images or judges that do not travel with the
package look for them in `data`; see `reverie.bench.dream_data`.
"""

from collections.abc import Callable, Mapping

from reverie.bench.dream_networks import NETWORKS, architecture_figures
from reverie.bench.dream_quality import (
    adaptive_figures,
    image_figures,
    inversion_figures,
    recovery_figures,
    student_figures,
)
from reverie.bench.dream_steps import gpu_figures, host_waits, memory_ratio, transformer_step
from reverie.bench.dream_survival import survival_figures
from reverie.bench.figure import Ask, Job, Measured, Question, at_least, at_most
from reverie.bench.steps import step_ratios
from reverie.core.errors import ReferenceNotFound
from reverie.core.events import Listener

__all__ = ["DREAM"]

PASSES = "bare passes"
LITE0 = "zoo:imagenet-efficientnet-lite0"


def _question(name: str, unit: str, ask: Ask | None = None) -> Question:
    return Question(name, unit, ask, f"reverie bench dream --only {name}")


def _whole(
    job: Callable[[Listener], Mapping[str, Measured]], *names: str
) -> Callable[[Listener], Mapping[str, Measured]]:
    """A job that says so where a network that it needs is not installed."""

    def run(on_event: Listener) -> Mapping[str, Measured]:
        found = job(on_event)
        missing = [name for name in names if name not in found]
        if missing:
            raise ReferenceNotFound(f"{', '.join(missing)}: not installed; measured {_shown(found)}")
        return found

    return run


def _shown(found: Mapping[str, Measured]) -> str:
    return ", ".join(f"{name} {measured.value:.4g}" for name, measured in found.items())


DREAM: tuple[Job, ...] = (
    Job(
        (_question("cifar-step", PASSES, at_most(0.8)), _question("cifar-step-textbook", PASSES)),
        step_ratios("zoo:cifar10-resnet20", batch=128, names="cifar-step"),
    ),
    Job(
        (_question("imagenet-step", PASSES, at_most(0.9)), _question("imagenet-step-textbook", PASSES)),
        step_ratios(LITE0, batch=8, size=224, names="imagenet-step"),
    ),
    Job(
        (_question("vit-step", PASSES, at_most(1.1)), _question("vit-step-float32", PASSES, at_most(1.1))),
        transformer_step,
    ),
    Job(
        (_question("cifar-memory", PASSES, at_most(1.1)), _question("cifar-resident", PASSES)),
        memory_ratio("zoo:cifar10-resnet20", batch=128, size=32, name="cifar"),
    ),
    Job(
        (_question("imagenet-memory", PASSES, at_most(1.1)), _question("imagenet-resident", PASSES)),
        memory_ratio(LITE0, batch=8, size=224, name="imagenet"),
    ),
    Job((_question("host-waits", "per step", at_most(0)),), host_waits),
    Job(
        (
            _question("dreams-time", "s", at_most(180)),
            _question("dreams-teacher", "share"),
            _question("dreams-judges", "share", at_least(0.97)),
            _question("dreams-diversity", "of real images'", at_least(0.8)),
            _question("kernel-share", "of the textbook's", at_most(0.5)),
            _question("dreams-kernel", "squared distance"),
            _question("textbook-kernel", "squared distance"),
            _question("real-kernel", "squared distance"),
            _question("dreams-frechet", "squared distance"),
            _question("textbook-frechet", "squared distance"),
            _question("dreams-coverage", "share"),
            _question("textbook-coverage", "share"),
            _question("dreams-score", "classes"),
            _question("textbook-score", "classes"),
            _question("textbook-judges", "share"),
            _question("dreams-moment-fit", "deviations"),
            _question("dreams-duplicates", "share"),
        ),
        image_figures,
    ),
    Job(
        (
            _question("architectures", "networks", at_least(8)),
            *(_question(f"agreement-{name}", "share", at_least(0.99)) for name in NETWORKS),
        ),
        _whole(architecture_figures, *(f"agreement-{name}" for name in NETWORKS)),
    ),
    Job(
        (
            _question("recovery-dreams", "of the accuracy", at_least(0.95)),
            _question("recovery-noise", "of the accuracy", at_most(0.6)),
        ),
        recovery_figures,
    ),
    Job(
        (_question("adaptive-gain", "points", at_least(1.0)), _question("adaptive-plain", "points of 100")),
        adaptive_figures,
    ),
    Job(
        (
            _question("student-dreams", "share"),
            _question("student-real", "share"),
            _question("student-share", "of real images'"),
        ),
        student_figures,
    ),
    Job(
        (
            _question("inversion-stage1", "share", at_least(0.9)),
            _question("inversion-stage2", "share", at_least(0.9)),
            _question("inversion-stage3", "share"),
            *(_question(f"inversion-stage{place}-direct", "share") for place in (1, 2, 3)),
        ),
        inversion_figures,
    ),
    Job((_question("killed-and-whole", "of 20", at_least(20)),), survival_figures),
    Job((_question("gpu-step", PASSES, at_most(1.1)), _question("gpu-images", "images per s")), gpu_figures),
)
