"""The pair as a classifier: q(y|x) of labelled data with their labels hidden, or p(y|x) itself."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from pvae.distributions import values_of
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.classification import Classification
from pvae.evaluation.work import in_blocks
from pvae.importance import seed_unit
from pvae.pair import (
    latent_sites,
    mask_of,
    observed_sites,
    trace_guide,
    trace_model,
    unmasked,
)

__all__ = ["Classifier"]

_ROWS = 256  # data at a time
_TAG = 0x7C


@dataclass(frozen=True)
class Classifier(Estimator):
    r"""Scores a guide's q(y|x) on the data whose labels are known, with the labels hidden.

    It applies to a pair that observes labels and can do without them, so that the guide has a site
    for unknown ones: `y_unobserved` if the model has `obs_mask`, or `y`. Labels are hidden by −1
    (integers), NaN (floats), or None for the argument; a bool for each datum that says which are
    known becomes False. If y depends on other latents of the guide,

    .. math:: q(y|x) = E_{q(z|x)}[q(y|x, z)]

    is a mean over samples of z. A model that observes only the label and has no latent sites is a
    classifier itself; its p(y|x) is scored.

    Attributes:
        num_samples: Samples of these latents; 1 is enough if there are none.
        num_data: Number of data, drawn at random; None for all.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.M2((4,), 3, 2)
        >>> guide = pvae.guides.LabelThenCode(model, (4,))
        >>> data = {"x": torch.ones(5, 4), "y": torch.tensor([0, 1, 2, 0, 1])}
        >>> found = pvae.evaluate(model, guide, data, num_samples=10, estimators=[Classifier()])
        >>> found.findings["classifier"].title
        'Classification by q(y|x)'
    """

    name, finding = "classifier", Classification

    num_samples: int = 64

    @classmethod
    def from_options(cls) -> Self:
        """Error and calibration of the guide's labels."""
        return cls()

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        if task.code:
            return []
        for block in in_blocks(np.arange(len(task.data)), _ROWS):
            label = _label(task, task.batch(block))
            if label is None:
                return []
            if label.known.any():  # else all labels so far are unknown
                return [self] if label.hidden is not None or label.log_p is not None else []
        return []

    def estimate(self, task: Task) -> Classification:
        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=_TAG)
            batch = task.batch(block)
            label = _label(task, batch)
            if label is not None and label.log_p is not None:
                log_probs = label.log_p
            elif label is None or (label.hidden is None and label.known.any()):
                raise PvaeError(
                    f"The labels of data {int(block[0])} to {int(block[-1])} could not be hidden "
                    "from the pair: let −1 (or NaN) mean an unknown label."
                )
            elif label.hidden is None:
                log_probs = torch.zeros(len(block), len(label.values))
            else:
                log_probs = self._log_q(task, label, len(block))
            return {
                "log_probs": log_probs.double().cpu().numpy(),
                "label": torch.where(label.known, label.classes, -1).cpu().numpy(),
            }

        found = task.map("classifier", in_blocks(task.positions, _ROWS), compute)
        known = found["label"] >= 0
        if not known.any():
            raise PvaeError(f"None of these {len(known)} data has a known label.")
        columns = {name: values[known] for name, values in found.items()}
        kind = Prediction if _predicts(task) else Classification
        return kind(task.positions[known], **columns)

    def _log_q(self, task: Task, label: "_Label", size: int) -> Tensor:
        """Returns log q(y|x), [B, C]."""
        found: list[Tensor] = []
        for _ in range(self.num_samples):
            trace = trace_guide(task.sampler.guide, *label.hidden)
            sites = latent_sites(trace)
            fn = unmasked(sites[label.target]["fn"])
            found.append(_log_prob(fn, label.values).reshape(-1, size).double())
            if next(iter(sites)) == label.target or (len(found) == 2 and found[0].equal(found[1])):
                found = found[:1]
                break
        return (torch.stack(found).logsumexp(0) - math.log(len(found))).T


@dataclass(frozen=True)
class Prediction(Classification, kind="Prediction"):
    """How well the p(y|x) of a model of labels predicts the known labels of n data."""

    title: ClassVar[str] = "Classification by p(y|x)"
    by: ClassVar[str] = "p(y|x)"


def _predicts(task: Task) -> bool:
    """Whether the model observes one site and has no latent ones."""
    structure = task.sampler.structure
    return len(structure.observed) == 1 and not latent_sites(structure.model_trace)


class _Label(NamedTuple):
    """The labels of a batch.

    Attributes:
        values: The values of the site, [C, 1, *event].
        classes: The number of each label's value, [B].
        known: Whether it is known, [B].
        target: The guide's site for unknown labels.
        hidden: The batch without its labels; None if they cannot be hidden.
        log_p: log p(y|x) of a model of nothing else, [B, C].
    """

    values: Tensor
    classes: Tensor
    known: Tensor
    target: str
    hidden: tuple[Any, ...] | None = None
    log_p: Tensor | None = None


