"""log p(x|y) of each datum for every label y, for pairs whose programs take y."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.bounds import log_mean_exp, log_px_se
from pvae.evaluation.estimators.foreign import fields_of
from pvae.importance import Sampler
from pvae.pair import (
    Inspection,
    density_of,
    gives_one_code,
    inspect,
    name_of,
    names_labels,
    observed_sites,
    signature_of,
)

__all__ = ["Labels", "in_seed", "labels_of", "log_px_each", "place_of_labels"]


@dataclass(frozen=True)
class Labels:
    """The labels that a pair's y can be.

    Attributes:
        place: Which of the pair's tensors is y.
        values: The C values of y, [C], or one-hot [C, C].
        log_prior: log p(y), [C], nats; zeros if the model itself draws y.
        joint: Whether it does, so that its weights are of p(x, y).
    """

    place: int
    values: Tensor
    log_prior: np.ndarray
    joint: bool

    def __len__(self) -> int:
        return len(self.values)

    def log_joint(self, log_px: np.ndarray) -> np.ndarray:
        """Returns log p(x, y), [..., C], for what `log_px_each` returns."""
        return log_px if self.joint else log_px + self.log_prior

    def names(self) -> list[str]:
        """Returns the labels in words."""
        values = self.values if self.values.ndim == 1 else self.values.int().argmax(-1)
        return [f"{value:g}" for value in values.tolist()]


def place_of_labels(task: Task) -> int | None:
    """Returns which tensor of the pair's data is labels y that it uses; None if none is."""
    fields = fields_of(task.data)
    signature = signature_of(task.sampler.model)
    second = [*signature.parameters.values()][1:2] if signature else []
    if "y" not in fields or not (
        isinstance(task.data, Split) or all(names_labels(each.name) for each in second)
    ):
        return None
    y = _all_labels(task, fields.index("y"))
    integers = y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool
    used = (integers or _is_one_hot(y)) and _role(task) is not None
    return fields.index("y") if used else None


def _all_labels(task: Task, place: int) -> Tensor:
    if isinstance(task.data, Split):
        return task.data.y.cpu()
    return task.batch(np.arange(len(task.data)))[place].cpu()


def _is_one_hot(y: Tensor) -> bool:
    """Whether every known row [C] has a single 1, unlike several attributes of 0 and 1."""
    if y.ndim != 2 or y.shape[1] < 2:
        return False
    y = _known(y)
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def labels_of(
    task: Task, prior: Sequence[float] | None = None, num_classes: int | None = None
) -> Labels | None:
    """Returns the labels of a pair whose data have labels y; None if there are none.

    They are those that the model can draw, if it draws y; else those that occur in the data, and in
    the training part if there is one.

    Args:
        task: That of the estimator.
        prior: p(y) of each label in rising order; None is the shares in the training part, or
            equal shares without one.
        num_classes: C, if the labels are 0 … C − 1 and those of the data mean nothing.

    Raises:
        PvaeError: If `prior` does not fit, a label has the probability zero, or the model's labels
            cannot be counted.
    """
    place = place_of_labels(task)
    if place is None:
        return None
    if _role(task) == "observed":
        return _of_model(task, place, prior, num_classes)
    y = torch.arange(num_classes) if num_classes is not None else _all_labels(task, place)
    train = task.source.train.y if isinstance(task.source, Data) else None
    train = None if num_classes is not None else train
    train = None if train is None else train.cpu()
    known = [_known(each) for each in (y, train) if each is not None]
    if not any(map(len, known)):
        raise PvaeError(
            "The data have labels y, but no label is known, so it is not known which there are. "
            "Give num_classes to classify, or data with labels."
        )
    values, index = torch.unique(torch.cat(known), dim=0, return_inverse=True)
    if values.ndim > 1:  # one-hot: sorted by class
        classes = values.int().argmax(-1)
        values, index = values[classes.argsort()], classes.argsort().argsort()[index]
    size = len(values)
    if prior is not None:
        shares = np.asarray(prior, dtype=np.float64)
        if shares.shape != (size,) or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
            raise PvaeError(
                f"prior={list(prior)} is not valid: give a probability above zero for each of the "
                f"{size} labels, in rising order, with the sum 1."
            )
    elif train is None:
        shares = np.full(size, 1 / size)
    else:
        counts = np.bincount(index[len(known[0]) :].numpy(), minlength=size)
        if not counts.all():
            lacking = Labels(0, values, shares := counts, False).names()[int(counts.argmin())]
            raise PvaeError(
                f"Label {lacking} occurs in the evaluated data and not in the training data, so "
                "its share there, p(y), is zero. Give prior=…, a probability for each label."
            )
        shares = counts / counts.sum()
        if len(known[1]) < len(train) and np.ptp(counts) <= 1 < size:
            warnings.warn(
                f"p(y) is taken as equal for all {size} labels, because the {len(known[1])} known "
                "training labels are as many of each. If they were chosen so (balanced=True), give "
                "prior=…, a probability for each label.",
                stacklevel=2,
            )
    return Labels(place, values, np.log(shares), False)


