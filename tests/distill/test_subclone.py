"""A student that starts from its teacher: which units, which blocks, and what is refused."""

import pytest
import torch
from torch import nn

from reverie.core.errors import ShapeError
from reverie.core.rng import preserved_rng
from reverie.distill import subclone
from reverie.graph import cut, probe
from reverie.zoo.networks import CifarResNet, CifarVGG

EXAMPLE = torch.zeros(2, 3, 16, 16)


def resnet(seed: int, *, blocks: int = 3, widths: tuple[int, int, int] = (8, 8, 16)) -> CifarResNet:
    with preserved_rng():
        torch.manual_seed(seed)
        network = CifarResNet(blocks=blocks, widths=widths, num_classes=4)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
    return network.eval()


def test_a_student_as_large_as_its_teacher_is_its_teacher() -> None:
    teacher = resnet(0)
    made = subclone(teacher, resnet(1), EXAMPLE)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert made.left == ()
    assert torch.equal(made.network.eval()(images), teacher(images))


def test_the_heaviest_units_are_kept_in_their_order() -> None:
    teacher, student = (nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2)) for width in (4, 2))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0]]))
        teacher[0].bias.zero_()
        teacher[2].weight.copy_(torch.tensor([[9.0, 1.0, 1.0, 0.5], [0.0, 1.0, 1.0, 0.5]]))
    # Products of norms: 9, 3 sqrt 2, 2 sqrt 2, sqrt 0.5. Kept are units 0 and 1.
    made = subclone(teacher, student, torch.zeros(1, 2)).network
    assert torch.equal(made[0].weight, teacher[0].weight[:2])
    assert torch.equal(made[2].weight, teacher[2].weight[:, :2])
    assert torch.equal(made[2].bias, teacher[2].bias)


def test_a_narrower_student_is_a_cut_of_its_teacher() -> None:
    teacher, student = resnet(0), resnet(1, widths=(4, 6, 8))
    made = subclone(teacher, student, EXAMPLE)
    assert made.left == ()
    structure, kept = probe(teacher, EXAMPLE), {}
    ours = made.network.state_dict()
    for group in structure.groups:
        norm = next((part.tensor for part in group.slices if part.tensor.endswith("running_mean")), None)
        if norm is None:
            continue
        whole, part = teacher.state_dict()[norm].tolist(), ours[norm].tolist()
        kept[group.name] = [whole.index(value) for value in part]
    oracle, _ = cut(teacher, structure, kept)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(made.network.eval()(images), oracle(images), atol=1e-6)


def test_a_shallower_student_has_the_first_the_last_and_some_between() -> None:
    teacher, made = resnet(0, blocks=5), subclone(resnet(0, blocks=5), resnet(1), EXAMPLE)
    assert made.left == ()
    for ours, theirs in ((0, 0), (1, 2), (2, 4)):
        for stage in (1, 2, 3):
            one = made.network.get_submodule(f"layer{stage}.{ours}").state_dict()
            other = teacher.get_submodule(f"layer{stage}.{theirs}").state_dict()
            assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_networks_are_untouched() -> None:
    teacher, student = resnet(0), resnet(1, widths=(4, 6, 8))
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in (teacher, student)]
    subclone(teacher, student, EXAMPLE)
    for network, state in zip((teacher, student), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_wider_students_and_strangers_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"wants 12 units where the teacher's .* has 8"):
        subclone(resnet(0), resnet(1, widths=(12, 8, 16)), EXAMPLE)
    with pytest.raises(ShapeError, match=r"no tensor of the student .* has a counterpart in the teacher"):
        subclone(resnet(0), nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE)


def test_layers_without_a_counterpart_stay_and_are_listed() -> None:
    teacher, student = CifarVGG(stages=((8,), (8,))), CifarVGG(stages=((8,), (8,)))
    student.extra = nn.Linear(2, 2)
    made = subclone(teacher, student, EXAMPLE)
    assert made.left == ("extra.weight", "extra.bias")
    assert torch.equal(made.network.get_parameter("extra.weight"), student.extra.weight)
