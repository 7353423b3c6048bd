"""Continues a run from its checkpoint, or says why it is another run."""

import math
from typing import Any

from pvae.errors import PvaeError
from pvae.runtime import restore_random_state, seed_noise
from pvae.training.checkpoint import restore_pair
from pvae.training.loop import Run
from pvae.training.warn import warn

__all__ = ["restore"]


def restore(run: Run, saved: dict[str, Any]) -> None:
    """Sets a run to the state of a checkpoint; more epochs than it was started with lengthen it.

    Args:
        run: A run that has not begun.
        saved: The contents of the checkpoint.

    Raises:
        PvaeError: If the settings are those of another run. The message names each difference.
    """
    theirs, folder = saved["settings"], run.checkpoint.parent
    before = theirs["epochs"]
    differ = [
        f"{name} {theirs[name]!r} → {value!r}"
        for name, value in run.settings.items()
        # Older checkpoints have fewer settings.
        if name in theirs and theirs[name] != value
        if not (name == "epochs" and value > before)
    ]
    if differ:
        raise PvaeError(
            f"The run in {folder} was started with other settings: {'; '.join(differ)}. "
            "A resumed run must be the same run, with as many epochs or more. Give the settings "
            "that it was started with, or start a new run in another folder."
        )
    if run.average is not None and saved.get("average"):
        restore_pair(run.svi.model, run.svi.guide, saved["average"], str(folder))
        run.average.adopt()
    restore_pair(run.svi.model, run.svi.guide, saved["state"], str(folder))
    run.svi.optim.set_lr(1.0)
    run.svi.optim.load_state_dict(saved["optimiser"])
    run.epoch, run.step, run.total, run.finished = saved["progress"]
    run.history, run.best = saved["history"], saved["best"]
    run.kept.update(saved.get("callbacks", {}))
    run.best_elbo, run.best_epoch = saved["best_at"]
    run.before = saved.get("made", {}).get("seconds", 0.0)  # older checkpoints have none
    randoms, rank = [saved["random"], *saved.get("random_of_others", [])], run.group.rank
    run.total /= run.group.world
    if rank < len(randoms):
        restore_random_state(randoms[rank])
    else:  # it was started with fewer processes
        seed_noise(run.seed, rank, run.epoch * run.steps + run.step)
    if run.settings.get("schedule") == "a function" and not run.svi.optim.scheduled:
        _check_schedule(run, before)
    if run.epochs > before:
        _lengthen(run, before)


def _check_schedule(run: Run, epochs: int) -> None:
    """Compares the last step's learning rate with that of a schedule that is a function."""
    group = run.svi.optim.groups[0]
    if not run.done or group["initial_lr"] != run.settings["lr"]:
        return  # no step, or an optimiser with its own decay
    epoch, step = (run.epoch, run.step) if run.step else (run.epoch - 1, run.steps)
    rate = group["initial_lr"] * float(run.factor((epoch + (step - 1) / run.steps) / epochs))
    if not math.isclose(rate, group["lr"], rel_tol=1e-6, abs_tol=1e-12):
        raise PvaeError(
            f"The last step of the run in {run.checkpoint.parent} had the learning rate "
            f"{group['lr']:.6g}, and this schedule gives {rate:.6g}. A resumed run must be the "
            "same run: give the schedule that it was started with."
        )


def _lengthen(run: Run, before: int) -> None:
    if run.finished and run.epoch < before:
        text = f"It stopped early after {run.epoch} epochs and does not continue"
    else:
        run.finished = False
        text = f"It continues to {run.epochs}"
        was, now = (float(run.factor(run.done / n)) for n in (before or 1, run.epochs))
        if not run.svi.optim.scheduled and was != now:
            rate = run.svi.optim.groups[0]["initial_lr"]
            text += (
                f" with the schedule of {run.epochs} epochs: the learning rate changes from "
                f"{rate * was:.2g} to {rate * now:.2g}"
            )
    warn(f"The run in {run.checkpoint.parent} was started with {before} epochs. {text}.")
