"""What is no network, or no example of one, is named in a sentence that says what to do; the network is as before."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from graph.networks import lively, some_kept
from reverie.core.errors import ReverieError, ShapeError, UnsupportedOp
from reverie.graph import certify, cut, probe
from reverie.graph.accept import accept
from reverie.graph.oracle import surviving
from traces import global_trace, model_trace


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )


def batch() -> Tensor:
    return torch.randn(2, 3, 4, 4)


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.DataParallel(net())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def distributed() -> nn.Module:
    """As it is inside a group of processes, which a test does not start."""
    wrapper = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = net()
    return wrapper


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.jit.trace(net().eval(), batch()))


def compiled_in_place() -> nn.Module:
    whole = net()
    whole[3].compile(backend="eager")
    return whole


def quantized() -> nn.Module:
    whole = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole[5] = torch.ao.nn.quantized.Linear(32, 4)
    return whole


def quantized_tensor() -> nn.Module:
    whole = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)
    whole[2].register_buffer("table", stored)
    return whole


def pruned() -> nn.Module:
    whole = net()
    prune.l1_unstructured(whole[3], "weight", 0.5)
    return whole


def spread() -> nn.Module:
    whole = net()
    whole[5].to("meta")
    return whole


NETWORKS = [
    (lambda: nn.DataParallel(net()), "the network is wrapped in DataParallel. Pass what is inside: model.module"),
    (Parallel, "body is wrapped in DataParallel. Pass what is inside: model.body.module"),
    (distributed, "the network is wrapped in DistributedDataParallel. Pass what is inside: model.module"),
    (
        lambda: nn.Sequential(torch.compile(net(), backend="eager")),
        "0 is wrapped in OptimizedModule. Pass what is inside",
    ),
    (lambda: torch.compile(net(), backend="eager"), "wrapped in OptimizedModule. Pass what is inside: model._orig_mod"),
    (compiled_in_place, "3 is compiled in place (model.3.compile())"),
    (scripted, "0 is compiled TorchScript (TopLevelTracedModule)"),
    (quantized, "5 is quantized (torch.ao.nn.quantized"),
    (quantized_tensor, "2.table is quantized (torch.qint8). Cut the network in floating point"),
    (pruned, "3 is Conv2d and keeps a computed tensor as its attribute 'weight'"),
    (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape yet: its layer is lazy. Run the network once"),
    (spread, "spread over devices: 0.weight on cpu and 5.weight on meta. Move it to one"),
    (lambda: torch.sin, "a network is needed, a torch.nn.Module; got builtin_function_or_method"),
    (lambda: net().state_dict(), "a network is needed, a torch.nn.Module; got OrderedDict"),
]


@pytest.mark.parametrize(("build", "message"), NETWORKS, ids=[message[:30] for _, message in NETWORKS])
def test_a_network_that_cannot_be_followed(build, message: str):
    whole = build()
    with pytest.raises(UnsupportedOp, match=re.escape(message)):
        probe(whole, batch())


EXAMPLES = [
    (np.zeros((1, 3, 4, 4), np.float32), "got ndarray. Convert it: torch.from_numpy("),
    ([batch()], "got a list. Give a tuple of arguments"),
    ({"x": batch()}, "got a dictionary. Give the values in the order"),
    ((3, 4, 4), "got a shape. Give a batch of that shape"),
    (torch.Size((1, 3)), "got a shape."),
    (DataLoader(TensorDataset(batch())), "got DataLoader. Take one batch: next(iter(loader))[0]"),
    ("image.png", "got str. Give a batch such as"),
    (None, "got NoneType. Give a batch"),
    (torch.zeros(0, 3, 4, 4), "the example has shape (0, 3, 4, 4), so there is nothing to follow"),
    (torch.tensor(1.0), "the example has shape ()"),
    (batch().double(), "the example is torch.float64, the network torch.float32 (0.weight). Convert it: example.to("),
    (batch().to("meta"), "the example is on meta, the network on cpu (0.weight). Move it: example.to('cpu')"),
]


@pytest.mark.parametrize(("example", "message"), EXAMPLES, ids=[message[:30] for _, message in EXAMPLES])
def test_an_example_of_the_wrong_kind(example, message: str):
    whole = net()
    before = model_trace(whole), global_trace()
    with pytest.raises(ShapeError, match=re.escape(message)):
        probe(whole, example)
    assert (model_trace(whole), global_trace()) == before


class Choosing(nn.Module):
    """Looks at the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return self.second(inner if inner.sum() > 0 else -inner)


