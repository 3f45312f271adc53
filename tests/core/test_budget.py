"""Budgets are numbers with a unit, read as a person writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.core.budget import Budget, Quantity, read_budgets
from reverie.core.errors import RangeError


@pytest.mark.parametrize(
    ("text", "quantity", "value", "relative"),
    [
        ("60%", "latency", 0.6, True),
        ("100%", "size", 1.0, True),
        ("0.5 %", "macs", 0.005, True),
        ("4ms", "latency", 4.0, False),
        (" 250 us ", "latency", 0.25, False),
        ("1.5s", "latency", 1500.0, False),
        ("1MB", "size", 1e6, False),
        ("300kb", "size", 3e5, False),
        ("512B", "size", 512.0, False),
        ("20MMAC", "macs", 2e7, False),
        (".5gmac", "macs", 5e8, False),
        ("1e3MAC", "macs", 1000.0, False),
    ],
)
def test_what_people_write(text: str, quantity: Quantity, value: float, relative: bool) -> None:
    budget = Budget.parse(text, quantity)
    assert budget.value == pytest.approx(value, rel=1e-12)
    assert (budget.quantity, budget.relative) == (quantity, relative)


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("60", "latency", r"--latency 60 has no unit\. Write 60% or 4ms\."),
        ("60MB", "latency", r"unknown unit 'MB'; known are %, us, ms, s\. Write"),
        ("4ms", "size", r"unknown unit 'ms'; known are %, B, KB, MB, GB"),
        ("fast", "latency", r"--latency 'fast' is not a number with a unit"),
        ("", "size", r"--size '' is not a number with a unit"),
        ("-4ms", "latency", "not a number with a unit"),
        ("nan%", "latency", "not a number with a unit"),
        ("4ms 5ms", "latency", "not a number with a unit"),
        ("0%", "macs", r"must be above 0% and at most 100%"),
        ("120%", "macs", r"must be above 0% and at most 100%"),
        ("0ms", "latency", r"--latency 0ms must be positive"),
    ],
)
def test_what_is_no_budget(text: str, quantity: Quantity, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        Budget.parse(text, quantity)


def test_limits() -> None:
    assert Budget.parse("60%", "latency").limit(5.0) == 3.0
    assert Budget.parse("4ms", "latency").limit(5.0) == 4.0


@given(
    st.sampled_from(["latency", "size", "macs"]),
    st.booleans(),
    st.floats(0.001, 100, allow_nan=False).map(lambda value: float(f"{value:.3g}")),
)
def test_a_budget_reads_what_it_prints(quantity: Quantity, relative: bool, number: float) -> None:
    budget = Budget(quantity, number / 100 if relative else number * 1000, relative)
    again = Budget.parse(str(budget), quantity)
    assert again.relative == relative
    assert again.value == pytest.approx(budget.value, rel=1e-14)


def test_budgets_that_differ_print_otherwise() -> None:
    assert str(Budget("size", 1234567, relative=False)) == "1.234567 MB"
    assert str(Budget("latency", 0.12345, relative=True)) == "12.345%"
    assert str(Budget("latency", 0.07, relative=True)) == "7%"


@pytest.mark.parametrize(
    ("value", "relative", "message"),
    [
        (60, True, r"a relative latency budget is a share in \(0, 1\], got 60"),
        (0.0, True, r"share in \(0, 1\], got 0"),
        (-4.0, False, r"a latency budget is above 0, got -4"),
        (float("inf"), False, "above 0, got inf"),
        (float("nan"), False, "above 0, got nan"),
    ],
)
def test_a_budget_is_in_its_range(value: float, relative: bool, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        Budget("latency", value, relative)


def test_budgets_are_read_together() -> None:
    parsed = Budget("macs", 2e7, relative=False)
    assert read_budgets(latency="60%", macs=parsed) == {
        "latency": Budget("latency", 0.6, relative=True),
        "macs": parsed,
    }
    with pytest.raises(RangeError, match="at least one budget"):
        read_budgets()
    with pytest.raises(RangeError, match=r"latency=0\.6 has no unit\. Write 60% or 4ms, as text"):
        read_budgets(latency=0.6)  # type: ignore[arg-type]  what people write
    with pytest.raises(RangeError, match=r"latency was given a budget for the size, 1 MB\. Give size=\.\.\."):
        read_budgets(latency=Budget.parse("1MB", "size"))
