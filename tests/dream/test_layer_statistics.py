"""Where statistics come from: captured ones against plain formulas, every kind of batch norm, files, and a choice."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound, ShapeError, StatisticsMissing
from reverie.core.modes import frozen
from reverie.core.source import Source, noise_source
from reverie.dream.calibrate import calibrate_statistics, choose_statistics, is_folded
from reverie.dream.channel_moments import channel_moments
from reverie.dream.layer_statistics import (
    BatchNormStatistics,
    NoStatistics,
    Statistics,
    capture_statistics,
    statistics_layers,
)
from reverie.dream.leaves import leaves_source
from reverie.dream.statistics import moments
from traces import changes, global_trace, model_trace

SHAPE = (3, 8, 8)


class OwnFrozen(nn.Module):
    """As torchvision's FrozenBatchNorm2d: buffers, and arithmetic of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        return (x - self.running_mean.view(shape)) / self.running_var.view(shape).sqrt()


class Tokens(nn.Module):
    """Patches as a sequence, layer normalization, a linear map, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.group = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group(self.stem(x)).flatten(2).mT
        return self.head(self.norm(tokens)).mean(1)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 3), 1), ((4, 3, 6), -1), ((4, 3, 6), 1), ((4, 3, 6, 5), 1), ((4, 2, 5, 3), 3)]
)
def test_moments_of_any_axis_and_their_gradient(shape: tuple[int, ...], axis: int) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    others = [other for other in range(x.ndim) if other != axis % x.ndim]
    mean, variance = channel_moments(x, axis)
    torch.testing.assert_close(mean, x.mean(others), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance, x.var(others, correction=0), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: channel_moments(x, axis), (x,))
    assert torch.autograd.gradcheck(lambda x: channel_moments(x, axis)[1], (x,))


def test_captured_moments_are_the_plain_formulas_whatever_the_batches() -> None:
    network, source = Tokens(), noise_source(count=10, image_shape=SHAPE, seed=1)
    found = capture_statistics(network, source, batch_size=3)
    assert found.origin == "captured from 10 images of noise"
    assert list(found.layers) == ["norm", "group"]
    with torch.no_grad():
        stem = network.stem(source.floats())
        tokens = network.norm(network.group(stem).flatten(2).mT)
    for name, plain, axes in (("group", stem, (0, 2, 3)), ("norm", tokens, (0, 1))):
        torch.testing.assert_close(found.layers[name][0], plain.mean(axes), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.layers[name][1], plain.var(axes, correction=0), rtol=1e-5, atol=1e-6)


def test_what_was_captured_is_met_by_its_own_images() -> None:
    network, source = Tokens(), noise_source(count=10, image_shape=SHAPE, seed=1)
    found = capture_statistics(network, source)
    with frozen(network), found(network) as seen:
        network(source.floats())
        assert [one.name for one in seen] == ["group", "norm"]  # in order of execution
        for one in seen:
            torch.testing.assert_close(one.mean, one.stored_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.variance, one.stored_variance, rtol=1e-4, atol=1e-5)
        seen.clear()
        network(source.floats() * 0.5)
        assert (seen[0].variance - seen[0].stored_variance).norm() > 0.1 * seen[0].stored_variance.norm()


def test_capturing_leaves_no_trace() -> None:
    network = Tokens().train()
    model, world = model_trace(network), global_trace()
    capture_statistics(network, noise_source(count=4, image_shape=SHAPE, seed=0))
    with pytest.raises(RuntimeError):
        capture_statistics(network, noise_source(count=4, image_shape=(1, 8, 8), seed=0))
    statistics = Statistics("hand", {"group": (torch.zeros(6), torch.ones(6)), "absent": (torch.zeros(1),) * 2})
    with pytest.raises(ReferenceNotFound, match="layer 'absent' that Tokens lacks"), statistics(network):
        pass
    assert changes(model, model_trace(network)) == []
    assert changes(world, global_trace()) == []


def test_batch_norm_of_every_kind_is_seen_once() -> None:
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    network = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.SyncBatchNorm(3),
        OwnFrozen(3),
        torchvision.ops.FrozenBatchNorm2d(3),
        timm.layers.BatchNormAct2d(3),
        timm.layers.FrozenBatchNormAct2d(3),
        nn.Unflatten(2, (2, 4)),
        nn.BatchNorm3d(3),
        nn.Flatten(),
        nn.BatchNorm1d(192),
    )
    x = torch.randn(4, *SHAPE, requires_grad=True)
    with frozen(network), BatchNormStatistics()(network) as seen:
        network(x)
    assert [one.name for one in seen] == ["0", "1", "2", "3", "4", "5", "7", "9"]
    torch.testing.assert_close(seen[0].mean, x.mean((0, 2, 3)))
    assert all(one.mean.requires_grad for one in seen)
    assert seen[2].stored_mean is network[2].running_mean
    assert not any(module._forward_hooks for module in network.modules())
    assert choose_statistics(network, image_shape=SHAPE).origin == "batch normalization"
    assert choose_statistics(OwnFrozen(3), image_shape=SHAPE).origin == "batch normalization"


def test_a_frozen_layer_that_calls_the_function_is_seen_once() -> None:
    class Sometimes(OwnFrozen):
        """As detectron2's: arithmetic of its own where a gradient is wanted, the function where not."""

        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                return super().forward(x)
            return nn.functional.batch_norm(x, self.running_mean, self.running_var)

    network = nn.Sequential(Sometimes(3))
    for x in (torch.rand(2, *SHAPE), torch.rand(2, *SHAPE, requires_grad=True)):
        with BatchNormStatistics()(network) as seen:
            network(x)
        assert [one.name for one in seen] == ["0"]


