"""What every public method owes its caller; `tests/cases.py` lists the methods."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reverie
from cases import CASES, WIRE, Case, Use
from reverie.core.events import Event
from traces import changes, fingerprint, global_trace, model_trace


def rows(which: Callable[[Case], bool] = lambda _: True) -> list[Any]:
    """The rows as parameters, those that take long marked so."""
    return [
        pytest.param(case, id=f"{index} {case}", marks=[pytest.mark.nightly] if case.nightly else [])
        for index, case in enumerate(CASES)
        if which(case)
    ]


each_case = pytest.mark.parametrize("case", rows())
each_failure = pytest.mark.parametrize(
    ("case", "failure"),
    [
        pytest.param(*row.values, failure, id=f"{row.id} {failure}", marks=row.marks)
        for row in rows()
        for failure in row.values[0].failures
    ],
)


@pytest.fixture
def use(tmp_path: Path) -> Use:
    return Use(tmp_path / "out")


def in_use(model: nn.Module) -> nn.Module:
    """As a user might hand it over, in the middle of training it: every kind of state set to something uncommon."""
    layers = [module for module in model.modules() if next(module.children(), None) is None]
    model.train()
    layers[1].eval()
    layers[-1].register_forward_hook(WIRE)
    layers[-1].register_forward_pre_hook(WIRE)
    layers[0].requires_grad_(False)
    for parameter in layers[-1].parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    return model


@each_case
def test_the_model_is_as_before(case: Case, use: Use) -> None:
    model = in_use(case.network())
    before = model_trace(model)
    case.call(model, use)
    assert changes(before, model_trace(model)) == []


@each_failure
def test_the_model_is_as_before_after_a_failure(case: Case, failure: str, use: Use) -> None:
    model = in_use(case.network())
    before, world = model_trace(model), global_trace()
    with pytest.raises(BaseException):  # noqa: B017, PT011  which error it is belongs to the method's own tests
        case.failures[failure](case, model, use)
    assert changes(before, model_trace(model)) == []
    assert changes(world, global_trace()) == []


@each_case
def test_the_world_is_as_before(case: Case, use: Use, capfd: pytest.CaptureFixture[str]) -> None:
    before = global_trace()
    case.call(case.network(), use)
    assert changes(before, global_trace()) == []
    assert capfd.readouterr() == ("", "")


@each_case
def test_the_same_seed_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    results = []
    for run in range(2):
        torch.manual_seed(run)  # the global state has no say
        results.append(case.essence(case.call(case.network(), Use(tmp_path / str(run), seed=5))))
    assert fingerprint(results[0]) == fingerprint(results[1])


@pytest.mark.parametrize("case", rows(lambda case: case.seeded))
def test_another_seed_gives_another_result(case: Case, tmp_path: Path) -> None:
    one, other = (case.essence(case.call(case.network(), Use(tmp_path / str(seed), seed=seed))) for seed in (0, 1))
    assert fingerprint(one) != fingerprint(other)


@each_case
def test_the_mode_of_the_model_has_no_say(case: Case, tmp_path: Path) -> None:
    one, other = (
        case.essence(case.call(case.network().train(training), Use(tmp_path / str(training))))
        for training in (True, False)
    )
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("case", rows(lambda case: case.reports))
def test_progress_counts_up_to_its_total(case: Case, use: Use) -> None:
    events: list[Event] = []
    case.call(case.network(), Use(use.folder, use.seed, events.append))
    assert events
    for stage in {event.stage for event in events}:
        steps = [event.step for event in events if event.stage == stage]
        totals = {event.total for event in events if event.stage == stage}
        assert steps == sorted(steps)
        assert len(totals) == 1
        assert steps[-1] == min(totals)


def takes_a_network(function: Callable[..., object]) -> bool:
    """Whether a parameter is a module, by its annotation."""
    hints = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    return any(isinstance(hint, type) and issubclass(hint, nn.Module) for hint in hints)


def public_methods() -> set[str]:
    """`package.function` of the names in `reverie.__all__`, and of all exported functions that take a network."""
    methods = set()
    for name in reverie.__all__:
        if not inspect.isclass(getattr(reverie, name)):
            methods.add(f"{reverie.HOMES[name].split('.')[1]}.{name}")
    for info in pkgutil.iter_modules(reverie.__path__):
        package = importlib.import_module(f"reverie.{info.name}")
        for name in getattr(package, "__all__", []):
            value = getattr(package, name)
            if inspect.isfunction(value) and takes_a_network(value):
                methods.add(f"{info.name}.{name}")
    return methods


def test_every_public_method_has_a_row() -> None:
    missing = public_methods() - {case.name for case in CASES}
    assert missing == set(), "add a row to tests/cases.py"


def test_every_row_names_something_that_is_there() -> None:
    for case in CASES:
        package, _, name = case.name.partition(".")
        modules = [f"reverie.{package}"]
        modules += [
            f"{modules[0]}.{info.name}" for info in pkgutil.iter_modules(importlib.import_module(modules[0]).__path__)
        ]
        assert any(hasattr(importlib.import_module(module), name) for module in modules), case.name


# What a careless method leaves behind: the laws above must see each of them.
LEAKS: dict[str, Callable[[nn.Module], object]] = {
    "mode": lambda model: model.eval(),
    "one child's mode": lambda model: next(model.children()).train(False),
    "requires_grad": lambda model: model.requires_grad_(True),
    "weights": lambda model: next(model.parameters()).data.add_(1e-7),
    "buffers": lambda model: next(model.buffers()).add_(1),
    "gradients": lambda model: setattr(list(model.parameters())[-1], "grad", None),
    "a hook": lambda model: model.register_forward_hook(lambda *_: None),
    "a backward hook": lambda model: model.register_full_backward_hook(lambda *_: None),
    "a tensor hook": lambda model: list(model.parameters())[-1].register_hook(lambda _: None),
    "an attribute": lambda model: setattr(model, "seen", []),
    "another layer": lambda model: setattr(model, "extra", nn.Identity()),
    "memory format": lambda model: model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "precision": lambda model: model.double(),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_leak_is_seen(leak: Callable[[nn.Module], object]) -> None:
    model = in_use(CASES[0].network())
    before = model_trace(model)
    assert changes(before, model_trace(model)) == []
    leak(model)
    assert changes(before, model_trace(model)) != []


WORLD_LEAKS: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.rand(1),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "a global hook": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("leak", WORLD_LEAKS.values(), ids=WORLD_LEAKS.keys())
def test_a_leak_into_the_world_is_seen(leak: Callable[[], object]) -> None:
    before = global_trace()
    undo = leak()
    try:
        assert changes(before, global_trace()) != []
    finally:
        if hasattr(undo, "remove"):
            undo.remove()
