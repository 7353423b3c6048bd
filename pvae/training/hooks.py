"""Callbacks: what runs at the start, after a step, after an epoch and at the end of training."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.pair import Program, TensorSplit

__all__ = ["HOOKS", "Callback", "Training", "check_callbacks", "hooked"]

HOOKS = ("start", "step", "epoch", "end")


@dataclass
class Training:
    """What a callback sees of a run, at the time of its call.

    Attributes:
        model: The model. With `average`, model and guide have the averaged parameters in `epoch`
            and `end`.
        guide: The guide.
        train: The training data.
        validation: The validation part, or None.
        device: Where the pair is trained.
        epochs: Number of epochs of the run.
        steps: Number of steps of the optimiser in an epoch.
        seed: The run's seed.
        out: The run folder, or None.
        settings: The run's settings: numbers, strings and lists by name.
        kept: Plain values that callbacks keep; they are saved in the checkpoint, and a resumed run
            has them in `start`.
        history: A dict for each finished epoch, as in the result of `fit`.
        epoch: Number of finished epochs.
        step: Number of finished steps since the run began.
        loss: Loss of the last step in nats per datum; with several processes, of the part of the
            minibatch that this one has. On a GPU it is a tensor there: `float(loss)`
            waits for the GPU, and keeping the tensor does not.
        finished: Whether training is complete; in `end`, false after an error or Ctrl-C.
    """

    model: Program
    guide: Program
    train: Split | TensorSplit
    validation: Split | TensorSplit | None
    device: torch.device
    epochs: int
    steps: int
    seed: int
    out: Path | None
    settings: dict[str, Any]
    kept: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    loss: float | Tensor = math.nan
    finished: bool = False
    stopped: bool = False

    def stop(self) -> None:
        """Ends training after the present epoch; in `start`, before the first one."""
        self.stopped = True


class Callback:
    """Something to do while `fit` trains. A subclass overrides the methods that it needs.

    Callbacks run in their order. Random numbers that `start`, `epoch` and `end` draw do not change
    those of training, and those of `step` do. If a callback raises, the run is saved, and the
    message names the callback. With several processes they run in process 0 alone; a change that
    they make in the pair is refused then, because the other processes do not see it.

    Example:
        >>> import pvae
        >>> class StopAt(Callback):
        ...     def __init__(self, elbo):
        ...         self.elbo = elbo
        ...
        ...     def epoch(self, training):
        ...         if training.history[-1]["elbo"] > self.elbo:
        ...             training.stop()
        >>> model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> x = torch.zeros(64, 1, 8, 8)
        >>> how = {"epochs": 50, "lr": 0.01, "progress": False}
        >>> len(pvae.fit(model, guide, x, callbacks=[StopAt(-20.0)], **how).history) < 50
        True
    """

    def start(self, training: Training) -> None:
        """Is called before the first step, also of a resumed run."""

    def step(self, training: Training) -> None:
        """Is called after each step of the optimiser."""

    def epoch(self, training: Training) -> None:
        """Is called after each epoch, when its row is in `training.history`."""

    def end(self, training: Training) -> None:
        """Is called after training, when the pair has its final parameters, or after an error."""


def hooked(callbacks: Iterable[Callback], hook: str) -> list[tuple[Callback, Callable[..., None]]]:
    """Returns the callbacks that have something to do at a hook, with their methods.

    A callback that does not override the method costs nothing.
    """
    methods = [(callback, getattr(callback, hook)) for callback in callbacks]
    empty = getattr(Callback, hook)
    return [(c, method) for c, method in methods if getattr(method, "__func__", None) is not empty]


def check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Returns callbacks as a tuple.

    Raises:
        PvaeError: If one is not a callback, or has nothing to do.
    """
    if isinstance(callbacks, Callback):
        raise PvaeError(f"callbacks={callbacks!r}: give a list, callbacks=[…].")
    found = tuple(callbacks)
    for each in found:
        if isinstance(each, type) and issubclass(each, Callback):
            raise PvaeError(
                f"callbacks: {each.__name__} is a class. Give an object, {each.__name__}()."
            )
        if not isinstance(each, Callback):
            raise PvaeError(
                f"callbacks: {each!r} is not a callback. Derive its class from "
                "pvae.callbacks.Callback and override start, step, epoch or end."
            )
        if not any(hooked([each], hook) for hook in HOOKS):
            raise PvaeError(
                f"callbacks: {type(each).__name__} has no method start, step, epoch or end, so "
                "that it is never called."
            )
    return found
