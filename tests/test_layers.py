"""The arrows of the architecture, read from the imports: down only, no cycle, and no torch behind the command line."""

import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from make_architecture import (
    BEGIN,
    END,
    LAYERS,
    PAGE,
    SIBLINGS,
    Arrow,
    arrows,
    between_packages,
    modules,
    package_of,
    redrawn,
)

LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "onnx", "onnxscript", "onnxruntime", "PIL", "safetensors")


def test_every_package_has_a_layer() -> None:
    packages = {package_of(name) for name in modules()} - {""}
    assert packages <= LEVEL.keys(), f"add {sorted(packages - LEVEL.keys())} to LAYERS in docs/make_architecture.py"


def test_arrows_point_down() -> None:
    wrong = {
        f"{arrow.importer}:{arrow.line} imports {arrow.imported}"
        for (importer, imported), found in between_packages(arrows()).items()
        for arrow in found
        if LEVEL[importer] <= LEVEL[imported] and (importer, imported) not in SIBLINGS
    }
    assert wrong == set()


def test_allowed_siblings_are_siblings_in_use() -> None:
    used = between_packages(arrows())
    assert all(LEVEL[one] == LEVEL[other] and (one, other) in used for one, other in SIBLINGS)


def test_the_door_is_not_used_from_inside() -> None:
    assert [arrow for arrow in arrows() if arrow.imported == "reverie"] == []


def test_modules_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for arrow in arrows():
        if not arrow.typing_only and arrow.importer != arrow.imported:
            graph[arrow.importer].add(arrow.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_drawing_is_current() -> None:
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    assert redrawn(page) == page, "run: make architecture"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a statement loads in a fresh interpreter."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert loaded_by("import reverie") & {*HEAVY, "pydantic", "rich", "cyclopts"} == set()


def test_the_command_line_starts_without_torch() -> None:
    names = [name for name in modules() if package_of(name) == "cli" and not name.endswith("__main__")]
    assert "reverie.cli.main" in names
    assert loaded_by("\n".join(f"import {name}" for name in names)) & set(HEAVY) == set()


def test_the_reader_of_arrows_sees_every_kind(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "core/__init__.py": "",
        "core/a.py": "import reverie.core.b\nfrom reverie.core import b\nfrom reverie.core.b import x\n",
        "core/b.py": "def f():\n    from .a import y\n",
        "core/c.py": "import typing\nif typing.TYPE_CHECKING:\n    from . import a\nelse:\n    import reverie\n",
        "core/d.py": "from ..core.b import x\nimport json, reverie.core.a as other\nfrom json import loads\n",
    }
    for name, text in files.items():
        path = tmp_path / "reverie" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    core = "reverie.core"
    assert arrows(tmp_path) == [
        *(Arrow(f"{core}.a", f"{core}.b", line) for line in (1, 2, 3)),
        Arrow(f"{core}.b", f"{core}.a", 2, lazy=True),
        Arrow(f"{core}.c", f"{core}.a", 3, typing_only=True),
        Arrow(f"{core}.c", "reverie", 5),
        Arrow(f"{core}.d", f"{core}.b", 1),
        Arrow(f"{core}.d", f"{core}.a", 2),
    ]
