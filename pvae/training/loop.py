"""The training loop: steps, epochs, validation, checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pvae.compile import Replay, can_replay
from pvae.data import Split
from pvae.errors import PvaeError
from pvae.pair import TensorSplit, evaluating, in_words, name_of
from pvae.runtime import (
    is_out_of_memory,
    own_random_state,
    random_state,
    restore_random_state,
    tqdm,
)
from pvae.training.checkpoint import pair_state, restore_pair, write_checkpoint, write_history
from pvae.training.interrupt import Interrupt
from pvae.training.svi import SVI
from pvae.training.warn import warn

__all__ = ["Run"]

SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclass
class Run:
    """The settings and the state of a training run.

    Attributes:
        bound: The ELBO of the validation data, or None for that of training.
        factor: The learning rate's factor as a function of the finished share of the run.
        full_size: Number of data that a subsampling plate scales a minibatch's loss to, or None.
        objective: What the progress bar calls the bound.
        settings: By which a resumed run is recognised.
        epoch: Number of finished epochs.
        step: Number of finished steps in the present epoch.
        total: Sum of the ELBO over the present epoch.
        best: The parameters of the best epoch.
        untrained: Whether the checkpoint holds the state before the first step.
    """

    svi: SVI
    bound: ELBO | None
    train: Split | TensorSplit
    validation: Split | TensorSplit | None
    device: torch.device
    epochs: int
    batch_size: int
    factor: Callable[[float], float]
    clip_norm: float | None
    kl_warmup: float
    patience: int
    seed: int
    checkpoint: Path | None
    full_size: int | None
    objective: str = "ELBO"
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    finished: bool = False
    best: dict[str, Any] | None = None
    best_elbo: float = -math.inf
    best_epoch: int = 0
    saved_at: float = 0.0
    untrained: bool = False

    def __post_init__(self) -> None:
        self.steps = math.ceil(len(self.train) / self.batch_size)

    @property
    def done(self) -> float:
        """Number of epochs so far, with a fraction."""
        return self.epoch + self.step / self.steps

    def go(self, progress: bool) -> None:
        """Trains from the run's present state to its end."""
        if not self.done:
            self.svi.optim.set_lr(1.0)
            self.save(keep_going=True)  # for a run that is killed before its second checkpoint
            self.untrained = True
        self.saved_at = time.monotonic()
        with (
            self._untrained_removed(),
            self.svi.own,
            Interrupt() as interrupt,
            tqdm(
                total=self.epochs * self.steps,
                initial=self.epoch * self.steps + self.step,
                disable=not progress,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.5,
            ) as bar,
        ):
            while self.epoch < self.epochs and not self.finished:
                bar.set_description(f"epoch {self.epoch + 1}/{self.epochs}", refresh=False)
                self.svi.compare()
                self._train_epoch(bar, interrupt)
                self._end_epoch()
                self._show(bar, self.history[-1]["elbo"])
        self.finished = True
        self.save()  # with the last epoch's parameters, from which a longer run continues
        if self.best is not None:
            restore_pair(self.svi.model, self.svi.guide, self.best, "memory")
        self.svi.optim.set_lr(1.0)

    @contextlib.contextmanager
    def _untrained_removed(self) -> Iterator[None]:
        """Removes the checkpoint after an error before the second one, which frees the folder."""
        try:
            yield
        except PvaeError:
            if self.untrained and self.checkpoint is not None:
                self.checkpoint.unlink(missing_ok=True)
            raise

    def _train_epoch(self, bar: tqdm, interrupt: Interrupt) -> None:
        place = self.train.device
        order = torch.Generator(place).manual_seed(_mix(self.seed, self.epoch))
        how = {"device": self.device, "shuffle": True, "generator": order}
        if isinstance(self.train, Split) and can_replay(place):
            how["capture"] = Replay
        batches = iter(self.train.batches(self.batch_size, **how))
        if self.step:  # repeats the minibatches before the checkpoint, with their noise
            state = random_state()
            for _ in range(self.step):
                next(batches)
            restore_random_state(state)
        for batch in batches:
            self._step(batch)
            if not self.history and self.step % 50 == 0:
                self._settle()
                self._show(bar, self.total / min(len(self.train), self.step * self.batch_size))
            bar.update()
            if interrupt.asked or time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                self._settle()
                self.save(keep_going=not interrupt.asked)
                if interrupt.asked:
                    bar.close()
                    print(self._how_to_resume())
                    raise KeyboardInterrupt

    def _show(self, bar: tqdm, elbo: float) -> None:
        shown = {self.objective: f"{elbo:.2f} nats"}
        if self.history and "validation_elbo" in self.history[-1]:
            shown["validation"] = f"{self.history[-1]['validation_elbo']:.2f}"
        bar.set_postfix(shown, refresh=False)

    def _step(self, batch: tuple[Tensor, ...]) -> None:
        if not self.svi.optim.scheduled:
            self.svi.optim.set_lr(float(self.factor(self.done / self.epochs)))
        size = len(batch[0])
        datum = size if self.full_size is None else self.full_size
        if self.clip_norm is not None:
            self.svi.clip_norm = self.clip_norm * datum
        if self.kl_warmup:
            self.svi.kl_weight = self._kl_weight(self.done)
        with self._naming_the_step(size):
            loss = self.svi.update(*batch)
            # Also double precision on a GPU: the total must not depend on when it is fetched.
            loss = loss.double() if isinstance(loss, Tensor) and loss.is_cuda else float(loss)
            self.total -= loss * size / datum
        self.step += 1

    def _settle(self) -> None:
        """Waits for a GPU and checks its steps."""
        self.step -= 1  # the index of the last step
        with self._naming_the_step(self.batch_size):
            self.svi.settle()
        self.step += 1
        self.total = float(self.total)

    @contextlib.contextmanager
    def _naming_the_step(self, size: int) -> Iterator[None]:
        """Adds step, epoch, minibatch and checkpoint to an error."""
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                raise
            kept, step = "", self.step + 1 - getattr(error, "steps_ago", 0)
            if self.checkpoint is not None and self.checkpoint.exists() and not self.untrained:
                kept = f" The last good checkpoint is {self.checkpoint}."
            text = str(error) if isinstance(error, PvaeError) else f"It failed{in_words(error)}"
            raise PvaeError(
                f"Training stopped at step {step} of epoch {self.epoch + 1} (minibatch "
                f"of {size} data, seed {self.seed}). {text}{kept}"
            ) from error

    def _kl_weight(self, epoch: float) -> float:
        return min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0

    def _end_epoch(self) -> None:
        self._settle()
        row = {
            "epoch": self.epoch + 1,
            "elbo": self.total / len(self.train),
            "learning_rate": float(self.svi.optim.groups[0]["lr"]),
            "kl_weight": self._kl_weight(self.epoch + 1),
        }
        if self.validation is not None:
            row["validation_elbo"] = self._validate()
        # While β grows, bounds also fall because of β, so that they do not show progress.
        if row["kl_weight"] == 1.0:
            self.svi.optim.end_epoch(-row.get("validation_elbo", row["elbo"]))
            if self.validation is not None:
                self._look_for_the_best(row["validation_elbo"])
        else:
            self.svi.optim.end_epoch(None)
        self.history.append(row)
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0

    def _look_for_the_best(self, elbo: float) -> None:
        since = max(self.best_epoch, math.ceil(self.kl_warmup))
        if elbo > self.best_elbo:
            self.best_elbo, self.best_epoch = elbo, self.epoch + 1
            self.best = pair_state(self.svi.model, self.svi.guide, self.svi.own.stored)
        elif self.epoch + 1 - since >= self.patience:
            self.finished = True

    def _validate(self) -> float:
        loss = 0.0
        with evaluating(self.svi.model, self.svi.guide), own_random_state(self.seed):
            for batch in self.validation.batches(self.batch_size, device=self.device):
                size = len(batch[0])
                scale = 1.0 if self.full_size is None else size / self.full_size
                with self._naming_the_step(size):
                    loss += self._loss_of(batch) * scale
        return -loss / len(self.validation)

    def _loss_of(self, batch: tuple[Tensor, ...]) -> float:
        if self.bound is None:
            return self.svi.evaluate_loss(*batch)
        with self.svi.own, torch.no_grad():
            return self.bound.loss(self.svi.model, self.svi.guide, *batch)

    def save(self, keep_going: bool = False) -> None:
        """Writes checkpoint and history; with `keep_going` a full disk only warns."""
        self.saved_at = time.monotonic()
        if self.checkpoint is None:
            return
        svi = self.svi
        contents = {
            "pair": [name_of(svi.model), name_of(svi.guide)],
            "settings": self.settings,
            "state": pair_state(svi.model, svi.guide, svi.own.stored),
            "optimiser": svi.optim.state_dict(),
            "random": random_state(),
            "progress": [self.epoch, self.step, self.total, self.finished],
            "history": self.history,
            "best": self.best,
            "best_at": [self.best_elbo, self.best_epoch],
        }
        try:
            write_checkpoint(self.checkpoint, contents)
            self.untrained = False
            if self.history:
                write_history(self.checkpoint.with_name("history.csv"), self.history)
        except PvaeError as error:
            # A full disk may have room later; other errors will not go away.
            if not (keep_going and isinstance(error.__cause__, OSError)):
                raise
            warn(f"{error} Training goes on.")

    def _how_to_resume(self) -> str:
        if self.checkpoint is None:
            return (
                "Interrupted. The pair keeps its parameters. With out=FOLDER a run can be resumed."
            )
        folder = self.checkpoint.parent
        return (
            f"Interrupted. The run is saved in {folder}. Resume it with `pvae run --resume "
            f"{folder}`, or in Python with fit(..., out={str(folder)!r}, resume=True)."
        )


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch * 7_919 + 12_345) % 2**63
