"""Reads the evaluation in a run folder, if it is of the same pair, data and seed, and saves it."""

import warnings
from pathlib import Path

from pvae.errors import PvaeError
from pvae.evaluation.result import Evaluation
from pvae.evaluation.work import Work

__all__ = ["former", "save"]


def former(folder: Path | None, work: Work) -> Evaluation | None:
    """Returns the evaluation in a folder if its key is the same; the first process reads it."""
    return work.gather(None if work.rank else _read(folder, work.key))[0]


def _read(folder: Path | None, key: str) -> Evaluation | None:
    if folder is None or not (folder / "evaluation.nc").exists():
        return None
    try:
        former = Evaluation.load(folder)
    except PvaeError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        warnings.warn(f"{error} It is written now.", stacklevel=5)
        return None
    if former.key == key:
        former.save_summary(folder)  # a kill between the two files left an old one, or none
        return former
    lost = [found.title for name, found in former.in_order() if name != "code"]
    warnings.warn(
        f"The evaluation in {folder} is of another pair, data, seed, precision or number of "
        f"samples (seed {former.seed}, K = {former.num_samples}). It is replaced, and its other "
        f"results are lost: {', '.join(lost) or 'none'}.",
        stacklevel=5,
    )
    return None


def save(evaluation: Evaluation, folder: Path | None, work: Work) -> Evaluation:
    """Saves an evaluation, and deletes the cached blocks that it was made of."""
    if folder is not None and work.rank == 0:
        evaluation.save(folder)
    work.saved()
    return evaluation
