"""The house keeps its order: no room imports one to its right on the road of the data, no files form a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepclust"
# The road of the data, from left to right. A room is a folder, or a file at the top of the package.
ROAD = (
    "runtime",
    "features",
    "extraction",
    "notebook_methods",
    "clustering",
    "spherical_kmeans",
    "neighbors",
    "reduction",
    "clusterers",
    "losses",
    "training",
    "metrics",
    "cuts",
    "estimators",
    "finetuning",
    "subsets",
    "zero_shot",
    "report",
    "runs",
    "cli",
)
# The one file that looks to its right: its methods import the report when one of them is called.
LOOKS_RIGHT = "deepclust.notebook_methods"
# Right of the features, these alone look at images or at encoders: training encoders, data by name, contact sheets,
# neighbor rows.
SEE_IMAGES = {"finetuning", "runs", "cli", "zero_shot", "report"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "__main__.py":
            continue
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of this package that a file imports anywhere in it, but for `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "deepclust":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


KNOWN = modules()
IMPORTS = {module: sorted(set(imported(path, KNOWN)) - {module}) for module, path in KNOWN.items()}
SEEN_BY_NOTEBOOKS = IMPORTS.pop(LOOKS_RIGHT)
IMPORTS[LOOKS_RIGHT] = []


def test_every_room_stands_on_the_road():
    assert {room_of(module) for module in KNOWN} - {""} == set(ROAD)


@pytest.mark.parametrize("room", ROAD)
def test_no_room_imports_a_room_to_its_right(room):
    to_the_right = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        if room_of(module) == room
        for other in others
        if room_of(other) and ROAD.index(room_of(other)) > ROAD.index(room)
    ]
    assert to_the_right == []


def test_notebooks_look_at_one_file_of_the_report_alone():
    assert SEEN_BY_NOTEBOOKS == ["deepclust.report.notebook"]


def test_only_the_ends_of_the_road_see_images_and_encoders():
    seers = {room_of(module) for module, others in IMPORTS.items() if any(room_of(o) == "extraction" for o in others)}
    assert seers <= SEE_IMAGES | {"extraction"}


def test_no_files_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in IMPORTS[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in KNOWN:
        visit(module, ())


def test_no_two_modules_have_one_name_for_different_things():
    names = [module.rsplit(".", 1)[-1] for module in KNOWN if KNOWN[module].name != "__init__.py"]
    once = {"base", "extract"}  # of losses and of clusterers; a command beside what it runs
    assert sorted(name for name in set(names) - once if names.count(name) > 1) == []
