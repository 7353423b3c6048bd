"""The training loop: steps, epochs, validation, interruption, checkpoints."""

import contextlib
import math
import signal
import threading
import time
import warnings
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
from pvae.training.svi import SVI

__all__ = ["Run"]

SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclass
class Run:
    """The state of a training run, which checkpoints carry and resuming restores."""

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

    def go(self, progress: bool) -> None:
        """Trains from the run's present state to its end."""
        steps = math.ceil(len(self.train) / self.batch_size)
        if not (self.epoch or self.step):
            if not self.svi.optim.scheduled:
                self.svi.optim.set_lr(1.0)
            self.save(keep_going=True)  # where a run starts from that is killed before the next
            self.untrained = True
        self.saved_at = time.monotonic()
        with (
            self._leaving_nothing_untrained(),
            self.svi.own,
            Interrupt() as interrupt,
            tqdm(
                total=self.epochs * steps,
                initial=self.epoch * steps + self.step,
                disable=not progress,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.5,
            ) as bar,
        ):
            while self.epoch < self.epochs and not self.finished:
                bar.set_description(f"epoch {self.epoch + 1}/{self.epochs}", refresh=False)
                self.svi.compare()
                self._train_epoch(steps, bar, interrupt)
                self._end_epoch()
                self._show(bar, self.history[-1]["elbo"])
        self.finished = True
        self.save()  # before the best epoch's parameters return: a longer run goes on from these
        if self.best is not None:
            restore_pair(self.svi.model, self.svi.guide, self.best, "memory")
        if not self.svi.optim.scheduled:
            self.svi.optim.set_lr(1.0)

    @contextlib.contextmanager
    def _leaving_nothing_untrained(self) -> Iterator[None]:
        """Removes the first checkpoint after an error before any other, which frees the folder."""
        try:
            yield
        except PvaeError:
            if self.untrained and self.checkpoint is not None:
                self.checkpoint.unlink(missing_ok=True)
            raise

    def _train_epoch(self, steps: int, bar: tqdm, interrupt: "Interrupt") -> None:
        place = self.train.device
        order = torch.Generator(place).manual_seed(_mix(self.seed, self.epoch))
        how = {"device": self.device, "shuffle": True, "generator": order}
        if isinstance(self.train, Split) and can_replay(place):
            how["capture"] = Replay
        batches = iter(self.train.batches(self.batch_size, **how))
        if self.step:  # the minibatches before the checkpoint draw their noise once more
            state = random_state()
            for _ in range(self.step):
                next(batches)
            restore_random_state(state)
        for batch in batches:
            self._step(batch, steps)
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

    def _step(self, batch: tuple[Tensor, ...], steps: int) -> None:
        share = (self.epoch + self.step / steps) / self.epochs
        if not self.svi.optim.scheduled:
            self.svi.optim.set_lr(float(self.factor(share)))
        size = len(batch[0])
        datum = size if self.full_size is None else self.full_size
        if self.clip_norm is not None:
            self.svi.clip_norm = self.clip_norm * datum
        if self.kl_warmup:
            self.svi.kl_weight = self._kl_weight(self.epoch + self.step / steps)
        with self._telling_where(size):
            loss = self.svi.update(*batch)
            # In double precision there, too, so that it does not matter when it is fetched.
            loss = loss.double() if isinstance(loss, Tensor) and loss.is_cuda else float(loss)
            self.total -= loss * size / datum
        self.step += 1

    def _settle(self) -> None:
        """Waits for a GPU and checks its steps."""
        self.step -= 1  # the last one that was taken
        with self._telling_where(self.batch_size):
            self.svi.settle()
        self.step += 1
        self.total = float(self.total)

    @contextlib.contextmanager
    def _telling_where(self, size: int) -> Iterator[None]:
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
        # While β grows, bounds fall because of it: they say nothing of how training goes.
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
        part = self.validation
        loss = 0.0
        with evaluating(self.svi.model, self.svi.guide), own_random_state(self.seed):
            for batch in part.batches(self.batch_size, device=self.device):
                size = len(batch[0])
                scale = 1.0 if self.full_size is None else size / self.full_size
                with self._telling_where(size):
                    loss += self._loss_of(batch) * scale
        return -loss / len(part)

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
            # A disk that is full may have room later. Other failures stay failures.
            if not (keep_going and isinstance(error.__cause__, OSError)):
                raise
            warnings.warn(f"{error} Training goes on.", stacklevel=2)

    def restore(self, saved: dict[str, Any]) -> None:
        """Continues the run of a checkpoint; more epochs than it was started with lengthen it.

        Raises:
            PvaeError: If the settings are those of another run; each difference is named.
        """
        theirs, folder = saved["settings"], self.checkpoint.parent
        before = theirs["epochs"]
        differ = [
            f"{name} {theirs[name]!r} → {value!r}"
            for name, value in self.settings.items()
            # Older checkpoints have fewer settings.
            if name in theirs and theirs[name] != value
            if not (name == "epochs" and value > before)
        ]
        if differ:
            raise PvaeError(
                f"The run in {folder} was started with other settings: {'; '.join(differ)}. "
                "Resumed, it must be the same run, with as many epochs or more. Give it what it "
                "was started with, or start a new run in another folder."
            )
        restore_pair(self.svi.model, self.svi.guide, saved["state"], str(folder))
        if not self.svi.optim.scheduled:
            self.svi.optim.set_lr(1.0)
        self.svi.optim.load_state_dict(saved["optimiser"])
        self.epoch, self.step, self.total, self.finished = saved["progress"]
        self.history, self.best = saved["history"], saved["best"]
        self.best_elbo, self.best_epoch = saved["best_at"]
        restore_random_state(saved["random"])
        if self.settings.get("schedule") == "a function" and not self.svi.optim.scheduled:
            self._check_schedule(before)
        if self.epochs > before:
            self._lengthen(before)

    def _check_schedule(self, epochs: int) -> None:
        """Compares the last step's rate with a schedule that is a function, which has no name."""
        group = self.svi.optim.groups[0]
        taken = self.epoch or self.step
        if not taken or group["initial_lr"] != self.settings["lr"]:
            return  # an optimiser with a decay of its own
        steps = math.ceil(len(self.train) / self.batch_size)
        epoch, step = (self.epoch, self.step) if self.step else (self.epoch - 1, steps)
        rate = group["initial_lr"] * float(self.factor((epoch + (step - 1) / steps) / epochs))
        if not math.isclose(rate, group["lr"], rel_tol=1e-6, abs_tol=1e-12):
            raise PvaeError(
                f"The run in {self.checkpoint.parent} had the learning rate {group['lr']:.6g} in "
                f"its last step, and this schedule gives it {rate:.6g}. Resumed, it must be the "
                "same run: give it the schedule that it was started with."
            )

    def _lengthen(self, before: int) -> None:
        if self.finished and self.epoch < before:
            text = f"it stopped early after {self.epoch} epochs, and does not go on"
        else:
            self.finished = False
            text = f"it goes on to {self.epochs}"
            done = self.epoch + self.step / math.ceil(len(self.train) / self.batch_size)
            was, now = (float(self.factor(done / n)) for n in (before, self.epochs))
            if not self.svi.optim.scheduled and was != now:
                rate = self.svi.optim.groups[0]["initial_lr"]
                text += (
                    f", and the schedule is that of {self.epochs} epochs from here on: the "
                    f"learning rate goes from {rate * was:.2g} to {rate * now:.2g}"
                )
        folder = self.checkpoint.parent
        warnings.warn(f"The run in {folder} was to have {before} epochs; {text}.", stacklevel=2)

    def _how_to_resume(self) -> str:
        if self.checkpoint is None:
            return "Interrupted. The pair keeps what it has learned; with out=FOLDER it can resume."
        folder = self.checkpoint.parent
        return (
            f"Interrupted; saved in {folder}. Go on with `pvae run --resume {folder}`, or in "
            f"Python with fit(..., out={str(folder)!r}, resume=True)."
        )


class Interrupt:
    """Keeps the first Ctrl-C until the step is done; the second one is immediate."""

    asked = False

    def __enter__(self) -> "Interrupt":
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch * 7_919 + 12_345) % 2**63
