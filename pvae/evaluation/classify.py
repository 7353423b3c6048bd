"""classify(): labels of data by Bayes' rule, for a pair of p(x|y)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split, as_data
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.bayes_rule import by_bayes_rule
from pvae.evaluation.estimators.each_label import labels_of
from pvae.evaluation.work import Work, take
from pvae.importance import Sampler
from pvae.pair import Program, TensorSplit, alone, given, inspect, move
from pvae.runtime import check_seed, default_device, find_device, own_random_state, whole

__all__ = ["Classes", "classify"]


@dataclass(frozen=True, repr=False)
class Classes:
    """p(y|x) of N data for C labels, in nats.

    Attributes:
        labels: The values of y, [C], or one-hot [C, C].
        log_probs: log p(y|x), [N, C].
        log_probs_se: Its Monte Carlo standard error, [N, C].
        log_px_given_y: The bound on log p(x|y), [N, C]; on log p(x, y) if the model draws y.
        log_px_given_y_se: Its Monte Carlo standard error, [N, C].
        log_px: log p(x), the log of Σ p(x|y) p(y), [N]; what `pvae.estimators.Rejection` scores.
    """

    labels: np.ndarray
    log_probs: np.ndarray
    log_probs_se: np.ndarray
    log_px_given_y: np.ndarray
    log_px_given_y_se: np.ndarray
    log_px: np.ndarray

    def __len__(self) -> int:
        return len(self.log_probs)

    def __repr__(self) -> str:
        return f"Classes({len(self)} data, {len(self.labels)} labels)"

    @property
    def y(self) -> np.ndarray:
        """The most probable label, [N], or one-hot [N, C].

        Where x is impossible under every label, of which `classify` warns, it is the first.
        """
        return self.labels[self.log_probs.argmax(1)]


@alone
def classify(
    model: Program,
    guide: Program,
    data: Data | Split | Tensor | tuple[Any, ...],
    *,
    num_classes: int | None = None,
    num_samples: int = 100,
    prior: Sequence[float] | None = None,
    seed: int = 0,
    plate: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Classes:
    r"""Labels data with a pair of p(x|y), by Bayes' rule.

    .. math:: p(y | x) = \frac{p(x | y) \, p(y)}{\sum_{y'} p(x | y') \, p(y')}

    log p(x|y) is bounded by K importance samples for each label: C · K samples for each datum. A
    density without latent variables is exact. `pvae.estimators.BayesRule` does the same in an
    evaluation, whose finished blocks are kept on disk, and scores the labels.

    Args:
        model: Pyro program of p(x|y), called as `model(x, y)`, or of p(x, y) that observes y.
        guide: Pyro program q(z|x, y), called in the same way.
        data: As for `pvae.evaluate`. The values of y say which labels there are, and nothing else;
            if the model draws y, it says so itself.
        num_classes: C, for data without labels: y is then 0 … C − 1. For a tensor x the pair is
            called with (x, y).
        num_samples: K.
        prior: p(y) of each label in rising order, for a pair of p(x|y); None is the shares in the
            training part of `data`, or equal shares without one.
        seed: Seed of the samples.
        plate: Name of the batch plate, if it is ambiguous.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        progress: Whether to show a progress bar.

    Raises:
        PvaeError: If the pair takes no labels y, or the data have none and `num_classes` is None;
            if `prior` is not valid.

    Example:
        >>> import torch
        >>> from pvae import classify, guides, models
        >>> model = models.ConditionalVAE((1, 8, 8), num_classes=3)
        >>> guide = guides.ConditionalMeanField(model, (1, 8, 8))
        >>> x = torch.zeros(5, 1, 8, 8)
        >>> found = classify(model, guide, x, num_classes=3, num_samples=10, progress=False)
        >>> found.log_probs.shape, found.y.shape
        ((5, 3), (5,))
    """
    num_samples, seed = whole("num_samples", num_samples), check_seed(seed)
    place = find_device(device)
    with torch.inference_mode(False), own_random_state(seed), default_device(place):
        move(place, model, guide)
        data = as_data(data)
        if num_classes is not None:
            data = _labelled(data, whole("num_classes", num_classes))
        part, pair = given(data, {}, place, model, guide)
        everything = np.arange(len(part))
        sampler = Sampler(inspect(*pair, *take(part, everything[:64], place), plate=plate))
        work = Work(None, {}, progress)
        task = Task(sampler, part, everything, None, work, place, seed, source=data)
        labels = labels_of(task, prior, num_classes)
        if labels is None:
            raise PvaeError(
                "classify needs a pair whose programs take labels y, such as ConditionalVAE, and "
                "data with labels, integers [N] or one-hot [N, C] with a single 1 in each row: "
                "load them with labels=True, or give num_classes."
            )
        with work, sampler:
            found = by_bayes_rule(task, labels, num_samples)
    return Classes(
        labels.values.numpy(),
        found["log_probs"],
        found["log_probs_se"],
        found["log_px"],
        found["log_px_se"],
        np.logaddexp.reduce(labels.log_joint(found["log_px"]), -1),
    )


def _labelled(data: Any, num_classes: int) -> Split | TensorSplit:
    """Returns data with labels that only say which there are."""
    data = data.test if isinstance(data, Data) else data
    if isinstance(data, Split):
        y = torch.arange(len(data)) % num_classes
        names = data.names if "y" in data.names else (*data.names, "y")
        return replace(data, fields={**data.fields, "y": y.to(data.device)}, names=names)
    tensors = data.tensors() if isinstance(data, TensorSplit) else data
    x, *rest = tensors if isinstance(tensors, tuple | list) else (tensors,)
    return TensorSplit((x, torch.arange(len(x)) % num_classes, *rest))
