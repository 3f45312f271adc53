"""Read the import arrows of the package, and draw them into docs/architecture.md: `make architecture`."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by `make architecture` -->", "<!-- end of the drawing -->"

# From the ground up. A package may import from the layers below its own; packages of one layer do not know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("graph", "cost", "metrics", "zoo"),
    ("dream", "distill"),
    ("compress", "teach"),
    ("report",),
    ("bench",),
    ("cli",),
)

# Arrows between packages of one layer that are wanted, each with its reason.
SIBLINGS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Arrow:
    """One module imports another.

    Attributes:
        importer: Dotted name.
        imported: Dotted name.
        line: Where the importer says so.
        typing_only: Under `if TYPE_CHECKING`, so not at run time.
        lazy: Inside a function, so not when the importer is loaded.
    """

    importer: str
    imported: str
    line: int
    typing_only: bool = False
    lazy: bool = False


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Every module of the package, by dotted name."""
    found = {}
    for path in sorted((source / "reverie").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(source: Path = SOURCE) -> list[Arrow]:
    """Every import of one module of the package by another."""
    known = modules(source)
    return [
        arrow
        for name, path in known.items()
        for arrow in _arrows_of(name, ast.parse(path.read_text()), set(known), is_package=path.name == "__init__.py")
    ]


def _arrows_of(importer: str, tree: ast.Module, known: set[str], *, is_package: bool) -> Iterator[Arrow]:
    def visit(node: ast.AST, *, typing_only: bool, lazy: bool) -> Iterator[Arrow]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported in _targets(node, importer if is_package else importer.rpartition(".")[0], known):
                yield Arrow(importer, imported, node.lineno, typing_only, lazy)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            for child in node.body:
                yield from visit(child, typing_only=True, lazy=lazy)
            for child in node.orelse:
                yield from visit(child, typing_only=typing_only, lazy=lazy)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, typing_only=typing_only, lazy=lazy)

    yield from visit(tree, typing_only=False, lazy=False)


def _targets(node: ast.Import | ast.ImportFrom, package: str, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        # `from package import name` loads the module `package.name` where there is one, else the package.
        whole = f"{base}.{alias.name}"
        if whole in known or base in known:
            yield whole if whole in known else base


def package_of(module: str) -> str:
    """`reverie.dream.loop` -> `dream`; the door, `reverie` itself, is the empty string.

    `reverie.__main__` is the command line: it runs it, and nothing imports it.
    """
    package = module.partition(".")[2].partition(".")[0]
    return "cli" if package == "__main__" else package


def between_packages(found: list[Arrow]) -> dict[tuple[str, str], list[Arrow]]:
    """The arrows that leave their package, by (from, to). The door and typing do not count."""
    grouped: dict[tuple[str, str], list[Arrow]] = {}
    for arrow in found:
        pair = package_of(arrow.importer), package_of(arrow.imported)
        if pair[0] != pair[1] and all(pair) and not arrow.typing_only:
            grouped.setdefault(pair, []).append(arrow)
    return dict(sorted(grouped.items()))


def drawing(found: list[Arrow]) -> str:
    """The packages and their arrows as a mermaid flowchart, upper layers on top."""
    lines = ["```mermaid", "flowchart TD"]
    present = {package_of(name) for name in modules()}
    for level in reversed(range(len(LAYERS))):
        lines.append(f'  subgraph L{level}["layer {level}"]')
        lines.extend(f"    {package}" for package in LAYERS[level] if package in present)
        lines.append("  end")
    # Core is below everything: drawing that would hide the rest.
    lines.extend(f"  {importer} --> {imported}" for importer, imported in between_packages(found) if imported != "core")
    return "\n".join([*lines, "```"])


def redrawn(page: str) -> str:
    """The page with the drawing between its two marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing(arrows())}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
    sys.stdout.write(f"drew {PAGE.relative_to(ROOT)}\n")
