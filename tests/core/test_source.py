"""Sources: batches are full, fair, repeatable; splits are disjoint; noise is what it says."""

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.core.errors import RangeError, ShapeError
from reverie.core.source import Source, noise_source


def numbered(count: int) -> Source:
    """A source whose image i holds the value i, and whose label i is 2 i."""
    values = torch.arange(count, dtype=torch.uint8)
    return Source("numbered", values.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone(), 2 * torch.arange(count))


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 5))
def test_batches_are_full_and_fair(count: int, batch_size: int, seed: int) -> None:
    drawn = [batch.tolist() for batch in islice(numbered(count).batches(batch_size=batch_size, seed=seed), 2 * count)]
    assert {len(batch) for batch in drawn} == {batch_size}
    stream = [index for batch in drawn for index in batch]
    # Pass by pass, every image comes exactly once.
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
    assert max(Counter(stream).values()) - min(Counter(stream).values()) <= 1


def test_batches_follow_the_seed_and_change_by_pass() -> None:
    def passes(seed: int) -> list[list[int]]:
        return [batch.tolist() for batch in islice(numbered(20).batches(batch_size=20, seed=seed), 3)]

    assert passes(1) == passes(1)
    assert passes(1) != passes(2)
    assert len({tuple(one) for one in passes(1)}) == 3


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_empty_batch_is_refused(batch_size: int) -> None:
    with pytest.raises(RangeError, match=rf"batch of {batch_size} images of source 'numbered' is empty"):
        next(numbered(3).batches(batch_size=batch_size, seed=0))


@given(count=st.integers(2, 60), held_out=st.floats(0.02, 0.98), seed=st.integers(0, 5))
def test_a_split_is_a_partition(count: int, held_out: float, seed: int) -> None:
    source = numbered(count)
    if not 0 < round(count * held_out) < count:
        with pytest.raises(RangeError, match="need at least one on each side"):
            source.split(held_out=held_out, seed=seed)
        return
    rest, held = source.split(held_out=held_out, seed=seed)
    assert len(held) == round(count * held_out)
    assert sorted([*rest.images[:, 0, 0, 0].tolist(), *held.images[:, 0, 0, 0].tolist()]) == list(range(count))
    for part in (rest, held):
        assert part.labels is not None
        assert torch.equal(part.labels, 2 * part.images[:, 0, 0, 0].long())
        assert part.name == "numbered"


def test_splits_follow_the_seed() -> None:
    held = [numbered(50).split(held_out=0.5, seed=seed)[1].images for seed in (0, 0, 1)]
    assert torch.equal(held[0], held[1])
    assert not torch.equal(held[0], held[2])


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.5, 2.0])
def test_a_side_of_a_split_may_not_be_empty(held_out: float) -> None:
    with pytest.raises(RangeError, match=rf"cannot hold out {held_out} of 10 images"):
        numbered(10).split(held_out=held_out, seed=0)


def test_floats_are_the_bytes_divided_by_255() -> None:
    source = numbered(256)
    assert source.floats().dtype == torch.float32
    assert torch.equal((source.floats() * 255).round().to(torch.uint8), source.images)
    assert float(source.floats().min()) == 0.0
    assert float(source.floats().max()) == 1.0
    assert torch.equal(source.floats(torch.tensor([3, 1]))[:, 0, 0, 0], torch.tensor([3.0, 1.0]) / 255)
    assert source.floats(slice(4, 6)).shape == (2, 1, 2, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 4, 4), r"needs uint8 images .* got torch.float32 \(2, 1, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), r"n >= 1, got torch.uint8 \(0, 1, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"\(4, 4\)"),
    ],
)
def test_what_is_not_images_is_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Source("real", images)


def test_labels_go_with_images() -> None:
    with pytest.raises(ShapeError, match=r"source 'real' has 2 images and \(3,\) labels"):
        Source("real", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


def test_noise_has_its_moments() -> None:
    noise = noise_source(count=400, image_shape=(3, 8, 8), seed=0)
    values = noise.floats()
    assert noise.images.shape == (400, 3, 8, 8)
    assert noise.labels is None
    # Clipped at two deviations: the mean is 1/2 by symmetry, the deviation by quadrature.
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    density = torch.exp(-(grid**2) / 2) / (2 * torch.pi) ** 0.5
    clipped = (0.5 + grid / 4).clamp(0, 1)
    deviation = float(torch.trapezoid((clipped - 0.5) ** 2 * density, grid).sqrt())
    assert float(values.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(values.std()) == pytest.approx(deviation, abs=0.003)
    # Below -2 deviations, half a step included: the values that clip or round to 0.
    assert float((values == 0).float().mean()) == pytest.approx(
        float(torch.special.ndtr(torch.tensor(-127 / 63.75))), abs=0.003
    )


def test_noise_follows_its_seed() -> None:
    one, same, other = (noise_source(count=4, image_shape=(1, 4, 4), seed=seed).images for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
