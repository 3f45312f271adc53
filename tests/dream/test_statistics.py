"""The fused normalization against the plain formulas in every layout, and its gradient against finite steps."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.modes import frozen
from reverie.dream.statistics import BatchNormWithMoments, ClampInPlace, Moments, moments

SHAPES = [(5, 3), (4, 3, 6), (4, 3, 6, 5), (2, 3, 2, 3, 2)]


def parameters(channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, stored mean, stored variance."""
    weight, bias, mean, variance = torch.randn(4, channels, dtype=dtype)
    return weight, bias, mean, variance.abs() + 0.1


def batch(shape: Sequence[int], layout: torch.memory_format) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    return (x.contiguous(memory_format=layout) if x.ndim == 4 else x).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_output_and_moments(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x, values = batch(shape, layout), parameters(3)
    assert torch.autograd.gradcheck(lambda x: BatchNormWithMoments.apply(x, *values, 1e-3), (x,))
    assert torch.autograd.gradcheck(lambda x: BatchNormWithMoments.apply(x, *values, 1e-3)[0], (x,))
    assert torch.autograd.gradcheck(lambda x: BatchNormWithMoments.apply(x, *values, 1e-3)[1], (x,))
    assert torch.autograd.gradcheck(lambda x: BatchNormWithMoments.apply(x, *values, 1e-3)[2], (x,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradient_are_the_plain_formulas(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x, (weight, bias, mean, variance) = batch(shape, layout), parameters(3)
    axes = [0, *range(2, x.ndim)]
    plain = (
        F.batch_norm(x, mean, variance, weight, bias, False, 0.0, 1e-3),
        x.mean(axes),
        x.var(axes, correction=0),
    )
    fused = BatchNormWithMoments.apply(x, weight, bias, mean, variance, 1e-3)
    weights = [torch.randn_like(value) for value in plain]
    gradients = [
        torch.autograd.grad(sum((w * value).sum() for w, value in zip(weights, values, strict=True)), x)[0]
        for values in (plain, fused)
    ]
    for expected, found in zip(plain, fused, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_a_gradient_in_another_layout_than_the_input() -> None:
    x, values = batch((4, 3, 6, 5), torch.channels_last), parameters(3)
    weights = torch.randn(4, 3, 6, 5, dtype=torch.float64)

    def gradient(use: str) -> Tensor:
        y = (
            BatchNormWithMoments.apply(x, *values, 1e-3)[0]
            if use == "fused"
            else F.batch_norm(x, values[2], values[3], values[0], values[1], False, 0.0, 1e-3)
        )
        # The mean over positions hands back a gradient that is expanded, not laid out as y.
        return torch.autograd.grad((y * weights).sum() + y.mean((2, 3)).square().sum(), x)[0]

    torch.testing.assert_close(gradient("fused"), gradient("plain"), rtol=1e-12, atol=1e-12)


def test_half_precision_keeps_moments_in_single() -> None:
    values = parameters(16, torch.float32)
    x = (torch.randn(8, 16, 6, 6) * 3 + 1).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    y, mean, variance = BatchNormWithMoments.apply(x, *values, 1e-5)
    assert (y.dtype, mean.dtype, variance.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact = x.detach().double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(y.float().sum() + variance.sum(), x)
    assert found.dtype == torch.bfloat16


class OwnNorm(nn.BatchNorm2d):
    """As timm's: calls the functional form, then an activation."""

    def forward(self, x: Tensor) -> Tensor:
        normed = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return F.relu6(normed, inplace=True)


def every_kind() -> nn.Module:
    """Two-dimensional, subclassed, synchronized, one-dimensional; stored values away from their start."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU6(inplace=True),
        nn.Conv2d(4, 5, 3),
        OwnNorm(5),
        nn.Conv2d(5, 5, 1),
        nn.SyncBatchNorm(5),
        nn.Flatten(),
        nn.Linear(80, 6),
        nn.BatchNorm1d(6),
    )
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    return net.double()


def test_every_batch_norm_is_seen_and_nothing_else_changes() -> None:
    net, x = every_kind(), torch.randn(7, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with frozen(net):
        plain = net(x)
        (expected,) = torch.autograd.grad(plain.square().sum(), x)
        with moments(net) as seen:
            fused = net(x)
        (found,) = torch.autograd.grad(fused.square().sum(), x)
        assert [entry.name for entry in seen] == ["1", "4", "6", "9"]
        stored = [(entry.stored_mean, entry.stored_variance) for entry in seen]
        assert all(mean is net[int(e.name)].running_mean for e, (mean, _) in zip(seen, stored, strict=True))
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_moments_of_a_network_equal_hooked_inputs() -> None:
    net, x = every_kind(), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    inputs: list[Tensor] = []
    for index in (1, 4, 6, 9):
        net[index].register_forward_pre_hook(lambda module, args: inputs.append(args[0].clone()))
    with frozen(net), torch.no_grad(), moments(net) as seen:
        net(x)
    for entry, value in zip(seen, inputs, strict=True):
        axes = [0, *range(2, value.ndim)]
        torch.testing.assert_close(entry.mean, value.mean(axes), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(entry.variance, value.var(axes, correction=0), rtol=1e-12, atol=1e-12)


def test_no_interception_afterwards_also_on_error() -> None:
    net = nn.BatchNorm1d(2).eval()
    kept: list[Moments] = []

    def stopped() -> None:
        with moments(net) as seen:
            net(torch.ones(3, 2))
            kept.extend(seen)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    plain = net(torch.ones(3, 2))
    assert len(kept) == 1
    assert "Moments" not in type(plain.grad_fn).__name__


def test_training_mode_and_unstored_statistics_pass_by() -> None:
    x = torch.randn(6, 2, 4, 4)
    with moments(nn.BatchNorm2d(2)) as seen:
        assert torch.equal(nn.BatchNorm2d(2).train()(x), nn.BatchNorm2d(2).train()(x))
        nn.BatchNorm2d(2, track_running_stats=False).eval()(x)
        nn.InstanceNorm2d(2).eval()(x)
    assert seen == []


def test_clamp_in_place_is_hardtanh_and_keeps_no_copy() -> None:
    x = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0], dtype=torch.float64, requires_grad=True)
    gradients = [
        torch.autograd.grad((clamp(x * 1.0, 0.0, 6.0) * torch.arange(1, 6)).sum(), x)[0]
        for clamp in (F.hardtanh, ClampInPlace.apply)
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0], dtype=torch.float64))
