"""One row per public method: how to build a tiny network for it, how to call it, how it can be made to fail.

`tests/test_cases.py` runs every row through what every method owes its caller. A new method adds a row and is held to
all of that.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.compress import Compressed, compress
from reverie.compress.importance import (
    gate_scores,
    magnitude_scores,
    oracle_changes,
    parameter_scores,
    reconstruction_scores,
    second_order_scores,
)
from reverie.compress.prune import prune
from reverie.compress.ridge import refit
from reverie.core.edit import Bypass, Keep, Record, replay
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, Origin
from reverie.core.precision import choose_precision
from reverie.core.rng import generator, preserved_rng
from reverie.core.source import Source, noise_source
from reverie.core.tap import tap
from reverie.cost.count import count
from reverie.cost.onnx import export_onnx
from reverie.distill import Candidate, Views, distill, distill_blocks, reestimate_batch_norm, stage_matches, subclone
from reverie.dream import (
    Bank,
    PixelCanvas,
    ShiftAndFlip,
    adaptive_dreams,
    answering,
    attention_layers,
    calibrate_statistics,
    capture_statistics,
    choose_statistics,
    default_term,
    disagreement_term,
    distill_dataset,
    dream,
    generate,
    halving_stages,
    masked_disagreement_term,
    moments,
    optimize,
    optimize_stages,
    published_recipe,
    published_term,
    recover_codes,
    refine_inversion,
    soft_labels,
    train_inverter,
)
from reverie.dream.published import CIFAR
from reverie.graph import (
    bypass,
    certify,
    cut,
    cut_optimizer,
    fold_constants,
    masked,
    permute,
    probe,
    record,
    surviving,
)
from reverie.metrics import features, layer_features, moment_fit, relative_diversity, within_class_diversity
from reverie.metrics.evaluate import evaluate, predict
from reverie.report.inspection import inspect
from reverie.teach import Taught, start_student, teach
from reverie.zoo.load import load
from reverie.zoo.networks import CifarResNet
from reverie.zoo.runs import save

IMAGE_SHAPE = (1, 8, 8)
CLASSES = 4
EXAMPLE = torch.zeros(2, *IMAGE_SHAPE)
KEPT = {"body.stem": [0, 2, 3], "body.block.inner": [1, 4]}


class Injected(Exception):
    """The failure that a test makes happen."""


class Block(nn.Module):
    """A residual block: two convolutions with batch normalization, added to what came in."""

    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, inside, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(inside)
        self.outer = nn.Conv2d(inside, channels, 3, padding=1)
        self.outer_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.inner_norm(self.inner(x)))
        return F.relu(self.outer_norm(self.outer(inner)) + x)


class TinyResidual(nn.Module):
    """A stem, one residual block, one convolution without normalization, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.block = Block(6, 5)
        self.last = nn.Conv2d(6, 7, 3, stride=2)
        self.linear = nn.Linear(7, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block(F.relu(self.stem_norm(self.stem(images))))
        return self.linear(F.relu(self.last(x)).mean(dim=(2, 3)))


def tiny_network(seed: int = 0) -> ImageNetwork:
    """The network of most rows: 8x8 gray images, 4 classes, evaluation mode."""
    with preserved_rng():
        body, rng = TinyResidual(), generator(seed, "tiny network")
    with torch.no_grad():
        for name, tensor in body.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
            elif tensor.is_floating_point():
                fan_in = max(1, tensor[0].numel())
                tensor.copy_(torch.randn(tensor.shape, generator=rng) / fan_in**0.5)
    network = ImageNetwork(
        body, image_shape=IMAGE_SHAPE, mean=[0.5], std=[0.25], origin=Origin("cases:TinyResidual", {})
    )
    return network.eval()


def wide_network() -> ImageNetwork:
    """Wide enough that fewer channels are worth choosing: 12x12 gray images, 4 classes, evaluation mode."""
    arguments = {"blocks": 1, "widths": [16, 32], "in_channels": 1, "num_classes": CLASSES}
    with preserved_rng():
        torch.manual_seed(0)
        body = CifarResNet(**arguments)
    return ImageNetwork(
        body, image_shape=(1, 12, 12), origin=Origin("reverie.zoo.networks:CifarResNet", arguments)
    ).eval()


def tiny_source(seed: int = 0, *, count: int = 24) -> Source:
    """Noise with labels."""
    images = noise_source(count=count, image_shape=IMAGE_SHAPE, seed=seed).images
    return Source("tiny", images, torch.arange(count) % CLASSES)


@dataclass(frozen=True)
class Use:
    """What a call is given beside its network."""

    folder: Path
    seed: int = 0
    on_event: Listener = silent


Call = Callable[[Any, Use], Any]
Failure = Callable[["Case", nn.Module, Use], None]


@dataclass(frozen=True)
class Case:
    """One public method.

    Attributes:
        name: Its dotted name: the package's, then the function's.
        call: Calls it.
        failures: Ways to make it fail half-way, by name; each raises.
        network: Builds the network that is watched.
        seeded: Whether the result depends on `Use.seed`.
        nightly: Whether a call takes seconds, so that its laws are checked at night.
        essence: The part of the result that must repeat, where times are part of it.
        reports: Whether it tells `Use.on_event` how far it is.
    """

    name: str
    call: Call
    failures: Mapping[str, Failure]
    network: Callable[[], nn.Module] = tiny_network
    seeded: bool = False
    reports: bool = False
    nightly: bool = False
    essence: Callable[[Any], Any] = lambda result: result

    def __str__(self) -> str:
        return self.name


def in_listener(case: Case, model: nn.Module, use: Use) -> None:
    """The caller's listener raises."""

    def listen(event: Event) -> None:
        raise Injected(event.stage)

    case.call(model, Use(use.folder, use.seed, listen))


def in_forward(case: Case, model: nn.Module, use: Use) -> None:
    """The network raises the second time that its last layer is reached, or the first where it is reached once."""
    _trip(case, model, use, Injected)


def interrupted(case: Case, model: nn.Module, use: Use) -> None:
    """The person at the keyboard interrupts while the network runs."""
    _trip(case, model, use, KeyboardInterrupt)


def by(call: Call) -> Failure:
    """Another call, with something wrong in it."""

    def fail(case: Case, model: nn.Module, use: Use) -> None:
        call(model, use)

    return fail


def _trip(case: Case, model: nn.Module, use: Use, failure: type[BaseException]) -> None:
    # Set by the test on a hook that the model already wears, so that the trap itself is no change.
    WIRE.failure = failure
    try:
        case.call(model, use)
    finally:
        WIRE.failure = None


class Wire:
    """A forward hook that raises when it is armed."""

    failure: type[BaseException] | None = None

    def __call__(self, *_: object) -> None:
        if self.failure is not None:
            raise self.failure

    def __deepcopy__(self, memo: object) -> "Wire":
        return self


WIRE = Wire()
RUNS: Mapping[str, Failure] = {"in forward": in_forward, "interrupted": interrupted}
LISTENS: Mapping[str, Failure] = {"in listener": in_listener}
CUT = Record(
    (
        Keep(
            {
                "body.block.inner.weight": {0: (0, 3)},
                "body.block.inner.bias": {0: (0, 3)},
                **{
                    f"body.block.inner_norm.{name}": {0: (0, 3)}
                    for name in ("weight", "bias", "running_mean", "running_var")
                },
                "body.block.outer.weight": {1: (0, 3)},
            },
            {
                "body.block.inner.out_channels": 2,
                "body.block.inner_norm.num_features": 2,
                "body.block.outer.in_channels": 2,
            },
        ),
        Bypass(("body.last",)),
    )
)


def _inside(borrow: Callable[[nn.Module], Any]) -> Call:
    def call(model: nn.Module, use: Use) -> Tensor:
        with borrow(model), torch.no_grad():
            return torch.as_tensor(model(tiny_source().floats()).shape)

    return call


def _frozen_and_tapped(model: nn.Module) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(frozen(model))
    stack.enter_context(tap(model, nn.Conv2d))
    return stack


def _with(change: Callable[..., Any], wrong: Any) -> Failure:
    return by(lambda model, use: change(model, probe(model, EXAMPLE), wrong))


def _cut_optimizer(model: nn.Module, use: Use, made: Record | None = None) -> Any:
    steps = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        steps.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    small, found = cut(model, probe(model, EXAMPLE), KEPT)
    # What another record would do to the state does not fit this network.
    return cut_optimizer(steps, model, small, found if made is None else made + made).state_dict()


def _distill(teacher: nn.Module, student: nn.Module, use: Use) -> Any:
    return distill(
        teacher, student, tiny_source(), steps=4, batch_size=8, views=Views(), seed=use.seed, on_event=use.on_event
    )


def _distill_blocks(teacher: nn.Module, use: Use) -> Any:
    with preserved_rng():
        torch.manual_seed(0)
        block = Block(6, 2)
    candidates = [Candidate("body.block", block)]
    return distill_blocks(
        teacher, candidates, tiny_source(), steps=3, batch_size=8, views=Views(), seed=use.seed, on_event=use.on_event
    )


def _moments(model: nn.Module, use: Use) -> list[Tensor]:
    with frozen(model), torch.no_grad(), moments(model) as seen:
        model(tiny_source().floats())
        return [tensor for one in seen for tensor in (one.mean, one.variance)]


def _optimize(model: nn.Module, use: Use) -> Any:
    canvas = PixelCanvas(tiny_source().floats(slice(0, 4)))
    targets = torch.arange(4) % CLASSES
    return optimize(
        model,
        canvas,
        term=default_term(),
        targets=targets,
        steps=3,
        augment=ShiftAndFlip(1),
        seed=use.seed,
        on_event=use.on_event,
    )


def _in_stages(model: nn.Module, use: Use) -> Any:
    return optimize_stages(
        model,
        PixelCanvas.noise,
        range(4),
        IMAGE_SHAPE,
        stages=halving_stages(2, steps=4),
        augment=lambda _: ShiftAndFlip(1),
        term=default_term(),
        targets=torch.arange(4) % CLASSES,
        seed=use.seed,
        on_event=use.on_event,
    )


def _answer_of_a_layer(model: ImageNetwork, use: Use) -> Tensor:
    with torch.no_grad(), frozen(model):
        return answering(model, "body.block")(tiny_source().floats())


def _dream(model: nn.Module, use: Use) -> Bank:
    return dream(model, count=6, steps=3, batch_size=4, seed=use.seed, on_event=use.on_event)


def _dream_on_disk(model: nn.Module, use: Use) -> Bank:
    return dream(model, count=6, steps=3, batch_size=4, seed=use.seed, path=use.folder, on_event=use.on_event)


def _adapt(teacher: nn.Module, student: nn.Module, use: Use) -> Any:
    def teach(student: nn.Module, pool: Source, number: int) -> nn.Module:
        return student

    found = adaptive_dreams(teacher, student, teach=teach, counts=[3, 3], steps=2, seed=use.seed, on_event=use.on_event)
    return _of_bank(found.pool)


def _tiny_bank() -> Bank:
    images = tiny_source().images
    labels = torch.arange(len(images)) % CLASSES
    return Bank(images, labels, torch.zeros(len(images), CLASSES), torch.arange(len(images)), {})


def _of_bank(bank: Bank) -> list[Tensor]:
    return [bank.images, bank.labels, bank.logits, bank.seeds]


def _compress(model: nn.Module, use: Use) -> Compressed:
    source = noise_source(count=96, image_shape=(1, 12, 12), seed=0)
    return compress(
        model,
        macs="60%",
        source=source,
        teach_steps=3,
        control=False,
        threads=1,
        seed=use.seed,
        on_event=use.on_event,
    )


def _teach(teacher: nn.Module, student: nn.Module, use: Use) -> Taught:
    source = noise_source(count=96, image_shape=IMAGE_SHAPE, seed=0)
    return teach(teacher, [student], source=source, teach_steps=3, control=False, seed=use.seed, on_event=use.on_event)


def _of_taught(result: Taught) -> Any:
    return result.network, result.lines


def _saved(model: ImageNetwork, use: Use) -> list[Path]:
    save(model, use.folder, record=Record())
    return sorted(use.folder.iterdir())


def _scores(kind: Callable[..., Any]) -> Call:
    def call(model: ImageNetwork, use: Use) -> list[Tensor]:
        found = kind(model, probe(model.body, EXAMPLE), tiny_source(), seed=use.seed, on_event=use.on_event)
        return [scored.value for scored in found.values()]

    return call


def _oracle(model: ImageNetwork, use: Use) -> list[Tensor]:
    found = oracle_changes(model, probe(model.body, EXAMPLE), tiny_source(), on_event=use.on_event)
    return [scored.value for scored in found.values()]


def _refit(model: ImageNetwork, use: Use) -> nn.Module:
    kept = {"block.inner": [0, 2, 4], "stem": [0, 1, 3, 5]}
    body, record = cut(model.body, probe(model.body, EXAMPLE), kept)
    return refit(model, model.with_body(body), record, tiny_source(), seed=use.seed, on_event=use.on_event)


def _prune(model: ImageNetwork, use: Use) -> Any:
    source = noise_source(count=48, image_shape=(1, 12, 12), seed=0)
    found = prune(model, source, macs="60%", step=4, on_event=use.on_event)
    return found.plan, found.record, found.network


CASES: tuple[Case, ...] = (
    Case("compress.gate_scores", _scores(gate_scores), {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case("compress.second_order_scores", _scores(second_order_scores), {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case("compress.parameter_scores", _scores(parameter_scores), {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case(
        "compress.magnitude_scores",
        lambda model, use: [one.value for one in magnitude_scores(model, probe(model.body, EXAMPLE)).values()],
        {},
    ),
    Case(
        "compress.reconstruction_scores",
        _scores(reconstruction_scores),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
    ),
    Case("compress.oracle_changes", _oracle, {**RUNS, **LISTENS}, reports=True),
    Case("compress.refit", _refit, {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case("compress.prune", _prune, {**RUNS, **LISTENS}, network=wide_network, reports=True, nightly=True),
    Case(
        "core.replay",
        lambda model, use: replay(CUT, model),
        {"bad record": by(lambda model, use: replay(CUT + Record((Bypass(("absent",)),)), model))},
    ),
    Case("core.frozen", _inside(frozen), RUNS),
    Case("core.tap", _inside(_frozen_and_tapped), RUNS),
    Case("graph.record", lambda model, use: [call.op for call in record(model, EXAMPLE).calls], RUNS),
    Case("graph.probe", lambda model, use: probe(model, EXAMPLE), RUNS),
    Case(
        "graph.certify",
        lambda model, use: certify(model, probe(model, EXAMPLE), EXAMPLE, seed=use.seed),
        RUNS,  # a proof is random inside, and its verdict is not: so not seeded
    ),
    Case(
        "graph.cut",
        lambda model, use: cut(model, probe(model, EXAMPLE), KEPT),
        {"no group": _with(cut, {"absent": [0]})},
    ),
    Case("graph.cut_optimizer", _cut_optimizer, {"no record": by(lambda model, use: _cut_optimizer(model, use, CUT))}),
    Case(
        "graph.fold_constants",
        lambda model, use: fold_constants(model, probe(model, EXAMPLE), KEPT, EXAMPLE),
        {"no group": _with(lambda *given: fold_constants(*given, EXAMPLE), {"absent": [0]}), **RUNS},
    ),
    Case(
        "graph.masked",
        lambda model, use: masked(model, probe(model, EXAMPLE), KEPT),
        {"no group": _with(masked, {"x": [0]})},
    ),
    Case(
        "graph.surviving",
        lambda model, use: surviving(model, cut(model, probe(model, EXAMPLE), KEPT)[1], EXAMPLE),
        RUNS,
    ),
    Case(
        "graph.permute",
        lambda model, use: permute(model, probe(model, EXAMPLE), {"body.block.inner": [4, 3, 2, 1, 0]}),
        {"no group": _with(permute, {"absent": [0]})},
    ),
    Case(
        "graph.bypass",
        lambda model, use: bypass(model, probe(model, EXAMPLE), ["body.block"]),
        {"no branch": _with(bypass, ["body.last"])},
    ),
    Case("metrics.predict", lambda model, use: predict(model, tiny_source(), batch_size=7), RUNS),
    Case("metrics.evaluate", lambda model, use: evaluate(model, tiny_source()), RUNS),
    Case("metrics.features", lambda model, use: features(model, tiny_source(), batch_size=7), RUNS),
    Case("metrics.layer_features", lambda model, use: layer_features(model, tiny_source(), ["body.last"]), RUNS),
    Case("metrics.moment_fit", lambda model, use: moment_fit(model, tiny_source(), seed=use.seed), RUNS),
    Case(
        "metrics.within_class_diversity",
        lambda model, use: within_class_diversity(model, tiny_source(), ["body.last"]),
        RUNS,
    ),
    Case(
        "metrics.relative_diversity",
        lambda model, use: relative_diversity(model, tiny_source(), tiny_source(1), ["body.last"]),
        RUNS,
    ),
    Case("distill.reestimate_batch_norm", lambda model, use: reestimate_batch_norm(model, tiny_source()), RUNS),
    Case(
        "distill.distill",
        lambda teacher, use: _distill(teacher, tiny_network(1), use),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
    ),
    Case(
        "distill.distill",
        lambda student, use: _distill(tiny_network(1), student, use),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
    ),
    Case(
        "distill.distill_blocks",
        lambda teacher, use: _distill_blocks(teacher, use),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
    ),
    Case("distill.stage_matches", lambda teacher, use: stage_matches(teacher, tiny_network(1), EXAMPLE), RUNS),
    Case("distill.stage_matches", lambda student, use: stage_matches(tiny_network(1), student, EXAMPLE), RUNS),
    Case("distill.subclone", lambda teacher, use: subclone(teacher, tiny_network(1), EXAMPLE), RUNS),
    Case("distill.subclone", lambda student, use: subclone(tiny_network(1), student, EXAMPLE), {}),
    Case("cost.count", lambda model, use: count(model, EXAMPLE), RUNS),
    Case("cost.export_onnx", lambda model, use: export_onnx(model), RUNS, nightly=True),
    Case("dream.moments", _moments, RUNS),
    Case("core.choose_precision", lambda model, use: str(choose_precision(model)), {}),
    Case(
        "dream.recover_codes",
        # Any network is a generator of whatever it makes.
        lambda model, use: recover_codes(
            model,
            torch.ones(3, CLASSES),
            codes=torch.full((3, *IMAGE_SHAPE), 0.5),
            steps=2,
            on_event=use.on_event,
        ),
        LISTENS,
        reports=True,
    ),
    Case("dream.published_term", lambda model, use: published_term(model, weights=CIFAR).describe(), {}),
    Case(
        "dream.published_recipe",
        lambda model, use: repr(published_recipe(model, image_shape=IMAGE_SHAPE)),
        {},
    ),
    Case("dream.answering", _answer_of_a_layer, RUNS),
    Case("dream.optimize_stages", _in_stages, {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case("dream.attention_layers", lambda model, use: attention_layers("", model), {}),
    Case("dream.capture_statistics", lambda model, use: capture_statistics(model, tiny_source()).layers, RUNS),
    Case(
        "dream.calibrate_statistics",
        lambda model, use: calibrate_statistics(model, image_shape=IMAGE_SHAPE, count=4, seed=use.seed).layers,
        RUNS,
        seeded=True,
    ),
    Case("dream.choose_statistics", lambda model, use: choose_statistics(model, image_shape=IMAGE_SHAPE).origin, {}),
    Case("dream.disagreement_term", lambda model, use: disagreement_term(model).describe(), {}),
    Case("dream.masked_disagreement_term", lambda model, use: masked_disagreement_term(model).describe(), {}),
    Case(
        "dream.adaptive_dreams",
        lambda teacher, use: _adapt(teacher, tiny_network(1), use),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=False,
    ),
    Case(
        "dream.adaptive_dreams",
        lambda student, use: _adapt(tiny_network(1), student, use),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=False,
    ),
    Case(
        "dream.generate",
        lambda model, use: generate(
            model, count=6, warm_up=2, steps=1, batch_size=4, seed=use.seed, on_event=use.on_event
        ),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
        essence=lambda bank: _of_bank(bank),
    ),
    Case(
        "dream.distill_dataset",
        lambda model, use: distill_dataset(model, per_class=2, steps=2, views=2, seed=use.seed, on_event=use.on_event),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
        essence=lambda made: [*_of_bank(made[0]), made[1].logits],
    ),
    Case(
        "dream.soft_labels",
        lambda model, use: soft_labels(model, _tiny_bank(), views=2, seed=use.seed).logits,
        RUNS,
        seeded=True,
    ),
    Case(
        "dream.train_inverter",
        lambda model, use: (
            train_inverter(
                model, tiny_source(), layers=["body.stem"], steps=2, seed=use.seed, on_event=use.on_event
            ).blocks
        ),
        {**RUNS, **LISTENS},
        seeded=True,
        reports=True,
    ),
    Case(
        "dream.refine_inversion",
        lambda model, use: refine_inversion(
            model,
            torch.full((2, *IMAGE_SHAPE), 0.5),
            torch.ones(2, 6, *IMAGE_SHAPE[1:]),
            layer="body.stem",
            steps=2,
            on_event=use.on_event,
        ),
        {**RUNS, **LISTENS},
        reports=True,
    ),
    Case("dream.optimize", _optimize, {**RUNS, **LISTENS}, seeded=True, reports=True),
    Case("dream.dream", _dream, {**RUNS, **LISTENS}, seeded=True, reports=True, essence=_of_bank),
    Case("dream.dream", _dream_on_disk, {**RUNS, **LISTENS}, seeded=True, reports=True, essence=_of_bank),
    Case(
        "compress.compress",
        _compress,
        {**RUNS, **LISTENS},
        network=wide_network,
        reports=True,
        seeded=True,
        essence=lambda result: (result.plan, result.record, result.network, result.decisions),
        nightly=True,
    ),
    Case(
        "teach.teach",
        lambda teacher, use: _teach(teacher, tiny_network(1), use),
        {**RUNS, **LISTENS},
        seeded=True,
        essence=_of_taught,
        nightly=True,
    ),
    Case(
        "teach.teach",
        lambda student, use: _teach(tiny_network(1), student, use),
        {**RUNS, **LISTENS},
        seeded=True,
        essence=_of_taught,
        nightly=True,
    ),
    Case("teach.start_student", lambda teacher, use: start_student("zoo:fashion-vgg", teacher, seed=use.seed), {}),
    Case("report.inspect", lambda model, use: inspect(model, latency=False).to_json(), RUNS, reports=False),
    Case(
        "zoo.load",
        lambda model, use: load("zoo:fashion-vgg"),
        {"nothing there": by(lambda model, use: load("zoo:absent"))},
    ),
    Case(
        "zoo.save",
        _saved,
        {"folder in the way": by(lambda model, use: save(model, Path(__file__), record=Record()))},
    ),
)
