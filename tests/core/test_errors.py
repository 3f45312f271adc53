"""The family of errors: one root, a built-in beside it, messages that print as they stand."""

import inspect

import pytest

from reverie.core import errors
from reverie.core.errors import BudgetInfeasible, ReferenceNotFound, ReverieError

KINDS = [getattr(errors, name) for name in errors.__all__ if issubclass(getattr(errors, name), ReverieError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ReverieError])
def test_plain_code_can_catch_it(kind: type[ReverieError]) -> None:
    built_in = [
        base for base in kind.__mro__ if base.__module__ == "builtins" and base not in (Exception, BaseException)
    ]
    assert len(built_in) >= 2, "a kind derives from the root and from a built-in error"
    assert issubclass(kind, ReverieError)


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_prints_as_it_stands(kind: type[ReverieError]) -> None:
    sentence = "cannot reach 4.0 ms: the cheapest plan takes 5.3 ms. Raise the budget."
    error = kind(sentence, cheapest=5.3, budget="latency") if kind is BudgetInfeasible else kind(sentence)  # type: ignore[call-arg]
    assert str(error) == sentence


def test_an_error_without_a_message_prints_nothing() -> None:
    assert str(ReferenceNotFound()) == ""


def test_the_cheapest_cost_travels_with_the_error() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        raise BudgetInfeasible("cannot", cheapest=5.3, budget="latency")
    assert (caught.value.cheapest, caught.value.budget) == (5.3, "latency")


def test_every_error_is_listed() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert classes == set(errors.__all__)
