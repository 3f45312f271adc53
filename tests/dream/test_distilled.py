"""Crops against plain indexing, soft labels against the teacher, data sets as other programs read them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reverie.core.errors import CorruptFile, FolderInUse, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event
from reverie.dream import Bank, dream
from reverie.dream.crops import CurriculumCrop, RandomCrop, crop, draw_boxes
from reverie.dream.distilled import SoftLabels, distill_dataset, soft_labels
from reverie.dream.export import export_folder, export_webdataset

SHAPE = (3, 8, 8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_crop_is_the_part_enlarged() -> None:
    images = torch.rand(2, 3, 8, 8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
    seen = crop(images, whole)
    torch.testing.assert_close(seen[0], images[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[1], images[1].flip(-1), rtol=1e-5, atol=1e-5)
    # The lower right quarter of blocks of 4 by 4: every pixel of the crop lies inside one block.
    blocks = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    quarter = crop(blocks, torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.0]]))
    assert torch.equal(quarter[0, 0, 1:, 1:], torch.full((7, 7), 3.0))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    left = crop(ramp, torch.tensor([[0.0, 0.0, 0.5, 1.0, 0.0]]))
    torch.testing.assert_close(left[0, 0, 0, 1:], torch.arange(1, 8) / 2 - 0.25, rtol=1e-4, atol=1e-4)


def test_boxes_lie_inside_and_have_the_areas_asked_for() -> None:
    boxes = draw_boxes(2000, smallest=0.2, largest=0.6, rng=rng())
    left, top, width, height, mirrored = boxes.unbind(1)
    assert float(left.min()) >= 0
    assert float((left + width).max()) <= 1 + 1e-6
    assert float((top + height).max()) <= 1 + 1e-6
    area = width * height
    assert 0.2 - 1e-6 <= float(area.min()) < 0.22
    assert 0.58 < float(area.max()) <= 0.6 + 1e-6
    assert 0.45 < float(mirrored.mean()) < 0.55
    for smallest, largest in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.1)):
        with pytest.raises(RangeError, match="areas need 0 < smallest"):
            draw_boxes(1, smallest=smallest, largest=largest, rng=rng())


def test_the_curriculum_goes_from_the_whole_to_parts() -> None:
    images = torch.rand(4, 1, 8, 8)
    seen = CurriculumCrop(10, smallest=0.1)
    first = seen(images, rng())
    assert all(
        torch.allclose(one, image, atol=1e-5) or torch.allclose(one, image.flip(-1), atol=1e-5)
        for one, image in zip(first, images, strict=True)
    )
    areas = [seen.least_area(step) for step in range(10)]
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] == pytest.approx(0.1)
    later = [seen(images, rng()) for _ in range(9)]
    assert not torch.allclose(later[-1], CurriculumCrop(10, smallest=0.1)(images, rng()))
    assert repr(seen) == repr(CurriculumCrop(10, smallest=0.1))
    assert RandomCrop(0.5)(images, rng()).shape == images.shape


def data_set(network: nn.Module, path: Path | None = None, **changed: object) -> tuple[Bank, SoftLabels]:
    arguments: dict[str, object] = {"per_class": 3, "image_shape": SHAPE, "steps": 4, "views": 2}
    return distill_dataset(network, path=path, **(arguments | changed))  # type: ignore[arg-type]


def test_a_data_set_of_one_image_per_class_and_batch(small_net: nn.Module) -> None:
    bank, labels = data_set(small_net)
    assert len(bank) == 12
    assert bank.labels.view(3, 4).sort(1).values.tolist() == [[0, 1, 2, 3]] * 3
    assert all(part["batch_size"] == 4 for part in bank.config["joined"])
    assert "CurriculumCrop(steps=4" in bank.config["joined"][0]["augment"]
    assert (labels.boxes.shape, labels.logits.shape) == ((2, 12, 5), (2, 12, 4))
    fewer, _ = data_set(small_net, classes=[2, 0])
    assert fewer.labels.tolist() == [2, 0] * 3
    with pytest.raises(RangeError, match="per_class must be at least 1"):
        data_set(small_net, per_class=0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"views": 0}, RangeError, "views must be at least 1, got 0"),
        ({"smallest": 0.0}, RangeError, r"smallest must lie in \(0, 1\], got 0\.0"),
        ({"smallest": 1.5}, RangeError, r"smallest must lie in \(0, 1\], got 1\.5"),
        ({"image_shape": (3, 8)}, ShapeError, "cannot take images of 3 channels, 8 pixels"),
        ({"image_shape": (3, 0, 8)}, ShapeError, "image_shape must be"),
    ],
)
def test_a_data_set_that_cannot_be(
    small_net: nn.Module, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    dreamed: list[Event] = []
    with pytest.raises(error, match=message):
        data_set(small_net, on_event=dreamed.append, **changed)
    assert dreamed == []


def test_a_curriculum_that_cannot_be() -> None:
    with pytest.raises(RangeError, match="steps must be at least 1, got 0"):
        CurriculumCrop(0)
    with pytest.raises(RangeError, match=r"share must lie in \(0, 1\], got 0"):
        CurriculumCrop(5, share=0)
    with pytest.raises(RangeError, match=r"smallest must lie in \(0, 1\], got nan"):
        RandomCrop(float("nan"))


def test_labels_are_the_answers_to_the_views(small_net: nn.Module) -> None:
    bank, labels = data_set(small_net)
    small_net.eval()
    seen = 0
    for images, logits in labels.epochs(bank.images, batch_size=5, seed=1):
        torch.testing.assert_close(small_net(images).detach(), logits, rtol=1e-2, atol=1e-2)
        seen += len(images)
    assert seen == 24
    assert torch.equal(soft_labels(small_net, bank, views=2, smallest=0.25, batch_size=1).boxes, labels.boxes)
    with pytest.raises(ShapeError, match="stored for 12 images, got 3"):
        next(labels.epochs(bank.images[:3], batch_size=1, seed=0))
    with pytest.raises(RangeError, match="batch_size must be at least 1, got 0"):
        next(labels.epochs(bank.images, batch_size=0, seed=0))
    with pytest.raises(RangeError, match="views must be at least 1, got 0"):
        soft_labels(small_net, bank, views=0)


def test_a_data_set_on_disk_goes_on(small_net: nn.Module, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data_set(small_net, tmp_path, on_event=stop)
    bank, labels = data_set(small_net, tmp_path)
    whole, whole_labels = data_set(small_net)
    assert torch.equal(bank.images, whole.images)
    assert torch.equal(labels.logits, whole_labels.logits)
    assert torch.equal(SoftLabels.load(tmp_path / "soft_labels.safetensors").boxes, labels.boxes)
    with pytest.raises(FolderInUse, match="labels of other views"):
        data_set(small_net, tmp_path, views=3)
    (tmp_path / "soft_labels.safetensors").write_bytes(b"nothing that could be tensors")
    with pytest.raises(CorruptFile, match="holds no soft labels"):
        data_set(small_net, tmp_path)
    with pytest.raises(ReferenceNotFound, match="no soft labels in"):
        SoftLabels.load(tmp_path / "absent")


def test_a_folder_of_images(small_net: nn.Module, tmp_path: Path) -> None:
    bank, labels = data_set(small_net)
    folder = export_folder(bank, tmp_path / "out", class_names=["a/b", "cat"], labels=labels)
    assert sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) == ["0002", "0003", "a-b", "cat"]
    place = int((bank.labels == 1).nonzero()[0])
    with Image.open(folder / "cat" / f"{place:06d}.png") as picture:
        assert np.array_equal(np.asarray(picture), bank.images[place].permute(1, 2, 0).numpy())
    assert len(list(folder.rglob("*.png"))) == 12
    assert torch.equal(SoftLabels.load(folder / "soft_labels.safetensors").logits, labels.logits)
    with pytest.raises(FolderInUse, match="is not empty"):
        export_folder(bank, folder)


@pytest.mark.parametrize(
    ("class_names", "folders"),
    [
        (["crane", "crane", "dog"], ["0000", "0001", "0003", "dog"]),
        (["a/b", "a-b", "..", ""], ["0000", "0001", "0002", "0003"]),
        (["0003", "b", "."], ["0000", "0002", "0003", "b"]),
        (["0000", "b", "c", "d", "e"], ["0000", "b", "c", "d"]),
    ],
)
def test_every_class_has_a_folder_of_its_own(tmp_path: Path, class_names: list[str], folders: list[str]) -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    bank = Bank(images, torch.arange(4), torch.zeros(4, 4), torch.arange(4), {})
    folder = export_folder(bank, tmp_path / "out", class_names=class_names)
    assert sorted(entry.name for entry in folder.iterdir()) == folders
    assert len(list(tmp_path.rglob("*.png"))) == len(list(folder.glob("*/*.png"))) == 4


def test_tar_shards_hold_samples_by_name(small_net: nn.Module, tmp_path: Path) -> None:
    bank, labels = data_set(small_net)
    shards = export_webdataset(bank, tmp_path / "a", per_shard=5, labels=labels)
    assert [shard.name for shard in shards] == ["dreams-00000.tar", "dreams-00001.tar", "dreams-00002.tar"]
    again = export_webdataset(bank, tmp_path / "b", per_shard=5, labels=labels)
    assert [one.read_bytes() for one in shards] == [one.read_bytes() for one in again]
    with tarfile.open(shards[1]) as archive:
        parts = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    assert sorted({name.partition(".")[0] for name in parts}) == [f"{index:06d}" for index in range(5, 10)]
    assert sorted(name for name in parts if name.startswith("000007")) == [
        f"000007.{suffix}" for suffix in ("boxes.npy", "cls", "json", "png", "soft.npy")
    ]
    assert int(parts["000007.cls"]) == int(bank.labels[7])
    assert json.loads(parts["000007.json"])["seed"] == int(bank.seeds[7])
    with Image.open(io.BytesIO(parts["000007.png"])) as picture:
        assert np.array_equal(np.asarray(picture), bank.images[7].permute(1, 2, 0).numpy())
    assert np.array_equal(np.load(io.BytesIO(parts["000007.soft.npy"])), labels.logits[:, 7].numpy())


def test_what_cannot_be_exported(small_net: nn.Module, tmp_path: Path) -> None:
    bank = dream(small_net, count=3, image_shape=SHAPE, steps=1)
    _, labels = data_set(small_net)
    with pytest.raises(ShapeError, match="labels of 12 images do not belong to a bank of 3"):
        export_folder(bank, tmp_path / "x", labels=labels)
    with pytest.raises(ShapeError, match="PNG files hold images"):
        export_webdataset(Bank(bank.images[:, :2], bank.labels, bank.logits, bank.seeds, {}), tmp_path / "x")
    with pytest.raises(RangeError, match="per_shard"):
        export_webdataset(bank, tmp_path / "x", per_shard=0)
