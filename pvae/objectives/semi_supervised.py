"""The ELBO of data of which some labels are known, with a classifier's term."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.objectives.base import Call, ParticleELBO
from pvae.pair import Inspection, Program, latent_sites, observed_sites, unmasked
from pvae.runtime import number

__all__ = ["SemiSupervised_ELBO"]


class SemiSupervised_ELBO(ParticleELBO):
    r"""The ELBO of labelled and unlabelled data, and log q(y|x) of the labelled ones.

    .. math:: J = \sum_{b \in U} E_{q(y, z|x_b)} \left[ \log
        \frac{p(x_b, y, z)}{q(y, z | x_b)} \right] + \sum_{b \in L} \left( E_{q(z|x_b, y_b)}
        \left[ \log \frac{p(x_b, y_b, z)}{q(z | x_b, y_b)} \right]
        + \alpha \log q(y_b | x_b) \right)

    The ELBO of a datum with a label has no q(y|x), so that only unlabelled data would train the
    classifier. A label that the guide marks `infer={"enumerate": "parallel"}` is summed out; a
    sampled one without rsample uses the score function, with the mean of the other particles as
    baseline.

    The pair has labels that are known in part: `pyro.sample("y", …, obs=y, obs_mask=known)` in the
    model, and the site `y_unobserved` in the guide.

    **Scale.** Minibatches are samples of the data if they are shuffled, and J above is right. If
    each minibatch of B data holds its own share of labelled ones, m of them, instead of the share f
    among all data, its terms are weighed,

    .. math:: \hat J = f \frac{B}{m} \sum_{b \in L} J_b + (1 - f) \frac{B}{B - m} \sum_{b \in U} J_b

    whose mean is B/N times the J of all N data. A minibatch of one kind alone has f B/m = 1.

    Args:
        num_particles: K, samples of z for each datum.
        alpha: α, nats for each labelled datum. Kingma et al. use 0.1 N divided by the number of
            labelled data: 60 for 100 labels of 60,000.
        labelled: f, for minibatches with their own share of labelled data; None for shuffled ones.
            `pvae.fit` sets it if the data have a `labelled_share`.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, but sites may be enumerated; if alpha is negative or labelled
            not between 0 and 1; at the first call, if alpha is positive and no label of the pair is
            known in part.

    Source: Kingma, Rezende, Mohamed & Welling 2014, *Semi-Supervised Learning with Deep Generative
    Models*, equations 6 to 9 (arXiv:1406.5298).

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model = models.M2((1, 8, 8))
        >>> guide = guides.LabelThenCode(model, (1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, SemiSupervised_ELBO(alpha=10.0))
        >>> x, y = torch.zeros(16, 1, 8, 8), torch.arange(16) % 10
        >>> svi.step(x, y.where(y < 5, -1)) > 0  # −1 is an unknown label
        True
    """

    enumerates = True

    def __init__(
        self,
        num_particles: int = 1,
        alpha: float = 0.0,
        labelled: float | None = None,
        *,
        plate: str | None = None,
    ) -> None:
        super().__init__(num_particles, plate=plate)
        self.alpha = number("alpha", alpha, zero=True)
        if labelled is not None and not 0 < labelled < 1:
            raise PvaeError(
                f"labelled={labelled!r} is not valid: give the share of labelled data among all, "
                "between 0 and 1, or None."
            )
        self.labelled = labelled

    def take(self, inspection: Inspection) -> None:
        structure = inspection.structure
        self._check_labels(structure.guide_trace, structure.model_trace)
        super().take(inspection)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        call = self._call(model, guide, args, kwargs)
        draws = call.guide()
        model_trace = call.model(draws)
        self._check_labels(draws, model_trace)
        value = call.elbo(draws, model_trace) - call.penalty(draws)
        bound, score = value.mean(0), call.score(draws)
        if score is not None:
            others = (value.sum(0) - value) / max(call.num - 1, 1)
            surrogate = ((value - others).detach() * score).mean(0)
            bound = bound + (surrogate - surrogate.detach())
        known = None
        for name, target in _labels(draws, model_trace):
            seen = call.known(observed_sites(model_trace)[name])
            known = seen if known is None else known & seen
            if self.alpha:
                log_q = _at_label(call, draws, model_trace, name, target)
                bound = bound + self.alpha * torch.where(seen, log_q.mean(0), 0.0)
        if self.labelled is not None and known is not None:
            bound = self._weights(known).to(bound) * bound
        return -call.scale * bound.sum()

    def _weights(self, known: Tensor) -> Tensor:
        """Returns the weight of each datum, [B]."""
        size, num = len(known), known.sum()
        mixed = (num > 0) & (num < size)
        own, rest = self.labelled * size / num.clamp(min=1), (1 - self.labelled) * size
        return torch.where(mixed, torch.where(known, own, rest / (size - num).clamp(min=1)), 1.0)

    def _check_labels(self, draws: Trace, model_trace: Trace) -> None:
        if self.alpha and not any(True for _ in _labels(draws, model_trace)):
            raise PvaeError(
                f"SemiSupervised_ELBO(alpha={self.alpha:g}) needs a label that is known in part, "
                "and the pair has none: in the model pyro.sample('y', …, obs=y, obs_mask=known), "
                "in the guide a site 'y_unobserved'. (Sites of the guide: "
                f"{', '.join(latent_sites(draws)) or 'none'}.)"
            )


def _labels(draws: Trace, model_trace: Trace) -> Iterator[tuple[str, str]]:
    """Yields the model's site of known labels and the guide's of unknown ones, for each label."""
    in_guide = latent_sites(draws)
    for name in observed_sites(model_trace):
        target = f"{name.removesuffix('_observed')}_unobserved"
        if name.endswith("_observed") and target in in_guide:
            yield name, target


def _at_label(call: Call, draws: Trace, model_trace: Trace, name: str, target: str) -> Tensor:
    """Returns log q(y|x) at the known labels, [K, B]; of any value where y is not known."""
    site, seen = draws.nodes[target], model_trace.nodes[name]
    fn = unmasked(site["fn"])
    found = {**site, "fn": fn, "value": seen["value"], "mask": None, "infer": {}}
    log_q = call.terms({target: found})[target]
    if log_q.ndim > 2:
        raise PvaeError(
            f"Site {target!r} of the guide depends on another site that is summed out, so q(y|x) "
            "is not its density. Let the guide have the label first."
        )
    return log_q
