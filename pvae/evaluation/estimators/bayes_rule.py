"""Bayes' rule as a classifier: p(y|x) from log p(x|y) and log p(y)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.classification import Classification
from pvae.evaluation.estimators.each_label import Labels, in_seed, labels_of, log_px_each
from pvae.evaluation.finding import Known
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler

__all__ = ["BayesClassification", "BayesRule", "by_bayes_rule", "posterior"]

_TAG = 0xBA
_WEIGHTS = 2**18  # log weights held at a time
_CLASSES = 10  # for the expected time


@dataclass(frozen=True)
class BayesClassification(Classification, kind="BayesClassification"):
    """How well p(y|x) by Bayes' rule predicts the known labels of n data.

    Attributes:
        log_probs_se: Monte Carlo standard errors of `log_probs`, [n, C], nats.
        log_px: The bound on log p(x|y) for each label, [n, C], nats.
        log_px_se: Its Monte Carlo standard error, [n, C], nats.
        labels: The C labels in words.
        log_prior: log p(y), C numbers; empty if the model draws y, and `log_px` is of p(x, y).
        num_samples: K for each label.
    """

    title, section, order = "Classification by Bayes' rule", "uses", 66
    by: ClassVar[str] = "Bayes' rule"

    log_probs_se: np.ndarray
    log_px: np.ndarray
    log_px_se: np.ndarray
    labels: list[str]
    log_prior: list[float]
    num_samples: int

    @property
    def uncertain(self) -> np.ndarray:
        """Whether two labels are closer than two standard errors of their difference, 0 or 1, [n].

        With other samples, the decision for such a datum could be another one. One sample has no
        standard error, and decides nothing.
        """
        log_joint = self.log_px + np.asarray(self.log_prior or 0.0)
        order = np.argsort(log_joint, 1)[:, ::-1][:, :2]
        if order.shape[1] < 2:
            return np.zeros(len(self))
        best, second = np.take_along_axis(log_joint, order, 1).T
        se = np.where(np.isneginf(self.log_px), 0.0, self.log_px_se)
        errors = np.take_along_axis(se, order, 1)
        with np.errstate(invalid="ignore"):  # -inf - -inf
            return 1.0 - (best - second >= 2 * np.hypot(*errors.T))

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            **super().summary(known),
            "num_samples": self.num_samples,
            "uncertain": float(self.uncertain.mean()),
        }

    def line(self, summary: dict[str, Any]) -> str:
        return (
            f"{super().line(summary)}; other samples could change the label of "
            f"{text.percent(summary['uncertain'])} of them"
        )


@dataclass(frozen=True)
class BayesRule(Estimator):
    r"""Classifies data with a pair of p(x|y), and scores the labels.

    .. math:: p(y | x) = \frac{p(x | y) \, p(y)}{\sum_{y'} p(x | y') \, p(y')}, \qquad
        \log p(x | y) \ge E \left[ \log \frac1K \sum_{k=1}^K \frac{p(x, z_k | y)}{q(z_k | x, y)}
        \right]

    It applies to every pair whose programs take labels y, or observe them (p(x, y) then has the
    model's own p(y)). It needs C · K samples for each datum. A density without latent variables
    needs C evaluations and is exact. Errors of log p(y|x) are by the delta method from those of
    log p(x|y). They do not contain the bias of the bounds, about minus half the squared error of
    each, which is larger for labels whose posterior the guide has not learned.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        num_samples: K for each label.
        prior: p(y) of each label in rising order, for a pair of p(x|y); None is the shares in the
            training data, or equal shares without these.

    Example:
        >>> import torch
        >>> from pvae import evaluate, guides, models
        >>> model = models.ConditionalVAE((1, 8, 8), num_classes=3)
        >>> guide = guides.ConditionalMeanField(model, (1, 8, 8))
        >>> data = torch.zeros(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> asked = [BayesRule(num_samples=20)]
        >>> found = evaluate(model, guide, data, num_samples=2, estimators=asked, progress=False)
        >>> found.findings["bayes_rule"].log_probs.shape
        (6, 3)
    """

    name, finding, hint = "bayes_rule", BayesClassification, "--bayes_rule 1000"

    num_samples: int = 100
    prior: Sequence[float] | None = None

    @classmethod
    def from_options(cls, bayes_rule: int = 0, label_samples: int = 100) -> Self | None:
        """Labels by Bayes' rule.

        Args:
            bayes_rule: Number of data that are classified by p(x|y) p(y), for a pair that takes
                labels y.
            label_samples: Samples for each label and datum.
        """
        return cls(bayes_rule, label_samples) if bayes_rule else None

    def suggested(self, known: Known) -> bool:
        return known.data.get("density", "").endswith("| y)") and not known.code

    def options(self, task: Task) -> dict[str, Any]:
        prior = None if self.prior is None else [float(p) for p in self.prior]
        return {"num_samples": self.num_samples, "prior": prior}

    def cost(self, sampler: Sampler) -> float:
        return _CLASSES * self.num_samples

    def estimate(self, task: Task) -> BayesClassification:
        labels = labels_of(task, self.prior)
        if labels is None:
            raise PvaeError(
                "Bayes' rule needs a pair whose programs take labels y, such as ConditionalVAE, "
                "and data with labels: integers [N], or one-hot [N, C] with a single 1 in each row "
                "(NaN or -1 where it is unknown)."
            )
        found = by_bayes_rule(task, labels, self.num_samples)
        y = task.batch(task.positions)[labels.place].cpu()
        same = labels.values == y[:, None]
        same = same.flatten(2).all(2) if same.ndim > 2 else same
        known = same.any(1).numpy()
        if not known.any():
            raise PvaeError(f"None of these {len(known)} data has a known label.")
        columns = {name: values[known] for name, values in found.items()}
        return BayesClassification(
            task.positions[known],
            label=same.int().argmax(1).numpy()[known],
            **columns,
            labels=labels.names(),
            log_prior=[] if labels.joint else labels.log_prior.tolist(),
            num_samples=self.num_samples,
        )


def by_bayes_rule(task: Task, labels: Labels, num_samples: int) -> dict[str, np.ndarray]:
    """Returns `log_probs`, `log_px` and their errors, each [n, C], for the data of a task."""
    if task.sampler.bound:
        raise PvaeError(
            "The pair runs only with all its data together, so it cannot be run with other labels. "
            "Let the model and the guide take their shapes from their arguments."
        )
    if task.code:
        raise PvaeError(
            "The guide gives a point and has no density, so there is no bound on log p(x|y)."
        )

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        log_px, se = log_px_each(
            task.sampler,
            task.batch(block),
            labels,
            num_samples,
            seed=in_seed(task.seed, _TAG),
            first=int(block[0]),
        )
        log_probs, log_probs_se = posterior(labels.log_joint(log_px), se)
        return {
            "log_probs": log_probs,
            "log_probs_se": log_probs_se,
            "log_px": log_px,
            "log_px_se": se,
        }

    rows = max(1, min(256, _WEIGHTS // (num_samples * len(labels))))
    found = task.map("Bayes' rule", in_blocks(task.positions, rows), compute)
    if lost := int(np.isneginf(found["log_px"]).all(1).sum()):
        warnings.warn(
            f"{text.plural(lost, 'datum is', 'data are')} impossible under every label: log p(y|x) "
            "is NaN, and no label is right.",
            stacklevel=2,
        )
    return found


def posterior(log_joint: np.ndarray, se: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Returns log p(y|x) and its standard error from independent estimates of log p(x, y).

    .. math:: \mathrm{se}_y^2 = \sum_c (\delta_{yc} - p(c|x))^2 \, \mathrm{se}^2[\log p(x, c)]

    Args:
        log_joint: log p(x, y), [..., C], nats.
        se: Its standard errors, [..., C].

    Example:
        >>> log_probs, se = posterior(np.log([[3.0, 1.0]]), np.array([[0.1, 0.2]]))
        >>> np.exp(log_probs).round(2), se.round(3)
        (array([[0.75, 0.25]]), array([[0.056, 0.168]]))
    """
    total = np.logaddexp.reduce(log_joint, -1, keepdims=True)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where every label is impossible
        log_probs = log_joint - total
    p = np.nan_to_num(np.exp(log_probs))
    se = np.where(np.isneginf(log_joint), 0.0, se)
    slopes = np.eye(p.shape[-1]) - p[..., None, :]
    return log_probs, np.sqrt(((slopes * se[..., None, :]) ** 2).sum(-1))
