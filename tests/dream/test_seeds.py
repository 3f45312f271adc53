"""No two places of a run draw alike: each batch and each stage has views of its own."""

import torch
from torch import Tensor

from cases import IMAGE_SHAPE, tiny_network
from reverie.dream import PixelCanvas, class_term, dream, halving_stages, optimize_stages


class Spy:
    """Views that change nothing and note what they would have drawn from."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        self.seeds.append(rng.initial_seed())
        return images


def test_every_batch_draws_views_of_its_own() -> None:
    spy = Spy()
    dream(tiny_network(), count=6, batch_size=2, steps=1, augment=spy)
    assert len(set(spy.seeds)) == 3


def test_every_stage_draws_views_of_its_own() -> None:
    spy = Spy()
    optimize_stages(
        tiny_network(),
        PixelCanvas.noise,
        range(2),
        IMAGE_SHAPE,
        stages=halving_stages(2, steps=4),
        augment=lambda _: spy,
        term=class_term(),
        targets=torch.tensor([0, 1]),
        seed=0,
    )
    assert len(spy.seeds) == 4
    assert len(set(spy.seeds)) == 2