def _label(task: Task, batch: tuple[Tensor, ...]) -> _Label | None:
    """Finds the observed site that is the label; None if no site may be."""
    guide, model, size = task.sampler.guide, task.sampler.model, len(batch[0])
    candidates = [
        name for name, site in observed_sites(task.sampler.structure.model_trace).items()
        if (values := values_of(site["fn"])) and math.prod(values.shape) == 1
    ]  # fmt: skip
    if not candidates:
        return None
    trace = observed_sites(trace_model(model, trace_guide(guide, *batch), *batch))
    for name in candidates:
        if name not in trace or math.prod(trace[name]["fn"].batch_shape) != size:
            continue
        site, fn = trace[name], unmasked(trace[name]["fn"])
        values, value = (
            _values(fn, site["value"]),
            site["value"].expand(*fn.batch_shape, *fn.event_shape),
        )
        value = value.reshape(size, *fn.event_shape)
        same = (values == value).flatten(2).all(2) if fn.event_shape else values == value
        mask = mask_of(site)
        known = torch.ones(size, dtype=torch.bool, device=value.device)
        if mask is not None:
            mask = mask.expand(*fn.batch_shape, *(mask.shape[mask.ndim - fn.event_dim :]))
            known = mask.reshape(size, -1).all(1)
        label = _Label(values, same.int().argmax(0), known & same.any(0), _unknown(name))
        if _predicts(task) and len(batch) > 1:
            return label._replace(log_p=_log_prob(fn, label.values).reshape(-1, size).T)
        for hidden in _without(batch, label):
            if _is_hidden(task, name, label.target, hidden):
                return label._replace(hidden=hidden)
        if not known.any():
            return label
    return None


def _unknown(name: str) -> str:
    """Returns the name of the latent site of unknown labels; `obs_mask` makes two sites."""
    return f"{name.removesuffix('_observed')}_unobserved" if name.endswith("_observed") else name


def _values(fn: Any, like: Tensor) -> Tensor:
    """Returns the values of a distribution whose event has one element, [C, 1, *event]."""
    found = values_of(fn)
    numbers = torch.tensor(found.numbers, device=like.device, dtype=like.dtype)
    if found.one_hot:
        return torch.eye(len(numbers)).to(numbers).reshape(-1, 1, *fn.event_shape)
    return numbers.reshape(-1, 1, *(1 for _ in fn.event_shape))


def _log_prob(fn: Any, values: Tensor) -> Tensor:
    """Returns the log probability of each value, [C, *batch]."""
    shape = (len(values), *(1 for _ in fn.batch_shape), *fn.event_shape)
    values = values.reshape(shape).expand(-1, *fn.batch_shape, *fn.event_shape)
    return fn.log_prob(values)


def _without(batch: tuple[Tensor, ...], label: _Label) -> Iterator[tuple[Any, ...]]:
    """Yields a batch without its labels, in the forms in which a pair may take it."""
    if not label.known.any():
        yield batch
        return
    labels = [_holds(tensor, label) for tensor in batch]

    def unknown(tensor: Tensor, holds: bool) -> Tensor:
        if holds:
            return torch.full_like(tensor, math.nan if tensor.is_floating_point() else -1)
        says = tensor.dtype == torch.bool and tensor.shape == label.known.shape
        return torch.zeros_like(tensor) if says and tensor.equal(label.known) else tensor

    yield tuple(unknown(t, holds) for t, holds in zip(batch, labels, strict=True))
    if any(labels):
        yield tuple(None if holds else t for t, holds in zip(batch, labels, strict=True))


def _holds(tensor: Tensor, label: _Label) -> bool:
    """Whether a tensor of the batch holds the labels, as numbers or in one-hot form."""
    if tensor.dtype == torch.bool:
        return False
    if tensor.ndim == 2 and tensor.shape[1] == len(label.values):
        found = torch.eye(len(label.values), device=tensor.device)[label.classes]
        return bool((tensor == found).all(1)[label.known].all())
    numbers = label.values.flatten()
    if len(numbers) != len(label.values):  # one-hot in the model, numbers in the batch
        numbers = torch.arange(len(label.values), device=tensor.device)
    own = tensor.reshape(len(tensor), -1)
    return own.shape[1] == 1 and bool((own[:, 0] == numbers[label.classes])[label.known].all())


def _is_hidden(task: Task, name: str, target: str, batch: tuple[Any, ...]) -> bool:
    """Whether the guide samples the labels of a batch, and the model observes none."""
    try:
        draws = trace_guide(task.sampler.guide, *batch)
        site = latent_sites(draws).get(target)
        if site is None or values_of(site["fn"]) is None:
            return False
        seen = observed_sites(trace_model(task.sampler.model, draws, *batch)).get(name)
    except PvaeError:
        return False
    mask = None if seen is None else mask_of(seen)
    return seen is None or (mask is not None and not mask.any())
