"""Who imports whom: rooms on floors, arrows that go down, no circles.

`python tests/test_floors.py` prints the rooms with their floors, files, lines and arrows.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "errors": 0,
    "version": 0,
    "runtime": 1,
    "drawing": 1,
    "distributions": 1,
    "nn": 1,
    "data": 2,
    "pair": 2,
    "models": 2,
    "guides": 2,
    "compile": 3,
    "importance": 4,
    "predictive": 5,
    "objectives": 5,
    "evaluation": 5,
    "estimators": 6,  # pvae/estimators.py, a short name
    "exported": 6,
    "training": 6,
    "plot": 6,
    "report": 6,
    "callbacks": 7,
    "diagnosis": 7,
    "runs": 7,
    "face": 8,  # pvae/__init__.pyi
    "cli": 9,
    "__main__": 10,
}
SEEN_BY_PAIRS = {"nn", "distributions", "errors"}


def _files() -> dict[str, Path]:
    """Returns the package's files by module name."""
    found = {}
    for top in ("pvae", "models", "guides"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = ["pvae"] * (top != "pvae") + list(path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


FILES = _files()
FILES["pvae"] = ROOT / "pvae" / "__init__.pyi"  # the table of what is loaded on first use
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def _exported(module: str) -> set[str]:
    """Returns the names in a face's `__all__`."""
    for node in TREES[module].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return {name.value for name in node.value.elts}
    return set()


FACES = {name: _exported(name) for name, path in FILES.items() if path.stem == "__init__"}


def _imported(module: str) -> Iterator[str]:
    """Yields the modules that a file imports, at its top, in functions and for type hints."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["pvae"] * node.level + [node.module] * bool(node.module))
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                is_file = whole in FILES and (node.level or alias.name not in FACES.get(base, ()))
                if is_file or base in FILES:
                    yield whole if is_file else base


ARROWS = {name: {to for to in _imported(name) if to != name} for name in FILES}


def room_of(module: str) -> str:
    """Returns the room of a module: its second name."""
    return module.split(".")[1] if "." in module else "face"


def _between_rooms() -> Iterator[tuple[str, str]]:
    for module, targets in ARROWS.items():
        yield from ((module, to) for to in sorted(targets) if room_of(module) != room_of(to))


def test_every_room_has_a_floor():
    assert {room_of(module) for module in FILES} == set(FLOORS)


def test_imports_go_down():
    up = [f"{a} -> {b}" for a, b in _between_rooms() if FLOORS[room_of(b)] > FLOORS[room_of(a)]]
    assert not up


def test_rooms_are_imported_through_their_faces():
    past = [f"{a} -> {b}" for a, b in _between_rooms() if b.count(".") > 1 and a != "pvae"]
    assert not past


def test_models_and_guides_see_neither_the_library_nor_each_other():
    seen = {(room_of(a), room_of(b)) for a, b in _between_rooms()}
    for pairs in ("models", "guides"):
        assert {to for room, to in seen if room == pairs} <= SEEN_BY_PAIRS
        assert {room for room, to in seen if to == pairs} <= {"face", "cli"}


def test_there_is_no_circle():
    sorter = graphlib.TopologicalSorter(ARROWS)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", sorted(m for m in FACES if m.count(".") == 1))
def test_a_face_says_what_its_room_is_for_and_what_it_may_import(module):
    text = ast.get_docstring(TREES[module])
    room = room_of(module)
    if room in ("models", "guides"):
        may = SEEN_BY_PAIRS
    elif room == "cli":
        assert "Imports every room." in text
        return
    else:
        (said,) = re.findall(r"^Imports (.+?)\.$", text, re.MULTILINE | re.DOTALL)
        may = set(re.findall(r"`(\w+)`", said))
        assert {to for to in may if FLOORS[to] > FLOORS[room]} == set()
    does = {room_of(b) for a, b in _between_rooms() if room_of(a) == room} - {"version"}
    assert does <= may


def _print() -> None:
    between = set(_between_rooms())
    print(f"{'room':<14} floor  files  lines  imports")
    for room in sorted(FLOORS, key=FLOORS.__getitem__):
        mine = [module for module in FILES if room_of(module) == room]
        lines = sum(len(FILES[module].read_text("utf-8").splitlines()) for module in mine)
        to = sorted({room_of(b) for a, b in between if room_of(a) == room})
        print(f"{room:<14} {FLOORS[room]:>5} {len(mine):>6} {lines:>6}  {' '.join(to)}")
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in FILES.values())
    rooms = {(room_of(a), room_of(b)) for a, b in between}
    print(
        f"{len(FILES)} files, {lines:,} lines; {len(rooms)} arrows between rooms, "
        f"{sum(map(len, ARROWS.values()))} between files"
    )


if __name__ == "__main__":
    _print()
