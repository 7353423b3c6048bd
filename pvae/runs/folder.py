"""Reads a run's folder, or a saved pair's: the trained pair and its history."""

import csv
import os
from pathlib import Path
from typing import Any

from pvae.errors import PvaeError
from pvae.pair import Program
from pvae.runs.build import build_pair
from pvae.runs.config import read_config
from pvae.training import read_checkpoint, read_state, restore_pair, with_own_source

__all__ = ["load", "read_history", "read_made"]


def load(
    run: str | os.PathLike[str],
    *,
    model: Program | None = None,
    guide: Program | None = None,
    trust: bool = False,
) -> tuple[Program, Program]:
    """Loads the trained pair of a run folder, or of a folder that `pvae.save` wrote.

    Args:
        run: The folder that `pvae.save`, `fit(..., out=run)` or the shell wrote.
        model: The model that was trained, newly built; needed if pvae cannot build it (closures,
            classes defined in the cells of a notebook).
        guide: The guide, likewise.
        trust: Whether the run's config may name code outside of pvae, torch and Pyro. Loading
            such a run runs that code.

    Returns:
        Model and guide with the run's parameters, on the CPU.

    Raises:
        PvaeError: The folder has no parameters, or they are damaged, of another pair or would run
            code; or pvae cannot build the pair and it was not passed.

    Example:
        >>> import tempfile, torch, pvae
        >>> model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> x = torch.zeros(16, 1, 8, 8)
        >>> folder = tempfile.mkdtemp()
        >>> _ = pvae.fit(model, guide, x, epochs=1, batch_size=16, out=folder, progress=False)
        >>> again = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> model, guide = pvae.load(folder, model=again[0], guide=again[1])
    """
    state, names = read_state(run)
    if (model is None) != (guide is None):
        raise PvaeError("Pass both model= and guide=, or neither.")
    if model is None or guide is None:
        if not (Path(run) / "config.yaml").exists():
            raise PvaeError(
                f"{run} has no config.yaml, so pvae cannot build its pair ({names[0]}, "
                f"{names[1]}). Build the pair and call "
                "pvae.load(run, model=model, guide=guide)."
            )
        config = with_own_source(Path(run), read_config(run, trust=trust, data=False))
        model, guide = build_pair(config)
    restore_pair(model, guide, state, where=str(run))
    return model, guide


def read_history(run: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Reads a run's `history.csv`: one dict for each epoch, bounds in nats per datum."""
    path = Path(run) / "history.csv"
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [
                {k: int(v) if k == "epoch" else float(v) for k, v in row.items()}
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError) as error:
        raise PvaeError(
            f"{path} is damaged ({error}). Resume the run to write it again."
        ) from error


def read_made(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the `date` of a run's last checkpoint, the `seconds` it took and the `device`.

    It is empty for runs of versions that did not keep them, and for a saved pair.
    """
    path = Path(run) / "checkpoint.pt"
    return read_checkpoint(path).get("made", {}) if path.exists() else {}
