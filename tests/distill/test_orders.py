"""Orders: what each promises about which image comes when."""

from functools import partial

import pytest
import torch

from reverie.core.errors import RangeError
from reverie.core.source import Source
from reverie.distill import Draw, balanced_curriculum, shuffled


def unbalanced() -> tuple[Source, torch.Tensor]:
    """Ninety images of class 0 and ten of class 1; the teacher is the surer the lower the index."""
    images = torch.zeros(100, 1, 1, 1, dtype=torch.uint8)
    logits = torch.zeros(100, 2)
    logits[:90, 0] = torch.linspace(9, 1, 90)
    logits[90:, 1] = torch.linspace(9, 1, 10)
    return Source("unbalanced", images), logits


def draw(*, seed: int = 0, steps: int = 20) -> Draw:
    source, logits = unbalanced()
    return Draw(source, lambda: logits, 10, steps, seed)


def test_shuffled_shows_every_image_once_a_pass_and_asks_no_teacher() -> None:
    def never() -> torch.Tensor:
        raise AssertionError

    picks = list(shuffled(Draw(unbalanced()[0], never, 10, 20, 0)))
    assert sorted(torch.cat(picks[:10]).tolist()) == list(range(100))
    assert len(picks) == 20


def test_the_curriculum_shows_both_classes_alike_and_the_sure_ones_first() -> None:
    picks = list(balanced_curriculum(draw(), first=0.1, whole_at=0.5))
    assert len(picks) == 20
    assert all(int((pick >= 90).sum()) == 5 for pick in picks)
    assert int(picks[0][picks[0] < 90].max()) < 9
    assert set(picks[0][picks[0] >= 90].tolist()) == {90}
    late = torch.cat(picks[10:])
    assert int(late[late < 90].max()) > 60
    assert set(late[late >= 90].tolist()) == set(range(90, 100))


def test_one_seed_gives_one_order() -> None:
    one, again, other = (torch.stack(list(balanced_curriculum(draw(seed=seed)))) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_shares_outside_their_range_are_refused() -> None:
    for wrong in (partial(balanced_curriculum, first=0.0), partial(balanced_curriculum, whole_at=1.5)):
        with pytest.raises(RangeError, match="is a share in"):
            next(wrong(draw()))
