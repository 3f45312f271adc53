"""Functions as text: the same text for the same function, another for another setting."""

from dataclasses import dataclass
from functools import partial

from reverie.core.describe import describe
from reverie.core.rng import derive_seed, generator


@dataclass(frozen=True)
class Scaled:
    """Something that is called."""

    by: float

    def __call__(self, x: float) -> float:
        return self.by * x


def test_functions_partials_and_dataclasses() -> None:
    assert describe(derive_seed) == "reverie.core.rng.derive_seed"
    assert describe(partial(generator, 1, device="cpu")) == "reverie.core.rng.generator(1, device='cpu')"
    assert describe(Scaled(2.0)) == "Scaled(by=2.0)"
    assert describe(partial(derive_seed, first=Scaled(1.0))) == "reverie.core.rng.derive_seed(first=Scaled(by=1.0))"


def test_the_order_of_named_arguments_does_not_count() -> None:
    assert describe(partial(derive_seed, a=1, b=2)) == describe(partial(derive_seed, b=2, a=1))
    assert describe(partial(derive_seed, a=1)) != describe(partial(derive_seed, a=2))
