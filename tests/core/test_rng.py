"""Seeds are independent by place of use, and the global state is left alone."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.core.rng import derive_seed, generator, preserved_rng, seed_global

places = st.tuples(st.integers(0, 2**40), st.lists(st.text(max_size=4) | st.integers(-9, 9), max_size=4).map(tuple))


def test_a_seed_is_what_it_was() -> None:
    # By hashlib alone: the first 8 bytes of SHA-256 of "(7, 'dream', 'batch', 3)", halved. Banks depend on it.
    assert derive_seed(7, "dream", "batch", 3) == 5791074559013842083


@given(places, places)
def test_places_have_their_own_seeds(
    one: tuple[int, tuple[str | int, ...]], other: tuple[int, tuple[str | int, ...]]
) -> None:
    assert (derive_seed(one[0], *one[1]) == derive_seed(other[0], *other[1])) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b"), ("a/b",)), (("a/str:b",), ("a", "b")), ((1,), ("1",)), ((1, 23), (12, 3)), ((), ("",))],
)
def test_joining_does_not_mix_places_up(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert derive_seed(0, *one) != derive_seed(0, *other)


def test_seeds_fit_63_bits_and_spread() -> None:
    seeds = [derive_seed(seed, "x", step) for seed, step in product(range(40), range(50))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0.45 < sum(seed & 1 for seed in seeds) / len(seeds) < 0.55


def test_neighboring_generators_are_uncorrelated() -> None:
    one, other = (torch.randn(4000, generator=generator(0, "noise", step)) for step in (0, 1))
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.05


def test_generators_repeat_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    assert torch.equal(torch.rand(5, generator=generator(3, "a")), torch.rand(5, generator=generator(3, "a")))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_the_global_state_is_put_back(failure: type[BaseException] | None) -> None:
    before = torch.get_rng_state()
    try:
        with preserved_rng():
            torch.rand(3)
            assert not torch.equal(torch.get_rng_state(), before)
            if failure is not None:
                raise failure
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_seeding_touches_nothing_that_is_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", told.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    before = torch.get_rng_state()
    with preserved_rng():
        seed_global(5)
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert not told
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with torch.random.fork_rng(devices=()):
        seed_global(5)
    assert told == [5]
