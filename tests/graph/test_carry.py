"""An optimizer is cut with its network, and constants of removed units are kept."""

import pytest
import torch
from torch import Tensor, nn

from reverie.core.edit import Record, Scale, replay
from reverie.core.errors import ReferenceNotFound, UnsupportedOp
from reverie.graph import cut, cut_optimizer, fold_constants, masked, probe

KEPT = {"0": [0, 2, 3, 6], "3": [1, 4]}


def plain(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=bias), nn.BatchNorm2d(6),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4),
    )  # fmt: skip
    return nn.Sequential(*layers).eval()


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(count):
        optimizer.zero_grad()
        net(images).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda given: torch.optim.SGD(given, lr=1e-3, momentum=0.9, weight_decay=0.1),
        lambda given: torch.optim.AdamW(given, lr=1e-3, amsgrad=True),
        lambda given: torch.optim.RMSprop(given, lr=1e-4, momentum=0.5, centered=True),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_a_cut_network_goes_on_as_the_masked_one(make):
    whole = plain()
    structure = probe(whole, torch.zeros(1, 3, 8, 8))
    silent = masked(whole, structure, KEPT)
    before = make(silent.parameters())
    steps(silent, before, 2)
    # What steps did to the zeros of the mask is taken back: units that are gone do not learn.
    silenced = masked(silent, structure, KEPT)
    small, record = cut(silenced, structure, KEPT)
    after = cut_optimizer(before, silent, small, record)
    again = make(silenced.parameters())
    again.load_state_dict(before.state_dict())
    steps(silenced, again)
    steps(small, after)
    wanted = dict(cut(silenced, structure, KEPT)[0].named_parameters())
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], atol=1e-6, rtol=1e-5)


def test_options_groups_and_missing_modules():
    net = plain()
    groups = [{"params": list(net[0].parameters()), "lr": 0.5}, {"params": list(net[3].parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.25, momentum=0.5)
    steps(net, optimizer)
    small, record = cut(net, probe(net, torch.zeros(1, 3, 8, 8)), KEPT)
    found = cut_optimizer(optimizer, net, small, record)
    assert [(group["lr"], group["momentum"], len(group["params"])) for group in found.param_groups] == [
        (0.5, 0.5, 2),
        (0.25, 0.5, 2),
    ]
    with pytest.raises(ReferenceNotFound, match=r"shape \(4, 3, 3, 3\) that Sequential lacks"):
        cut_optimizer(found, net, small, record)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda given: torch.optim.Adafactor(given), "optimizer's '(row|col)_var' of 0.weight is neither of its shape"),
        (lambda given: torch.optim.LBFGS(given, max_iter=2), "of 0.weight is neither of its shape nor one number"),
    ],
    ids=["Adafactor", "LBFGS"],
)
def test_state_of_another_shape_is_refused(make, message):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make(net.parameters())

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = net(torch.ones(4, 6)).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    small, record = cut(net, probe(net, torch.zeros(1, 6)), {"0": [0, 3]})
    with pytest.raises(UnsupportedOp, match=message):
        cut_optimizer(optimizer, net, small, record)


def test_state_of_a_parameter_that_is_held_no_more_is_left_out():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    head = nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    head(net(torch.ones(1, 6))).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["params"] = list(net.parameters())
    small, record = cut(net, probe(net, torch.zeros(1, 6)), {"0": [0, 3]})
    assert set(cut_optimizer(optimizer, net, small, record).state) == set(small.parameters())


def test_state_follows_what_is_scaled():
    net = nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    record = Record((Scale({"weight": (1,)}, 4.0),))
    scaled = replay(record, net)
    state = cut_optimizer(optimizer, net, scaled, record).state[scaled.weight]
    old = optimizer.state[net.weight]
    assert torch.equal(state["exp_avg"][1] * 4, old["exp_avg"][1])
    assert torch.equal(state["exp_avg_sq"][1] * 16, old["exp_avg_sq"][1])
    assert torch.equal(state["exp_avg"][0], old["exp_avg"][0])
    optimizer.state[net.weight]["own"] = torch.zeros(2, 2)
    with pytest.raises(UnsupportedOp, match="scales weight, and how the optimizer's 'own'"):
        cut_optimizer(optimizer, net, scaled, record)


def constant_channels(net: nn.Sequential) -> None:
    """Channels that are not kept pass on their shift alone."""
    with torch.no_grad():
        for at, kept, count in ((1, KEPT["0"], 8), (4, KEPT["3"], 6)):
            for channel in set(range(count)) - set(kept):
                net[at].weight[channel] = 0.0
                net[at].bias[channel] = 0.3 + channel / 10


@pytest.mark.parametrize("bias", [True, False])
def test_constants_of_removed_units_are_kept(bias: bool):
    net = plain(bias=bias)
    constant_channels(net)
    images: Tensor = torch.randn(4, 3, 8, 8)
    structure = probe(net, images)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fold_constants(net, structure, KEPT, images)
    found, lost = cut(folded, structure, KEPT)[0](images), cut(net, structure, KEPT)[0](images)
    torch.testing.assert_close(found, net(images), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(lost, net(images), atol=0.05)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_constants_behind_groups_of_a_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 2))
    structure = probe(net, torch.zeros(1, 3, 4, 4))
    group = next(one for one in structure.free if one.producers == ("0",) and one.units == 4)
    kept = {group.name: [0, 2]}
    rows = group.slices[0].rows([1, 3])
    with torch.no_grad():
        net[0].weight[rows] = 0
        net[0].bias[rows] = torch.rand(len(rows)) + 0.5
    images = torch.randn(2, 3, 4, 4)
    folded = fold_constants(net, structure, kept, images)
    torch.testing.assert_close(cut(folded, structure, kept)[0](images), net(images), atol=1e-6, rtol=1e-5)
