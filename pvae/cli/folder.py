"""The folder of a run: checks, makes, empties and removes it."""

import contextlib
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

from pvae.callbacks import FOLDERS
from pvae.errors import PvaeError
from pvae.runs import EXPORTED, names_of, trusted
from pvae.runtime import LOCK
from pvae.training import FOLDER, WEIGHTS

__all__ = [
    "EXPORTED",
    "RUN_FILES",
    "check_folder",
    "empty_folder",
    "make_folder",
    "remove_folder",
    "require_checkpoint",
    "run_argument",
]

RUN_FILES = (
    "config.yaml",
    "checkpoint.pt",
    "history.csv",
    "evaluation.json",
    "evaluation.nc",
    "report.html",
)


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuses a folder with content, unless it is a run that may be overwritten."""
    try:
        content = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise PvaeError(f"Cannot use {out} as a run folder: {error.strerror}.") from None
    content.discard(LOCK)
    if content and not content & set(RUN_FILES):
        raise PvaeError(f"{out} has content, but no run. Choose another folder.")
    if content and not overwrite:
        raise PvaeError(f"{out} has a run already. Choose another folder, or add --overwrite.")


def make_folder(out: str | None, name: str) -> Path:
    """Makes the folder `out`, or the next `runs/NAME-N`."""
    try:
        if out:
            Path(out).mkdir(parents=True, exist_ok=True)
            return Path(out)
        for number in itertools.count(1):
            folder = Path("runs") / f"{re.sub(r'[^\w.-]', '_', name)}-{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
    except OSError as error:
        raise PvaeError(f"Cannot make {out or 'a folder in runs'}: {error.strerror}.") from None
    raise AssertionError


def empty_folder(out: Path, overwrite: bool) -> None:
    """Removes the files of an older run and nothing else."""
    check_folder(out, overwrite)  # again: another process may have written a run meanwhile
    try:
        for file in RUN_FILES:
            (out / file).unlink(missing_ok=True)
        for folder in (FOLDER, EXPORTED, *FOLDERS):
            if (out / folder).is_dir():
                shutil.rmtree(out / folder)
    except OSError as error:
        raise PvaeError(f"Cannot empty {out}: {error.strerror}.") from None
    shutil.rmtree(out / "evaluation.partial", ignore_errors=True)


def remove_folder(out: Path) -> None:
    """Removes the folder of a run that was not trained."""
    with contextlib.suppress(OSError):
        (out / "config.yaml").unlink(missing_ok=True)
        for folder in (FOLDER, *FOLDERS):
            shutil.rmtree(out / folder, ignore_errors=True)
        out.rmdir()


def require_checkpoint(run: Path) -> None:
    """Raises a PvaeError if a folder is neither a run that was trained nor a saved pair."""
    if not any((run / name).is_file() for name in ("checkpoint.pt", WEIGHTS)):
        raise PvaeError(f"{run} has no checkpoint.pt. `pvae train --resume {run}` makes it.")


def run_argument(run: Path, config: dict[str, Any]) -> str:
    """Returns a run as an argument for a command, with `--trust` if its config needs that."""
    return f"{run}" if trusted(names_of(config)) else f"{run} --trust"
