"""The training loop: steps, epochs, validation, checkpoints."""

import contextlib
import itertools
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
from pvae.pair import TensorSplit, evaluating, in_words
from pvae.runtime import (
    Group,
    Watch,
    is_out_of_memory,
    own_random_state,
    random_state,
    restore_random_state,
)
from pvae.training.average import Average
from pvae.training.bar import Bar
from pvae.training.calls import Calls
from pvae.training.checkpoint import pair_state, restore_pair, write_checkpoint, write_history
from pvae.training.contents import contents_of
from pvae.training.hooks import Callback, Training
from pvae.training.interrupt import Interrupt, how_to_resume
from pvae.training.svi import SVI
from pvae.training.together import together
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
        accumulate: Number of minibatches in a step.
        average: Keeps averaged parameters, or None.
        callbacks: What is called at the hooks.
        kept: What the callbacks keep in the checkpoint.
        settings: By which a resumed run is recognised.
        epoch: Number of finished epochs.
        step: Number of finished steps in the present epoch.
        total: Sum of the ELBO over the present epoch.
        best: The parameters of the best epoch.
        untrained: Whether the checkpoint holds the state before the first step.
        before: Seconds that the run took before it was resumed.
        group: The processes that share the minibatches. `total` is this process's part, and only
            process 0 has callbacks and writes.
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
    accumulate: int = 1
    average: Average | None = None
    callbacks: tuple[Callback, ...] = ()
    kept: dict[str, Any] = field(default_factory=dict)
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
    before: float = 0.0
    group: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        self.steps = math.ceil(math.ceil(len(self.train) / self.batch_size) / self.accumulate)

    @property
    def done(self) -> float:
        """Number of epochs so far, with a fraction."""
        return self.epoch + self.step / self.steps

    def go(self, progress: bool) -> None:
        """Trains from the run's present state to its end."""
        self.watch = Watch(self.device, self.before)
        self._calls = Calls(self.callbacks, self._training(), self._final, self._save_after_failure)
        try:
            self._call("start")
            self._go(progress)
        except BaseException:
            self._calls.end_after_failure()
            raise
        self.training.finished = True
        self._call("end")

    def _training(self) -> Training:
        folder = None if self.checkpoint is None else self.checkpoint.parent
        self.training = Training(
            self.svi.model, self.svi.guide, self.train, self.validation, self.device, self.epochs,
            self.steps, self.seed, folder, self.settings, self.kept,
        )  # fmt: skip
        return self.training

    def _call(self, hook: str) -> None:
        """Calls the callbacks."""
        seen = self.training
        seen.history, seen.epoch = self.history, self.epoch
        seen.step = self.epoch * self.steps + self.step
        self._calls(hook)
        if hook in ("start", "epoch"):
            self.finished = self.finished or self._any(seen.stopped)[0]

    def _any(self, *asked: bool) -> list[bool]:
        """Returns whether any process asks for each of these."""
        return [count > 0 for count in self.group.sums(*map(float, asked))]

    def _go(self, progress: bool) -> None:
        if not self.done:
            self.svi.optim.set_lr(1.0)
            self.save(keep_going=True)  # for a run that is killed before its second checkpoint
            self.untrained = True
        self.saved_at = time.monotonic()
        with (
            self._untrained_removed(),
            self.svi.own,
            Interrupt() as interrupt,
            Bar(self.epochs * self.steps, self.epoch * self.steps + self.step, progress) as bar,
            together(self.group, self.svi),
        ):
            self.svi.compiling = bar.compiling
            while self.epoch < self.epochs and not self.finished:
                bar.describe(f"epoch {self.epoch + 1}/{self.epochs}")
                self.svi.compare()
                self._train_epoch(bar, interrupt)
                self._end_epoch()
                self._show(bar, self.history[-1]["elbo"])
                self._call("epoch")
        self.finished = True
        self.save()  # with the last epoch's parameters, from which a longer run continues
        if self.best is not None:
            restore_pair(self.svi.model, self.svi.guide, self.best, "memory")
        elif self.average is not None:
            self.average.take()
        self.svi.optim.set_lr(1.0)

    @contextlib.contextmanager
    def _untrained_removed(self) -> Iterator[None]:
        """Removes the checkpoint after an error before the second one, which frees the folder."""
        try:
            yield
        except PvaeError:
            if self.untrained and self.checkpoint is not None and self.group.first:
                self.checkpoint.unlink(missing_ok=True)
            raise

    def _train_epoch(self, bar: Bar, interrupt: Interrupt) -> None:
        place = self.train.device
        order = torch.Generator(place).manual_seed(_mix(self.seed, self.epoch))
        how = {"device": self.device, "shuffle": True, "generator": order}
        if self.group.world > 1:
            how["share"] = self.group.rank, self.group.world
        if isinstance(self.train, Split) and can_replay(place):
            how["capture"] = Replay
        batches = iter(self.train.batches(self.batch_size, **how))
        if self.step:  # repeats the minibatches before the checkpoint, with their noise
            state = random_state()
            for _ in itertools.islice(batches, self.step * self.accumulate):
                pass
            restore_random_state(state)
        while self.step < self.steps:
            self._step(batches)
            if not self.history and self.step % 50 == 0:
                self._settle()
                seen = min(len(self.train), self.step * self.batch_size * self.accumulate)
                self._show(bar, self.total * self.group.world / seen)
            bar.update()
            due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
            asked, due = self._any(interrupt.asked, due and self.group.first)
            if asked or due:
                self._settle()
                self.save(keep_going=not asked)
                if asked:
                    bar.close()
                    if self.group.first:
                        print(f"Interrupted. {how_to_resume(self.checkpoint)}")
                    raise KeyboardInterrupt

    def _show(self, bar: Bar, elbo: float) -> None:
        bar.show(self.objective, elbo, (self.history or [{}])[-1].get("validation_elbo"))

    def _step(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        """Takes one step of the optimiser, with the gradient of one minibatch or of several."""
        if not self.svi.optim.scheduled:
            self.svi.optim.set_lr(float(self.factor(self.done / self.epochs)))
        most = self.batch_size * self.accumulate
        total = min(most, len(self.train) - self.step * most)
        scaled = self.full_size is not None
        if self.clip_norm is not None:
            self.svi.clip_norm = self.clip_norm * (self.full_size if scaled else total)
        if self.kl_warmup:
            self.svi.kl_weight = self._kl_weight(self.done)
        left, seen, spent = total, 0, 0.0
        while left:
            batch = next(batches)
            size = len(batch[0])  # with several processes, of this one's part
            left -= min(self.batch_size, left)
            seen += size
            self.svi.share = size / total if scaled else 1.0
            with self._naming_the_step(size):
                loss = (self.svi.hold if left else self.svi.update)(*batch)
                # Also double precision on a GPU: the total must not depend on when it is fetched.
                loss = loss.double() if isinstance(loss, Tensor) and loss.is_cuda else float(loss)
                spent += loss * size / (self.full_size if scaled else size)
        self.total -= spent
        self.step += 1
        if self.average is not None:
            self.average.update()
        if self._calls.each_step:
            self.training.loss = spent / seen
            self._call("step")

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
        if self.svi.together is not None:
            self.svi.together.check()
        row = {
            "epoch": self.epoch + 1,
            "elbo": self.group.sums(self.total)[0] / len(self.train),
            "learning_rate": float(self.svi.optim.groups[0]["lr"]),
            "kl_weight": self._kl_weight(self.epoch + 1),
        }
        if self.validation is not None:
            with self._final():
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
            with self._final():
                self.best = pair_state(self.svi.model, self.svi.guide, self.svi.own.stored)
        elif self.epoch + 1 - since >= self.patience:
            self.finished = True

    def _final(self) -> contextlib.AbstractContextManager[None]:
        """Gives the pair, in a context, the parameters that evaluation would use."""
        return contextlib.nullcontext() if self.average is None else self.average.taken()

    def _validate(self) -> float:
        loss, rank, world = 0.0, self.group.rank, self.group.world
        batches = self.validation.batches(self.batch_size, device=self.device)
        with evaluating(self.svi.model, self.svi.guide), own_random_state(self.seed):
            for i, batch in enumerate(batches):
                if i % world != rank:
                    continue
                size = len(batch[0])
                scale = 1.0 if self.full_size is None else size / self.full_size
                # Each minibatch has its own noise, the same in any number of processes.
                with self._naming_the_step(size), own_random_state(_mix(self.seed, i) % 2**32):
                    loss += self._loss_of(batch) * scale
        return -self.group.sums(loss)[0] / len(self.validation)

    def _loss_of(self, batch: tuple[Tensor, ...]) -> float:
        if self.bound is None:
            return self.svi.evaluate_loss(*batch)
        with self.svi.own, torch.no_grad():
            return self.bound.loss(self.svi.model, self.svi.guide, *batch)

    def save(self, keep_going: bool = False, alone: bool = False) -> None:
        """Writes checkpoint and history; with `keep_going` a full disk only warns.

        With `alone`, the other processes do not take part: their noise starts anew in a resumed
        run, and their part of the epoch's bound is taken to be like this one's.
        """
        self.saved_at = time.monotonic()
        if self.checkpoint is None:
            return
        randoms, total = [random_state()], self.total * self.group.world
        if not alone:
            randoms, [total] = self.group.gather(randoms[0]), self.group.sums(self.total)
        if not self.group.first:
            return
        contents = contents_of(self, randoms, total)
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

    def _save_after_failure(self) -> str:
        """Saves the run after the error of a callback, and says where."""
        if not self.done:
            return "Nothing has been trained."
        if self.training.finished:  # it is saved, and the pair may have the best epoch's parameters
            return f"Training is complete. {how_to_resume(self.checkpoint)}"
        self._settle()
        self.save(keep_going=True, alone=True)
        return how_to_resume(self.checkpoint)


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch * 7_919 + 12_345) % 2**63
