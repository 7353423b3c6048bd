"""Rejection of foreign data: scores made of log p(x), and how well they tell sets apart."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.compressed import code_lengths, discrete
from pvae.evaluation.estimators.each_label import (
    Labels,
    in_seed,
    labels_of,
    log_px_each,
    place_of_labels,
)
from pvae.evaluation.estimators.foreign import as_foreign, check_names, fields_of, rows_of
from pvae.evaluation.estimators.rejected import LOG_PX, Rejected
from pvae.evaluation.identity import fingerprint_of
from pvae.evaluation.numbers import se
from pvae.evaluation.work import in_blocks, take
from pvae.importance import Sampler
from pvae.pair import Program, TensorSplit, bind, inspect, move
from pvae.runtime import whole

__all__ = ["Rejection"]

_TAG = 0x8E
_WEIGHTS = 2**18  # log weights held at a time
_MOST_SAMPLES = 500  # by default

Sets = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rejection(Estimator):
    r"""Scores test data and foreign data, and finds how well each score tells them apart.

    A higher score is more like the test data. The scores, in nats:

    .. math::
        \text{log p(x)} &: L_K(x) \le \log p(x) \\
        \text{typicality} &: -| L_K(x) - \bar L | \\
        \text{complexity} &: L_K(x) + C(x) \\
        \text{likelihood ratio} &: L_K(x) - L_K^{\text{background}}(x)

    L̄ is the mean over validation data, or over training data if there are none; C(x) is the length
    of x under a general compressor. Typicality needs data from `pvae.data.load`, complexity
    discrete values, and the ratio a background pair; a score that cannot be computed is left out.
    All sets have the same K. The bound is looser where the guide has not been trained, so foreign
    data look less likely than they are. If the pair takes labels y, x is scored by
    the log of Σ p(x|y) p(y), from K samples for each label.

    Plain log p(x) can be higher on simpler foreign data. The report says where it is.

    Attributes:
        num_data: Number of test data, and at most of each foreign set, drawn at random.
        foreign: The foreign sets: a name or a file of `pvae.data.load`, `"shuffled"` (the test
            data with the values of each datum in random order), a `Data` (its test part), a part,
            a tensor; or a list of them, or a dict by name. Names and files are observed like the
            pair's own data. Labels are not needed.
        share: The share of test data that the threshold may reject.
        num_samples: K. None is that of the bounds, but at most 500.
        background: A model and its guide for the ratio, such as the same pair trained on data of
            which each value is replaced at random with probability 0.1 to 0.3.
        prior: p(y) of each label in rising order; None is the shares in the training data, or equal
            shares without these.

    Raises:
        PvaeError: If foreign data are not of the pair's shape, or are observed in another way.

    Source: Nalisnick et al. 2018 (arXiv:1810.09136) on plain log p(x) and 2019 (arXiv:1906.02994)
    on typicality; Serrà et al. 2020 (arXiv:1909.11480); Ren et al. 2019 (arXiv:1906.02845).

    Example:
        >>> import torch
        >>> from pvae import evaluate, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> noise = (torch.rand(50, 1, 8, 8) < 0.5).float()
        >>> found = evaluate(
        ...     model, guide, torch.zeros(60, 1, 8, 8), num_samples=10, progress=False,
        ...     estimators=[Rejection(foreign={"noise": noise})],
        ... ).findings["rejection"]
        >>> found.kinds, found.sets, found.of("noise").shape
        (['log p(x)', 'complexity'], ['noise'], (50, 2))
    """

    name, finding = "rejection", Rejected

    num_data: int | None = 1000
    foreign: Any = field(default=(), repr=False)
    share: float = 0.05
    num_samples: int | None = None
    background: tuple[Program, Program] | None = field(default=None, repr=False)
    prior: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise PvaeError(f"share={self.share!r} is not valid: give a number between 0 and 1.")
        check_names(self.foreign)

    @classmethod
    def from_options(
        cls,
        foreign: list[str] | str | None = None,
        foreign_data: int = 1000,
        rejected: float = 0.05,
    ) -> Self | None:
        """Rejection of foreign data.

        Args:
            foreign: Foreign data to reject: a name or a file, or a list '[omniglot, shuffled]';
                `shuffled` is the test data with the values of each datum in random order.
            foreign_data: Number of test data that are scored, and at most of each foreign set.
            rejected: The share of test data that the threshold may reject.
        """
        if not foreign:
            return None
        whole("foreign_data", foreign_data)
        if not 0 < rejected < 1:
            raise PvaeError(f"rejected={rejected!r} is not valid: give a number between 0 and 1.")
        return cls(foreign_data, foreign, rejected)

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        if isinstance(self.foreign, list | tuple | dict) and not self.foreign:
            raise PvaeError("Rejection needs foreign data: Rejection(foreign={'name': x}).")
        if task.sampler.bound or task.code:  # `estimate` says why
            return [self]
        found = as_foreign(self.foreign, task, self.num_data, place_of_labels(task))
        return [dataclasses.replace(self, foreign=found)]

    def options(self, task: Task) -> dict[str, Any]:
        background = None
        if self.background is not None:
            sampler, part = _background(self.background, task)
            few = np.arange(min(16, len(part)))
            background = fingerprint_of(sampler, take(part, few, task.device))
        return {
            "share": self.share,
            "num_samples": self.num_samples,
            "prior": None if self.prior is None else [float(p) for p in self.prior],
            "foreign": {each.name: each.hash for each in self.foreign if hasattr(each, "hash")},
            "background": background,
        }

    def cost(self, sampler: Sampler) -> float:
        return (len(self.foreign) + 2) * (self.num_samples or _MOST_SAMPLES)

    def estimate(self, task: Task) -> Rejected:
        _refuse(task)
        labels = labels_of(task, self.prior)
        num_samples = self.num_samples or min(task.num_samples, _MOST_SAMPLES)
        test = task.batch(task.positions)
        sets: Sets = {"test data": _without(test, labels)}
        sets |= {each.name: each.batch for each in self.foreign}
        part = _reference(task)
        if part is not None:
            reference = rows_of(part[1], len(task.positions), task.seed)
            sets[f"{part[0]} data"] = _without(reference, labels)
        log_px = _scored(task.sampler, task, sets, labels, num_samples, "log p(x)")
        found = {LOG_PX: log_px}
        typical: dict[str, Any] = {}
        if part is not None:
            there = log_px.pop(f"{part[0]} data")
            mean = there.mean()
            typical = {"part": part[0], "size": len(there), "mean": float(mean), "se": se(there)}
            if np.isfinite(mean):
                found["typicality"] = _each(log_px, lambda v: -np.abs(v - mean))
            else:
                typical = {}
            sets.pop(f"{part[0]} data")
        if lengths := _lengths(task, sets):
            found["complexity"] = {name: log_px[name] + lengths[name] for name in sets}
        if self.background is not None:
            sampler, part = _background(self.background, task)
            theirs = labels if "y" in fields_of(part) else None
            with sampler:
                other = _scored(sampler, task, sets, theirs, num_samples, "background")
            with np.errstate(invalid="ignore"):  # -inf - -inf
                found["likelihood ratio"] = {
                    name: np.where(np.isneginf(log_px[name]), -np.inf, log_px[name] - other[name])
                    for name in sets
                }
        names = [each.name for each in self.foreign]
        table = {n: np.stack([found[score][n] for score in found], -1) for n in sets}
        return Rejected(
            task.positions,
            table["test data"],
            np.concatenate([table[name] for name in names]),
            np.repeat(np.arange(len(names)), [len(table[name]) for name in names]),
            list(found),
            names,
            float(self.share),
            num_samples,
            typical,
            0 if labels is None else len(labels),
        )


def _refuse(task: Task) -> None:
    if task.code:
        raise PvaeError(
            "The guide gives a point and has no density, so there is no bound on log p(x) to score "
            "data by. Rejection needs a guide with a density."
        )
    density = task.known.data.get("density", "p(x)")
    if not density.startswith("p(x"):
        raise PvaeError(f"The pair bounds log {density}, which is no density of x to reject by.")
    if task.sampler.bound:
        raise PvaeError(
            "The pair runs only with all its data together, so it cannot score other data. Let the "
            "model and the guide take their shapes from their arguments."
        )


def _reference(task: Task) -> tuple[str, Any] | None:
    """Returns the data whose log p(x) is typical: validation data, else training data."""
    if not isinstance(task.source, Data):
        return None
    name, part = "training", task.source.train
    if task.source.validation:
        name, part = "validation", task.source.validation
    return name, part.only(task.data.names)


def _without(batch: tuple[Tensor, ...], labels: Labels | None) -> tuple[Tensor, ...]:
    return tuple(t for i, t in enumerate(batch) if labels is None or i != labels.place)


def _each(
    values: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: change(each) for name, each in values.items()}


def _scored(
    sampler: Sampler,
    task: Task,
    sets: Sets,
    labels: Labels | None,
    num_samples: int,
    what: str,
) -> dict[str, np.ndarray]:
    """Returns the bound on log p(x) of each datum of each set."""
    count = 1 if labels is None else len(labels)
    rows = max(1, min(256, _WEIGHTS // (num_samples * count)))
    found = {}
    for number, (name, batch) in enumerate(sets.items()):

        def compute(
            block: np.ndarray, batch: tuple[Tensor, ...] = batch, number: int = number
        ) -> dict[str, np.ndarray]:
            index = torch.from_numpy(block)
            some = [tensor[index.to(tensor.device)].to(task.device) for tensor in batch]
            if labels is not None:  # any label: each is tried
                some.insert(labels.place, labels.values[[0] * len(block)].to(task.device))
            seed = in_seed(task.seed, _TAG, number, what == "background")
            log_px, _ = log_px_each(
                sampler, tuple(some), labels, num_samples, seed=seed, first=int(block[0])
            )
            if labels is None:
                return {"log_px": log_px[:, 0]}
            return {"log_px": np.logaddexp.reduce(labels.log_joint(log_px), -1)}

        blocks = in_blocks(np.arange(len(batch[0])), rows)
        found[name] = task.map(f"{what} of set {number}", blocks, compute)["log_px"]
    return found


def _lengths(task: Task, sets: Sets) -> dict[str, np.ndarray]:
    """Returns the length of each datum under a compressor; empty if x is not discrete."""
    source = task.source if isinstance(task.source, Data) else None
    how = (None, None) if source is None else (source.observation, source.levels)
    values = {name: discrete(batch[0], *how) for name, batch in sets.items()}
    if any(each is None for each in values.values()):
        return {}
    return {name: code_lengths(each) for name, each in values.items()}


def _background(pair: tuple[Program, Program], task: Task) -> tuple[Sampler, Split | TensorSplit]:
    """Returns the sampler of a background pair, and the test data as it receives them."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise PvaeError("background: give a model and its guide, background=(model, guide).")
    move(task.device, *pair)
    part, programs = bind(task.data, *pair)
    lacking = set(fields_of(task.data)) - {*fields_of(part), "y"}
    if lacking:
        raise PvaeError(f"The background pair does not take {', '.join(sorted(lacking))}.")
    batch = take(part, np.arange(min(64, len(part))), task.device)
    return Sampler(inspect(*programs, *batch)), part
