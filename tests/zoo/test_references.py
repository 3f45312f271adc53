"""References are taken apart without opening anything."""

from pathlib import Path

import pytest

from reverie.core.errors import ReferenceNotFound
from reverie.zoo.references import ArchitectureReference, PathReference, Reference, ZooReference, parse


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("zoo:fashion-vgg", ZooReference("fashion-vgg")),
        ("timm:resnet18", ArchitectureReference("timm:resnet18", {}, None)),
        ("timm:resnet18.a1_in1k@w.pth", ArchitectureReference("timm:resnet18.a1_in1k", {}, "w.pth")),
        ("a.b:make@/data/w.safetensors", ArchitectureReference("a.b:make", {}, "/data/w.safetensors")),
        (
            "a:B(x=(1, 2), y='@(', z=None)@w@2(1).pth",
            ArchitectureReference("a:B", {"x": [1, 2], "y": "@(", "z": None}, "w@2(1).pth"),
        ),
        ("a:B()@initial", ArchitectureReference("a:B", {}, "initial")),
        ("runs/small", PathReference(Path("runs/small"))),
        ("model.pt2", PathReference(Path("model.pt2"))),
        (Path("zoo:x"), PathReference(Path("zoo:x"))),
    ],
)
def test_forms(text: str | Path, wanted: Reference) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "arguments", ["(3)", "(x=open('f'))", "(x=1", "(**{})", "(x={1, 2})", "(x=1e999)", "(x=1)(y=2)"]
)
def test_arguments_are_literals(arguments: str) -> None:
    if arguments == "(x=1":
        assert parse(f"a:B{arguments}@w") == PathReference(Path(f"a:B{arguments}@w"))
        return
    with pytest.raises(ReferenceNotFound, match="they must be name=value pairs"):
        parse(f"a:B{arguments}@w")


@pytest.mark.parametrize("text", ["", "  "])
def test_empty(text: str) -> None:
    with pytest.raises(ReferenceNotFound, match="the model reference is empty"):
        parse(text)
