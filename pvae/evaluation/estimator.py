"""Estimator: what is asked of an evaluation beside the bounds; one file of `estimators` an idea."""

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
    """What an estimator is handed.

    Attributes:
        sampler: Draws of the pair; its context is entered. Where the guide gives a point, it
            draws from the prior.
        data: All N data.
        positions: Which of them the estimator is for: sorted positions, [n].
        known: The bounds, and what other estimators found so far; None before there are bounds.
        work: Does blocks of data once: keeps them on disk, shares them out over processes.
        device: Where the pair computes.
        seed: Seed of the draws. Give each block its own, as with `pvae.importance.seed_unit`.
        code: Whether the guide gives a point and no density.
        num_samples: K, the samples of the bounds for each datum; 0 where there are none.
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

    def batch(self, positions: np.ndarray) -> tuple[Tensor, ...]:
        """Returns the data at these positions, on the device, as the pair is called with them."""
        return take(self.data, positions, self.device)

    def map(
        self,
        name: str,
        blocks: Sequence[np.ndarray],
        compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Returns what `compute` makes of each block of positions, put below each other.

        Args:
            name: What is computed: for files and the progress bar.
            blocks: Positions of data.
            compute: Maps a block to arrays that depend on the block alone.
        """
        results = self.work.map(name, blocks, compute)
        return {key: np.concatenate([each[key] for each in results]) for key in results[0]}


@dataclass(frozen=True)
class Estimator(abc.ABC):
    """An idea of what to learn about log p(x), beside the bounds; one file holds all of it.

    A subclass is a frozen dataclass whose fields are its options. It has a `name`, computes a
    `Finding` in `estimate`, and that class says how the finding is stored, summarised and shown.
    `evaluate(..., estimators=[Mine()])` takes it; a file in `pvae/evaluation/estimators` is found
    there, and gives the shell its options by `from_options`.

    Attributes:
        name: Its key among the findings and in `evaluation.json`.
        finding: The class of what it finds.
        hint: How the shell asks for it, for a report that lacks it: `"--ais 100"`; without
            one the report does not mention it.
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
        """What it finds, as a heading."""
        return self.finding.title

    @classmethod
    def from_options(cls) -> Self | None:
        """Returns the estimator that the shell's options ask for, None where they ask for none.

        A subclass overrides it with parameters of its own. Each is an option of `pvae run` and
        `pvae evaluate`, typed by its hint and explained by the docstring; estimators may share
        one. `evaluate(estimators=None)` does what the defaults ask for.
        """
        return None

    def parts(self, code: bool) -> "list[Estimator]":
        """Returns an estimator for each finding; usually itself.

        Args:
            code: Whether the guide gives a point and no density.
        """
        return [self]

    def suggested(self, known: Known) -> bool:
        """Returns whether a report that lacks it says how to ask for it."""
        return bool(self.hint) and not known.exact

    def plan(self, asked: Sequence["Estimator"], task: Task) -> "list[Estimator]":
        """Returns what has to run: itself, and what it needs of others; nothing to leave it out.

        Args:
            asked: All estimators that were asked for.
            task: As for `estimate`, before anything ran: `known` is what a former call found.
        """
        return self.parts(task.code)

    def options(self, task: Task) -> dict[str, Any]:
        """Returns plain values that the numbers depend on, beside pair, data and seed."""
        values = dataclasses.asdict(self)
        del values["num_data"]
        return values

    def cost(self, sampler: Sampler) -> float:
        """Returns about how many runs of the decoder one datum takes."""
        return 0.0

    @abc.abstractmethod
    def estimate(self, task: Task) -> Finding:
        """Computes the finding.

        Raises:
            PvaeError: If it does not apply to this pair; the evaluation keeps the reason.
        """
