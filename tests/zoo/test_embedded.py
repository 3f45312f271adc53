"""The embedded networks are what their cards and the page say."""

from pathlib import Path

import pytest
import torch

from reverie.core.errors import CorruptFile, ReferenceNotFound, ShapeError
from reverie.zoo import embedded
from reverie.zoo.datasets import test_set as embedded_test_set
from reverie.zoo.embedded import cards_table, embedded_names, read_card
from reverie.zoo.load import load
from reverie.zoo.runs import KNOWN_FACTORIES

NAMES = embedded_names()
# What each network was trained to reach at least.
ASKED = {"fashion-resnet20": 0.935, "fashion-vgg": 0.93, "cifar10-resnet20": 0.91, "cifar10-vgg": 0.89}


def test_there_are_networks() -> None:
    assert NAMES


def test_the_page_shows_the_cards() -> None:
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    assert cards_table() in page, "run: python experiments/zoo/publish.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_whole(name: str) -> None:
    card = read_card(name)
    assert card.name == name
    assert card.weights_sha256 is not None, "run: python experiments/zoo/publish.py"
    assert card.factory in KNOWN_FACTORIES
    assert ASKED[name] <= card.test_accuracy < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_as_good_as_its_card_says(name: str) -> None:
    card, network = read_card(name), load(f"zoo:{name}")
    if card.dataset != "fashion-mnist":
        pytest.skip(f"the test set {card.dataset} is not part of the package")
    source = embedded_test_set("fashion-mnist")
    assert source.labels is not None
    pick = slice(0, 1000)
    with torch.no_grad():
        right = (network(source.floats(pick)).argmax(1) == source.labels[pick]).double().mean().item()
    # Three standard errors of a share measured on 1,000 images.
    assert right == pytest.approx(card.test_accuracy, abs=3 * (0.06 * 0.94 / 1000) ** 0.5)


def test_an_unknown_name_names_the_closest() -> None:
    with pytest.raises(ReferenceNotFound, match=rf"the zoo has no network '{NAMES[0]}x'. Did you mean zoo:{NAMES[0]}"):
        load(f"zoo:{NAMES[0]}x")
    with pytest.raises(ReferenceNotFound, match=r"the zoo has no network '\.\./core'"):
        load("zoo:../core")


def test_an_image_shape_that_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"cannot take two images of shape \(5, 28, 28\)"):
        load(f"zoo:{NAMES[0]}", image_shape=(5, 28, 28), mean=[0], std=[1])


def test_weights_that_are_not_those_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(embedded.__file__).parent / "weights"
    (tmp_path / "weights").mkdir()
    for ending in ("json", "safetensors"):
        content = (source / f"{NAMES[0]}.{ending}").read_bytes()
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:] if ending == "safetensors" else content
        (tmp_path / "weights" / f"{NAMES[0]}.{ending}").write_bytes(flipped)
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path)
    with pytest.raises(CorruptFile, match="is not the file that its card describes"):
        load(f"zoo:{NAMES[0]}")
    (tmp_path / "weights" / f"{NAMES[0]}.json").write_text('{"name": 3}')
    with pytest.raises(CorruptFile, match="is damaged"):
        load(f"zoo:{NAMES[0]}")