class Elsewhere(Choosing):
    """Computes with NumPy what it could compute with PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.from_numpy(np.tanh(self.first(x).detach().numpy())))


class Around(nn.Module):
    """One block that is at fault."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Wrong(nn.Module):
    """A layer that is handed another width than it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("whole", "example", "error", "message"),
    [
        (Choosing(), torch.randn(2, 4), UnsupportedOp, "values"),
        (Around(Choosing()), torch.randn(2, 4), UnsupportedOp, r"in block it reads values .* Move that decision out"),
        (
            Around(Elsewhere()),
            torch.randn(2, 4),
            UnsupportedOp,
            r"in block \(Elsewhere\), .* leaves PyTorch by numpy\(\)",
        ),
        (Wrong(), torch.randn(2, 4), ShapeError, r"second|first"),
        (net(), torch.randn(2, 1, 4, 4), ShapeError, r"\(2, 1, 4, 4\)"),
        (net(), torch.randn(2, 3, 9, 9), ShapeError, r"\(2, 3, 9, 9\)"),
        (net(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ShapeError, r"Give an example batch"),
    ],
    ids=["control flow", "control flow in a block", "numpy", "widths", "channels", "size", "integers"],
)
def test_what_only_shows_when_it_runs(whole, example, error: type[ReverieError], message: str):
    whole.train()
    before = model_trace(whole), global_trace()
    with pytest.raises(error, match=message):
        probe(whole, example)
    assert (model_trace(whole), global_trace()) == before


def tied() -> nn.Module:
    whole = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    whole[3].weight = whole[2].weight
    return whole


def frozen() -> nn.Module:
    whole = net()
    whole[0].requires_grad_(False)
    return whole


class Twice(nn.Module):
    """One layer, called at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.stem(x))
        return self.head(self.same(nn.functional.avg_pool2d(x, 2)).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (tied, torch.randn(3, 4)),
        (frozen, batch()),
        (lambda: net().train(), batch()),
        (lambda: net().double(), batch().double()),
        (Twice, torch.randn(2, 3, 8, 8)),
    ],
    ids=["shared parameters", "frozen layers", "train mode", "double precision", "one layer at two sizes"],
)
def test_what_is_fine_is_cut_and_stays_as_it_is(build, example: Tensor):
    whole = build()
    before = model_trace(whole), global_trace()
    structure = certify(whole, probe(whole, example), example)
    assert (model_trace(whole), global_trace()) == before
    assert structure.free
    kept = {group.name: some_kept(group.units, index) for index, group in enumerate(structure.free)}
    small, record = cut(whole, structure, kept)
    assert [module.training for module in small.modules()] == [module.training for module in whole.modules()]
    needs = {name: parameter.requires_grad for name, parameter in whole.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in small.named_parameters()} == needs
    settled = lively(whole)
    found = cut(settled, structure, kept)[0].eval()(example)
    torch.testing.assert_close(found, surviving(settled, record, example), rtol=1e-5, atol=1e-5)


def test_a_network_on_meta_is_probed_and_cut_but_not_run():
    real, bare = net(), net().to("meta")
    structure = probe(bare, batch().to("meta"))
    assert structure == probe(real, batch())
    small, _ = cut(bare, structure, {"0": [1, 4]})
    assert small[0].weight.shape == (2, 3, 3, 3)
    with pytest.raises(UnsupportedOp, match=r"0\.weight lies on meta, .* Build it on another device"):
        certify(bare, structure, batch().to("meta"))


def test_shared_weights_stay_shared():
    whole = tied()
    example = torch.randn(3, 4)
    structure = probe(whole, example)
    small, _ = cut(whole, structure, {group.name: range(group.units - 1) for group in structure.free})
    assert small[3].weight is small[2].weight


def test_acceptance_itself_changes_nothing():
    whole = net().train()
    one, two = batch(), (batch(), 3)
    before = model_trace(whole), global_trace()
    accept(whole, one)
    accept(whole, two)
    assert (model_trace(whole), global_trace()) == before
