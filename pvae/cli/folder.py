"""The folder of a run: checked, made, emptied and removed."""

import contextlib
import itertools
import re
import shutil
from pathlib import Path

from pvae.errors import PvaeError

__all__ = ["RUN_FILES", "check_folder", "empty_folder", "make_folder", "remove_folder"]

RUN_FILES = (
    "config.yaml",
    "checkpoint.pt",
    "history.csv",
    "evaluation.json",
    "evaluation.nc",
    "report.html",
)


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuses a folder that has content, unless it is a run that may be overwritten."""
    from pvae.runtime import LOCK

    try:
        content = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise PvaeError(f"cannot use {out} as a run folder: {error.strerror}") from None
    content.discard(LOCK)
    if content and not content & set(RUN_FILES):
        raise PvaeError(f"{out} has content, but no run: choose another folder")
    if content and not overwrite:
        raise PvaeError(f"{out} has a run already: choose another folder, or add --overwrite")


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
        raise PvaeError(f"cannot make {out or 'a folder in runs'}: {error.strerror}") from None
    raise AssertionError


def empty_folder(out: Path, overwrite: bool) -> None:
    """Removes an older run's files and nothing else."""
    from pvae.training import FOLDER

    check_folder(out, overwrite)  # once more: another process may have been faster
    try:
        for file in RUN_FILES:
            (out / file).unlink(missing_ok=True)
        if (out / FOLDER).is_dir():
            shutil.rmtree(out / FOLDER)
    except OSError as error:
        raise PvaeError(f"cannot empty {out}: {error.strerror}") from None
    shutil.rmtree(out / "evaluation.partial", ignore_errors=True)


def remove_folder(out: Path) -> None:
    """Removes the folder of a run that has not begun."""
    from pvae.training import FOLDER

    with contextlib.suppress(OSError):
        (out / "config.yaml").unlink(missing_ok=True)
        shutil.rmtree(out / FOLDER, ignore_errors=True)
        out.rmdir()
