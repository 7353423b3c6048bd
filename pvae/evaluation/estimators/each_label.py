"""log p(x|y) of each datum for every label y, for pairs whose programs take y."""

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
from pvae.pair import density_of, gives_one_code, inspect, names_labels, signature_of

__all__ = ["Labels", "in_seed", "labels_of", "log_px_each", "place_of_labels"]


@dataclass(frozen=True)
class Labels:
    """The labels that a pair's y can be.

    Attributes:
        place: Which of the pair's tensors is y.
        values: The C values of y, [C], or one-hot [C, C].
        log_prior: log p(y), [C], nats.
        joint: Whether the model itself draws y, so that its weights are of p(x, y).
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
        values = self.values if self.values.ndim == 1 else self.values.argmax(-1)
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
    y = task.batch(np.arange(min(len(task.data), 2)))[fields.index("y")]
    integers = y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool
    one_hot = y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all())
    used = (integers or one_hot) and _role(task) is not None
    return fields.index("y") if used else None


def labels_of(
    task: Task, prior: Sequence[float] | None = None, num_classes: int | None = None
) -> Labels | None:
    """Returns the labels of a pair whose data have labels y; None if there are none.

    The labels are those that occur in the data, and in the training part if there is one.

    Args:
        task: That of the estimator.
        prior: p(y) of each label in rising order; None is the shares in the training part, or
            equal shares without one.
        num_classes: C, if the labels are 0 … C − 1 and those of the data mean nothing.

    Raises:
        PvaeError: If `prior` does not fit, or a label has the probability zero.
    """
    place = place_of_labels(task)
    if place is None:
        return None
    y = task.batch(np.arange(len(task.data)))[place].cpu()
    y = y if num_classes is None else torch.arange(num_classes)
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
        classes = values.argmax(-1)
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
    return Labels(place, values, np.log(shares), _role(task) == "observed")


def _known(y: Tensor) -> Tensor:
    """Returns the labels that are known: not negative, not NaN."""
    rows = y if y.ndim == 1 else y.sum(-1)
    return y[(rows >= 0) if y.ndim == 1 else rows == 1]


def _role(task: Task) -> str | None:
    """Returns whether y is `"observed"` or `"given"`; None if the pair makes nothing of it."""
    fields = fields_of(task.data)
    found = inspect(task.sampler.model, task.sampler.guide, *task.batch(_few(task)))
    observed, _, given = density_of(found, fields)[2:-1].partition(" | ")
    if "y" in observed.split(", "):
        return "observed"
    return "given" if "y" in given.split(", ") else None


def _few(task: Task) -> np.ndarray:
    return np.arange(min(64, len(task.data)))


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
    log_w = torch.cat([each.log_w for each in draws]).double().T.cpu().numpy()
    found = log_mean_exp(log_w), np.zeros(len(log_w)) if fixed else log_px_se(log_w)
    return tuple(each.reshape(size, count) for each in found)


def _is_fixed(sampler: Sampler) -> bool:
    """Whether log w is the same for every sample: nothing is sampled, or there is one code."""
    structure = sampler.structure
    return set(structure.latent) <= set(structure.enumerated) or gives_one_code(structure)


def in_seed(seed: int, *words: int) -> int:
    """Returns a seed for one purpose of an estimator."""
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