def _of_model(
    task: Task, place: int, prior: Sequence[float] | None, num_classes: int | None
) -> Labels:
    """Returns the labels that a model can draw."""
    model = name_of(task.sampler.model)
    if prior is not None:
        raise PvaeError(f"{model} draws y itself and has its own p(y): leave prior out.")
    found = _inspected(task)
    y, sites = found.batch[place], observed_sites(found.structure.model_trace)
    name = next(
        (n for n, site in sites.items() if n in ("y", "y_observed") or _same(site["value"], y)),
        None,
    )
    fn = None if name is None else sites[name]["fn"]
    if fn is None or not fn.has_enumerate_support or fn.event_dim != y.ndim - 1:
        raise PvaeError(
            f"{model} draws y, and its labels cannot be counted: Bayes' rule needs a site y with a "
            "finite support, such as Categorical or OneHotCategorical."
        )
    values = fn.enumerate_support(expand=False)
    values = values.reshape(len(values), *fn.event_shape).to(y.dtype).cpu()
    if num_classes not in (None, len(values)):
        raise PvaeError(f"num_classes={num_classes}: {model} draws y from {len(values)} labels.")
    return Labels(place, values, np.zeros(len(values)), True)


def _same(value: Tensor, y: Tensor) -> bool:
    return value.numel() == y.numel() and torch.equal(value.reshape(y.shape).to(y.dtype), y)


def _known(y: Tensor) -> Tensor:
    """Returns the labels that are known: not negative, not NaN."""
    return y[(y >= 0).reshape(len(y), -1).all(1)]


def _role(task: Task) -> str | None:
    """Returns whether y is `"observed"` or `"given"`; None if the pair makes nothing of it."""
    found = _inspected(task)
    observed, _, given = density_of(found, fields_of(task.data))[2:-1].partition(" | ")
    if "y" in observed.split(", "):
        return "observed"
    return "given" if "y" in given.split(", ") else None


def _inspected(task: Task) -> Inspection:
    few = task.batch(np.arange(min(64, len(task.data))))
    return inspect(task.sampler.model, task.sampler.guide, *few)


def log_px_each(
    sampler: Sampler,
    batch: tuple[Tensor, ...],
    labels: Labels | None,
    num_samples: int,
    *,
    seed: int,
    first: int,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Bounds log p(x|y) of each datum for every label, from K importance samples.

    .. math:: \log p(x | y) \ge E \left[ \log \frac1K \sum_k \frac{p(x, z_k | y)}{q(z_k | x, y)}
        \right]

    Args:
        sampler: Samples the pair; its context is entered.
        batch: B data. With labels their own y is not read.
        labels: The labels; None bounds log p(x) without labels, as one column.
        num_samples: K.
        seed: Seed of the samples.
        first: Number of the first datum, for seeds and messages.

    Returns:
        L_K, [B, C], and its standard error by the delta method, [B, C], in nats. The error is zero
        where log w is the same for every sample.
    """
    size, count = len(batch[0]), 1
    if labels is not None:
        count = len(labels)
        y = labels.values.to(batch[labels.place].device).repeat(
            size, *[1] * (labels.values.ndim - 1)
        )
        batch = tuple(
            y if i == labels.place else tensor.repeat_interleave(count, 0)
            for i, tensor in enumerate(batch)
        )
    if fixed := _is_fixed(sampler):
        num_samples = 1
    draws = sampler.stream(batch, num_samples, first=first, seed=seed)
    log_w = torch.cat([each.log_w for each in draws]).double().T
    found = log_mean_exp(log_w), torch.zeros_like(log_w[:, 0]) if fixed else log_px_se(log_w)
    return tuple(each.reshape(size, count).cpu().numpy() for each in found)


def _is_fixed(sampler: Sampler) -> bool:
    """Whether log w is the same for every sample: nothing is sampled, or there is one code."""
    structure = sampler.structure
    return set(structure.latent) <= set(structure.enumerated) or gives_one_code(structure)


def in_seed(seed: int, *words: int) -> int:
    """Returns a seed for one purpose of an estimator."""
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