def test_what_batch_norm_stores_is_read_as_before(small_net: nn.Module) -> None:
    x = torch.rand(4, *SHAPE)
    with frozen(small_net), moments(small_net) as plain, torch.no_grad():
        small_net(x)
    with frozen(small_net), BatchNormStatistics()(small_net) as seen, torch.no_grad():
        small_net(x)
    assert torch.equal(seen[0].mean, plain[0].mean)
    assert seen[0].stored_variance is plain[0].stored_variance


def test_the_choice_names_its_source() -> None:
    assert choose_statistics(Tokens(), image_shape=SHAPE).origin == "self-calibrated on 256 dead leaves"
    folded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert is_folded(folded)
    assert not is_folded(Tokens())
    assert choose_statistics(folded, image_shape=SHAPE).origin.endswith(
        "is folded into its convolutions, or was never there"
    )
    assert not is_folded(nn.Sequential(*folded, nn.BatchNorm3d(4)))
    assert list(statistics_layers(folded)) == ["0", "2"]
    instance = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True))
    assert choose_statistics(instance, image_shape=SHAPE).origin == "self-calibrated on 256 dead leaves"
    nothing = nn.Flatten()
    chosen = choose_statistics(nothing, image_shape=SHAPE)
    assert isinstance(chosen, NoStatistics)
    with chosen(nothing) as seen:
        nothing(torch.ones(1, *SHAPE))
    assert seen == []
    with pytest.raises(StatisticsMissing, match="Flatten has no normalization, convolution or linear"):
        statistics_layers(nothing)


def test_leaves_are_nearer_to_photographs_than_noise_is() -> None:
    leaves = leaves_source(count=16, image_shape=(3, 32, 32), seed=0)
    assert torch.equal(leaves.images, leaves_source(count=16, image_shape=(3, 32, 32), seed=0).images)
    assert not torch.equal(leaves.images, leaves_source(count=16, image_shape=(3, 32, 32), seed=1).images)
    # Neighboring pixels of photographs correlate by about 0.95; of white noise not at all.
    for source, low, high in (
        (leaves, 0.85, 0.99),
        (noise_source(count=16, image_shape=(3, 32, 32), seed=0), -0.1, 0.1),
    ):
        x = source.floats() - source.floats().mean()
        correlation = float((x[..., 1:] * x[..., :-1]).mean() / x.square().mean())
        assert low < correlation < high, source.name
    for shape in ((2, 20), (1, 6, 7, 8)):
        assert leaves_source(count=1, image_shape=shape, seed=0).images.shape == (1, *shape)
    with pytest.raises(RangeError, match="leaves need count >= 1"):
        leaves_source(count=0, image_shape=SHAPE, seed=0)


def test_a_file_of_statistics_holds_them(tmp_path: Path) -> None:
    network = Tokens()
    found = calibrate_statistics(network, image_shape=SHAPE, count=5)
    found.save(tmp_path / "moments.safetensors")
    read = Statistics.load(tmp_path / "moments.safetensors")
    assert read.origin == found.origin == "self-calibrated on 5 dead leaves"
    assert {name: [t.tolist() for t in pair] for name, pair in read.layers.items()} == {
        name: [t.tolist() for t in pair] for name, pair in found.layers.items()
    }


def test_files_of_other_things(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="no statistics file"):
        Statistics.load(tmp_path / "absent")
    (tmp_path / "text").write_text("not tensors at all, but long enough to look like some")
    with pytest.raises(CorruptFile, match="is no statistics file"):
        Statistics.load(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(CorruptFile, match="holds other tensors"):
        Statistics.load(tmp_path / "weights")
    Statistics("x", {"a": (torch.zeros(2), torch.tensor([1.0, -1.0]))}).save(tmp_path / "negative")
    with pytest.raises(CorruptFile, match="layer a has no mean and variance"):
        Statistics.load(tmp_path / "negative")


def test_statistics_of_another_width() -> None:
    network = Tokens()
    wrong = Statistics("hand", {"group": (torch.zeros(5), torch.ones(5))})
    with pytest.raises(ShapeError, match="5 channels for layer group, which has 6"), wrong(network):
        network(torch.rand(1, *SHAPE))
    with pytest.raises(RangeError, match="batch_size must be at least 1, got 0"):
        capture_statistics(network, Source("x", torch.zeros(1, *SHAPE, dtype=torch.uint8)), batch_size=0)
