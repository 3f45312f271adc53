import pytest
import torch

from reverie.bench.against_torch_pruning import Effort, compared
from reverie.bench.choose import CHOOSE
from reverie.bench.evidence import COMPARED, oracle_data
from reverie.bench.figure import Measured, run_bench
from reverie.bench.pruned_detector import Joined, loss_scores
from reverie.bench.vision_transformer import KINDS, kept_evenly, kept_overall, mlps_and_heads, without_training
from reverie.bench.when_to_prune import Setting, when_to_prune
from reverie.compress.importance import magnitude_scores
from reverie.core.events import silent
from reverie.core.network import ImageNetwork
from reverie.core.source import noise_source
from reverie.cost.onnx import export_onnx, run_onnx, session
from reverie.distill.detector import SmallDetector, make_scenes
from reverie.graph import probe
from reverie.zoo.datasets import test_set as embedded_images


def test_every_figure_has_a_name_of_its_own_and_a_command():
    questions = [question for job in CHOOSE for question in job.questions]
    names = [question.name for question in questions]
    assert len(set(names)) == len(names)
    assert all(question.command == f"reverie bench choose --only {question.name}" for question in questions)


def test_what_cannot_be_run_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, _ = run_bench("choose", CHOOSE, only=("deit-gain",))
    found = {figure["name"]: figure for figure in value["figures"]}
    assert found["deit-gain"]["value"] is None
    assert found["deit-gain"]["holds"] is None
    assert "needs data/deit_tiny" in found["deit-gain"]["reason"]


def test_the_oracle_is_published_unit_by_unit():
    data = oracle_data("fashion-resnet20", images=16)
    units = sum(count for _, count in data["units"])
    kinds = {kind for pair in COMPARED.values() for kind in pair}
    assert kinds < data.keys()
    assert all(len(data[kind]) == units for kind in kinds)
    assert data["images"] == 16
    # One batch of sixteen: its square is the square of the mean over all of them.
    assert data["squared"] == pytest.approx([value**2 for value in data["whole_set_signed"]], rel=1e-3, abs=1e-12)


def test_when_to_prune_tries_every_epoch():
    setting = Setting(epochs=2, images=64, judged=64, seeds=1, widths=(4, 4, 4))
    found = when_to_prune(silent, setting)
    assert found["epi-epoch"].value == 1, "too few epochs to look back, so the last one"
    assert found["epi-best-epoch"].value in (0, 1)
    assert found["epi-distance"].value == abs(1 - found["epi-best-epoch"].value)
    assert min(found["epi-points-lost"].value, found["epi-first-epoch-lost"].value) >= 0


def test_scores_of_a_detector_are_zero_for_units_that_are_silent():
    scenes = make_scenes(embedded_images("fashion-mnist"), count=16, seed=0)
    torch.manual_seed(0)
    body = Joined(SmallDetector(classes=10, channels=1, width=4)).eval()
    with torch.no_grad():
        body.detector.fine[1][0].weight[:, 2] = 0
    images = torch.rand(3, 1, 96, 96)
    assert torch.equal(body(images), torch.cat(body.detector(images), dim=-1))
    network = ImageNetwork(body, image_shape=(1, 96, 96))
    assert run_onnx(session(export_onnx(network)), images.numpy()).shape == body(images).shape
    structure = probe(body, torch.zeros(2, 1, 96, 96))
    scores = loss_scores(body, structure, scenes)
    first = scores[structure.free[0].name]
    assert first[2] == 0
    assert (first[[0, 1, 3]] > 0).all()


def tiny_transformer():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": 12, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 24, "depth": 2}
    body = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_heads=4, **size)
    return ImageNetwork(body, image_shape=(1, 12, 12)).eval()


def test_units_and_heads_are_taken_evenly_or_the_smallest_of_all():
    network = tiny_transformer()
    structure = probe(network.body, torch.zeros(2, 1, 12, 12))
    hidden, heads = mlps_and_heads(structure)
    assert [group.units for group in hidden] == [96, 96]
    assert [group.units for group in heads] == [4, 4], "heads, and not their channels"
    scores = magnitude_scores(network, structure)
    evenly, overall = (kept(structure, scores) for kept in (kept_evenly, kept_overall))
    assert {name: len(units) for name, units in evenly.items()} == dict.fromkeys(
        [group.name for group in hidden], 67
    ) | dict.fromkeys([group.name for group in heads], 3)
    for kind in (hidden, heads):
        values = torch.cat([scores[group.name].value for group in kind])
        kept = torch.cat([scores[group.name].value[list(overall[group.name])] for group in kind])
        assert len(kept) == sum(len(evenly[group.name]) for group in kind)
        assert torch.equal(kept.sort().values, values.sort().values[-len(kept) :])


def test_a_transformer_loses_units_and_heads_of_every_block():
    network = tiny_transformer()
    images = noise_source(count=24, image_shape=(1, 12, 12), seed=0)
    found = without_training("tiny", network, images, images, dreams=8, dream_steps=2, on_event=silent)
    assert found.keys() == {"tiny-gain", "tiny-gain-from-dreams", *(f"tiny-{kind}" for kind in KINDS)}
    value = {name.removeprefix("tiny-"): one.value for name, one in found.items()}
    theirs = max(value["magnitude"], value["magnitude-overall"])
    assert value["gain"] == pytest.approx(100 * (value["ours"] - theirs))
    assert value["gain-from-dreams"] == pytest.approx(100 * (value["from-dreams"] - theirs))
    assert value["ours"] >= value["not-refitted"]


def test_the_other_library_is_compared_with_in_the_folder_that_was_named(tmp_path, monkeypatch):
    folders = []

    def noted(effort, *, folder, on_event):
        folders.append(folder)
        return {"torch-pruning-gain": Measured(1.0)}

    monkeypatch.setattr("reverie.bench.against_torch_pruning.compared", noted)
    run_bench("choose", CHOOSE, only=("torch-pruning-gain",))
    run_bench("choose", CHOOSE, only=("torch-pruning-gain",), folder=tmp_path)
    assert folders == [None, tmp_path / "torch-pruning-gain"]


@pytest.mark.nightly
def test_both_sides_are_pruned_to_the_same_latency_and_kept(tmp_path):
    pytest.importorskip("torch_pruning")
    try:
        found = compared(Effort(steps=2, tested=200, depth=20), folder=tmp_path, on_event=silent)
    except Exception as error:  # noqa: BLE001  no CIFAR-10 here
        pytest.skip(str(error))
    assert found["torch-pruning-reverie-latency"].value <= 0.5
    assert len(list((tmp_path / "stages").iterdir())) == 3
