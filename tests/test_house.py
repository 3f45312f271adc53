"""The package as a whole: its door, its wheel, its lock file, its documents."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import reverie

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "reverie"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCE.rglob("*.md")]


def fresh(code: str) -> str:
    """What a statement prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", reverie.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(reverie, name)
    assert callable(value)
    assert name in dir(reverie)
    assert inspect.getdoc(value)


def test_the_table_the_list_and_the_typed_imports_name_the_same() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    typed = {
        alias.asname: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert typed == reverie.HOMES
    assert list(reverie.HOMES) == reverie.__all__


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'reverie' has no attribute 'shrink'; it has Bank, ImageNetwork, "):
        _ = reverie.shrink  # type: ignore[attr-defined]


# Lower layers first: loading one verb loads the packages below it.
VERBS = ("distill", "dream", "compress")
ORDERS = {
    "the verb first": "import reverie; verb = reverie.{0}; import {1}",
    "the package first": "import reverie; import {1}; verb = reverie.{0}",
    "from the package": "from reverie.{0} import __doc__; from reverie import {0} as verb",
    "under another name": "import {1} as module; from reverie import {0} as verb",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_verb_is_callable_and_a_package_in_any_order_of_imports(order: str) -> None:
    code = "import inspect, sys\n"
    for verb in VERBS:
        home = reverie.HOMES[verb]
        code += f"{order.format(verb, home)}\nfunction = sys.modules[{home!r}].{verb}\n"
        code += "print(callable(verb), inspect.signature(verb) == inspect.signature(function))\n"
    assert fresh(code).split() == ["True", "True"] * len(VERBS)


def test_every_verb_that_shares_its_name_with_a_package_is_tried() -> None:
    assert {name for name in reverie.__all__ if (SOURCE / name).is_dir()} == set(VERBS)


def test_a_verb_passes_on_arguments_results_and_errors() -> None:
    with pytest.raises(TypeError, match=r"distill\(\) missing 3 required positional arguments"):
        reverie.distill()  # type: ignore[call-arg]


def test_the_version_is_the_one_of_the_project() -> None:
    assert reverie.__version__ == PROJECT["project"]["version"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_everything_and_names_no_place() -> None:
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+( ; .+)?", line) for line in lines)
    project = PROJECT["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    asked += PROJECT["build-system"]["requires"]
    assert {canonical(re.match(r"[A-Za-z0-9._-]+", one)[0]) for one in asked} - pinned == set()  # type: ignore[index]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="the build backend is part of the extra `dev`")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_whole_package(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
    }
    assert wanted - held == set()
    assert {name.partition("/")[0] for name in held} == {"reverie", f"reverie-{reverie.__version__}.dist-info"}
    assert any(name.endswith("LICENSE") for name in held)
    assert any(name.endswith(".safetensors") for name in held)


def test_the_wheel_declares_the_command_and_stays_light(wheel: zipfile.ZipFile) -> None:
    info = f"reverie-{reverie.__version__}.dist-info"
    assert "reverie = reverie.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", wheel.read(f"{info}/METADATA").decode(), re.MULTILINE)
    assert {canonical(name) for name in needed} == {
        *("torch", "numpy", "safetensors", "scipy", "pillow", "onnx", "onnxscript", "onnxruntime"),
        *("cyclopts", "pydantic", "rich"),
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    missing = [
        link
        for link in links
        if not re.match(r"[a-z]+:|#", link) and not (path.parent / link.partition("#")[0]).exists()
    ]
    assert missing == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_the_glossary_has_every_public_noun() -> None:
    nouns = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    known = {word.strip() for row in nouns for word in row.split(",")}
    ours = {name for name in reverie.__all__ if inspect.isclass(getattr(reverie, name))}
    assert {name.removeprefix("Image").lower() for name in ours} <= known


def test_python_is_found_by_running_it() -> None:
    def find(python: str | None) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
        environment |= {} if python is None else {"PYTHON": python}
        script = ROOT / "scripts" / "find-python"
        return subprocess.run(["sh", script], capture_output=True, text=True, env=environment)

    assert find(sys.executable).stdout.strip() == sys.executable
    refused = find("false")
    assert refused.returncode == 2
    assert "Reverie needs Python 3.11, 3.12 or 3.13" in refused.stderr
    assert refused.stdout == ""


def test_the_house_has_no_print_no_global_seed_and_no_unfinished_note() -> None:
    # Where code of others draws from the global state, `preserved_rng` stands around the seed.
    seeds = re.compile(r"\b(np|numpy)\.random\.seed\(|\brandom\.seed\(")
    notes = re.compile(r"#\s*(TODO|FIXME|XXX)\b|raise NotImplementedError\b")
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not seeds.search(text), path
        assert not notes.search(text), path
        if "manual_seed(" in text.replace(").manual_seed(", ""):
            assert "preserved_rng" in text, f"{path} seeds the global generator"


def test_continuous_integration_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
