"""Copies the source files of a run's programs into its folder, and reads runs with them."""

import contextlib
import copy
import importlib
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvae.errors import PvaeError

__all__ = ["FOLDER", "beside", "keep_source", "with_class", "with_own_source"]

FOLDER = "source"


def keep_source(run: Path, config: dict[str, Any]) -> None:
    """Copies the source files of a pair into the run's folder, except those of packages.

    They are the files that class paths name, and the modules that these have imported from
    their own folders. With them the run can be evaluated and reported from anywhere.

    Args:
        run: The run's folder.
        config: Its config. The model and the guide have been built.

    Raises:
        PvaeError: If two of the files have the same name.
    """
    for part in with_class(config):
        for original, relative in _files(part["class_path"]).items():
            target = run / FOLDER / relative
            if target.exists() and target.read_bytes() != original.read_bytes():
                raise PvaeError(
                    f"Two files of the pair are called {relative}. Rename one of them, so that the "
                    "run can keep both."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, target)


def with_own_source(run: Path, config: dict[str, Any], *, missing: bool = False) -> dict[str, Any]:
    """Returns a run's config with class paths that name the copies in its folder.

    Warns if a copy differs from the file that the config names, relative to the current folder.

    Args:
        run: The run's folder.
        config: Its config.
        missing: Whether to use a copy only if the file itself is missing.
    """
    config, changed = copy.deepcopy(config), {}
    for part in with_class(config):
        path, colon, name = part["class_path"].rpartition(":")
        kept = run / FOLDER / Path(path).name
        if not (colon and path.endswith(".py") and kept.is_file()):
            continue
        original = Path(path).expanduser()
        if original.is_file():
            if missing:
                continue
            if original.read_bytes() != kept.read_bytes():
                changed[path] = kept
        part["class_path"] = f"{kept}:{name}"
    for path, kept in changed.items():
        warnings.warn(
            f"{path} has changed since {run} was trained: the run's own copy {kept} is used.",
            stacklevel=2,
        )
    return config


def with_class(config: Any) -> Iterator[dict[str, Any]]:
    """Yields every part of a config that has a class path, each once."""
    seen, todo = set(), [config]
    while todo:
        part = todo.pop()
        if id(part) in seen or not isinstance(part, dict | list):
            continue
        seen.add(id(part))
        todo += part.values() if isinstance(part, dict) else part
        if isinstance(part, dict) and isinstance(part.get("class_path"), str):
            yield part


def _files(name: str) -> dict[Path, Path]:
    """Returns a program's file and the loaded modules beside it, with relative paths."""
    path, colon, _ = name.rpartition(":")
    if not (colon and path.endswith(".py")):
        return {}  # a package's, which its name finds
    file = Path(path).expanduser().resolve()
    found = {file: Path(file.name)}
    installed = [Path(p).resolve() for p in sysconfig.get_paths().values()]
    for module in list(sys.modules.values()):
        named = getattr(module, "__file__", None)
        if not isinstance(named, str) or not (named.endswith(".py") and Path(named).is_absolute()):
            continue
        other = Path(named).resolve()
        if not (other.is_relative_to(file.parent) and other.is_file()):
            continue
        inside = [p for p in installed if other.is_relative_to(p) and p.is_relative_to(file.parent)]
        beside = other.parent == file.parent or (other.parent / "__init__.py").is_file()
        mine = module.__name__.partition(".")[0] in ("pvae", "__main__")
        if not (inside or mine) and beside:
            found[other] = other.relative_to(file.parent)
    return found


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Lets a copied file import the modules copied with it in place of others of the same name."""
    names = {
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for file in folder.rglob("*.py")
    }
    others = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
