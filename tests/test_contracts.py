"""What every public name says of itself, and how long a function may be."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import reverie

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "reverie"
LONGEST, LONG, MOST_LONG = 90, 60, 10


def stated_names(path: Path) -> set[str]:
    """The names in a module's `__all__`."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            return set(ast.literal_eval(node.value))
    return set()


def public() -> dict[str, Any]:
    """Functions and classes that users import from the door or from a package, by their full name."""
    packages = [info.name for info in pkgutil.walk_packages(reverie.__path__, "reverie.") if info.ispkg]
    found: dict[str, Any] = {name: getattr(importlib.import_module(home), name) for name, home in reverie.HOMES.items()}
    for package in packages:
        if package.split(".")[1] not in ("cli", "bench"):
            module = importlib.import_module(package)
            found |= {name: getattr(module, name) for name in getattr(module, "__all__", ()) if name not in found}
    return {name: one for name, one in found.items() if isinstance(one, type | FunctionType)}


PUBLIC = public()
FUNCTIONS = {name: one for name, one in PUBLIC.items() if isinstance(one, FunctionType)}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_every_stated_name_has_a_docstring(path: Path) -> None:
    names = stated_names(path)
    bare = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_spoken_of(name: str) -> None:
    said = inspect.getdoc(FUNCTIONS[name]) or ""
    asked = list(inspect.signature(FUNCTIONS[name]).parameters)
    # One or two are told apart by the first line; their shapes are said where they are tensors.
    silent = [argument for argument in asked if not re.search(rf"\b{argument}\b", said)] if len(asked) > 2 else []
    assert silent == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_raised_is_announced(name: str) -> None:
    function = FUNCTIONS[name]
    found = list(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body)  # type: ignore[attr-defined]
    raises = False
    while found:
        node = found.pop()
        raises |= isinstance(node, ast.Raise) and node.exc is not None
        # What a function inside raises, it raises when it is called.
        found += [] if isinstance(node, ast.FunctionDef | ast.Lambda) else list(ast.iter_child_nodes(node))
    assert not raises or "Raises:" in (inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    said = inspect.getdoc(PUBLIC[name]) or ""
    assert re.search(r"^\s*Example:\n\s+>>> ", said, re.MULTILINE)
    assert "+SKIP" not in said


@pytest.mark.parametrize("name", PUBLIC)
def test_fields_of_results_are_described(name: str) -> None:
    said = inspect.getdoc(PUBLIC[name]) or ""
    fields = [field for field in getattr(PUBLIC[name], "__dataclass_fields__", ()) if not field.startswith("_")]
    silent = [field for field in fields if not re.search(rf"\b{field}\b", said)] if len(fields) > 2 else []
    assert silent == []


def test_functions_are_short() -> None:
    lengths = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                has_text = ast.get_docstring(node) is not None
                text = node.body[0].end_lineno - node.body[0].lineno + 1 if has_text else 0  # type: ignore[operator]
                lengths[f"{path.relative_to(SOURCE)}:{node.name}"] = node.end_lineno - node.lineno + 1 - text  # type: ignore[operator]
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert len([name for name, length in lengths.items() if length > LONG]) <= MOST_LONG


def test_the_tests_that_the_laws_name_are_there() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text()
    path = None
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", page)
    assert len([test for _, test in named if test]) > 20
    for file, test in named:
        path = ROOT / file if file else path
        if file or test:
            assert path is not None
            assert path.exists(), file
            assert not test or f"def {test}(" in path.read_text(), test
