"""Estimator: what an evaluation computes beside the bounds, each in one file of `estimators`."""

import abc
import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pvae.data import Split
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.work import Work, take
from pvae.importance import Sampler
from pvae.pair import TensorSplit
from pvae.runtime import whole

__all__ = ["Estimator", "Task"]


@dataclass(frozen=True)
class Task:
    """What an estimator receives.

    Attributes:
        sampler: Samples the pair; its context is entered. If the guide gives a point, it
            samples the prior.
        data: All N data.
        positions: Sorted positions of the data to estimate, [n].
        known: The bounds and the findings so far; None before there are bounds.
        work: Computes each block of data once: caches it on disk, shares blocks between processes.
        device: Where the pair computes.
        seed: Seed of the samples. Give each block its own, as with `pvae.importance.seed_unit`.
        code: Whether the guide gives a point and no density.
        num_samples: K, the samples of the bounds for each datum; 0 if there are no bounds.
        source: What the data were taken from, such as a `pvae.data.Data` with its training part.

    Example:
        >>> import pvae, torch
        >>> class Count(pvae.estimators.Estimator):
        ...     name = "count"
        ...     def compute(self, task):
        ...         print(type(task).__name__, len(task.positions))
    """

    sampler: Sampler
    data: Split | TensorSplit
    positions: np.ndarray
    known: Known | None
    work: Work
    device: torch.device
    seed: int
    code: bool = False
    num_samples: int = 0
    source: Any = None

    def batch(self, positions: np.ndarray) -> tuple[Tensor, ...]:
        """Returns the arguments of the pair for the data at these positions, on the device."""
        return take(self.data, positions, self.device)

    def map(
        self,
        name: str,
        blocks: Sequence[np.ndarray],
        compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Returns the results of `compute` for all blocks of positions, concatenated.

        Args:
            name: Names the files and the progress bar.
            blocks: Positions of data.
            compute: Maps a block to arrays that depend on the block alone.
        """
        results = self.work.map(name, blocks, compute)
        return {key: np.concatenate([each[key] for each in results]) for key in results[0]}


@dataclass(frozen=True)
class Estimator(abc.ABC):
    """Computes something about log p(x) beside the bounds.

    A subclass is a frozen dataclass whose fields are its options. It has a `name` and computes a
    `Finding` in `estimate`; the class of the finding stores, summarises and shows it. Pass it as
    `evaluate(..., estimators=[Mine()])`. The shell takes the options of an estimator in
    `pvae/evaluation/estimators` from its `from_options`.

    Attributes:
        name: Its key among the findings and in `evaluation.json`.
        finding: The class of its finding.
        hint: The shell's option for it, such as `"--ais 100"`. A report without the finding
            suggests it; if empty, the report does not.
        num_data: Number of data, drawn at random; None for all.

    Example:
        >>> import dataclasses
        >>> import torch
        >>> from pvae.estimators import Estimate, Estimator
        >>> @dataclasses.dataclass(frozen=True)
        ... class Mean(Estimate):
        ...     title = "The mean of log w"
        >>> @dataclasses.dataclass(frozen=True)
        ... class MeanWeight(Estimator):
        ...     name, finding = "mean_weight", Mean
        ...
        ...     def estimate(self, task):
        ...         draws = task.sampler.stream(task.batch(task.positions), 10, seed=task.seed)
        ...         log_w = torch.cat([each.log_w for each in draws])
        ...         return Mean(task.positions, log_w.double().mean(0).cpu().numpy())
    """

    name = ""
    finding: ClassVar[type[Finding]] = Finding
    hint: ClassVar[str] = ""

    num_data: int | None = None

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name in (each.name for each in dataclasses.fields(self)):
            value = getattr(self, name)
            if hints[name] in (int, int | None) and value is not None:
                object.__setattr__(self, name, whole(name, value))

    @property
    def title(self) -> str:
        """The title of its finding."""
        return self.finding.title

    @classmethod
    def from_options(cls) -> Self | None:
        """Returns the estimator that the shell's options ask for; None if they ask for none.

        A subclass overrides it with its own parameters. Each is an option of `pvae run` and
        `pvae evaluate`, with the type of its hint and the help of the docstring. Several
        estimators may share an option; the first one documents it. `evaluate(estimators=None)`
        uses the defaults.
        """
        return None

    def parts(self, code: bool) -> "list[Estimator]":
        """Returns one estimator for each finding; usually itself.

        Args:
            code: Whether the guide gives a point and no density.
        """
        return [self]

    def suggested(self, known: Known) -> bool:
        """Returns whether a report without its finding suggests its `hint`."""
        return bool(self.hint) and not known.constant

    def plan(self, asked: Sequence["Estimator"], task: Task) -> "list[Estimator]":
        """Returns the estimators to run: itself and those that it needs; none to leave it out.

        Args:
            asked: All estimators that were asked for.
            task: As for `estimate`, before anything ran: `known` is from an earlier call.
        """
        return self.parts(task.code)

    def options(self, task: Task) -> dict[str, Any]:
        """Returns the plain values that its numbers depend on, beside pair, data and seed."""
        values = dataclasses.asdict(self)
        del values["num_data"]
        return values

    def cost(self, sampler: Sampler) -> float:
        """Returns about how many runs of the decoder it takes for one datum."""
        return 0.0

    @abc.abstractmethod
    def estimate(self, task: Task) -> Finding:
        """Computes the finding.

        Raises:
            PvaeError: If it does not apply to this pair; the evaluation stores the reason.
        """
