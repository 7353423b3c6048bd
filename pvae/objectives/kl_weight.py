"""A weight on the KL divergence, for any objective."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import listed
from pvae.runtime import number

__all__ = ["LatentScale"]


class LatentScale(Messenger):
    r"""A KL weight: scales the latent sites of every program in its context.

    With both programs' latent sites scaled by :math:`\beta`, Pyro's ELBO becomes
    :math:`E_q[\log p(x|z)] - \beta \, KL(q(z|x) \| p(z))`.

    A site y that only the model has, and sums out, is part of the likelihood,
    :math:`p(x|z) = \sum_y p(y) \, p(x|z, y)`, and keeps its scale. If it is part of the prior,
    :math:`p(z) = \sum_y p(y) \, p(z|y)`, it is scaled like z.

    Args:
        weight: β, a number or a tensor of one number.

    Raises:
        PvaeError: If the number is negative, which would reward the KL, or NaN; in use, if the
            model's sums hold terms of both log p(z) and log p(x|z).

    Source: Bowman et al. 2016, *Generating Sentences from a Continuous Space*
    (arXiv:1511.06349; warm-up); Higgins et al. 2017, *β-VAE*.

    Example:
        >>> import pvae, torch
        >>> from pyro.infer import Trace_ELBO
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> with LatentScale(0.0):  # minus the reconstruction term alone
        ...     loss = Trace_ELBO().loss(model, guide, torch.ones(8, 4))
        >>> loss > 0
        True
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        # A tensor may be an input of a recording; its value is unknown then.
        unknown = isinstance(weight, Tensor)
        self.weight = weight if unknown else number("weight", weight, zero=True)
        self._fault: str | None = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        fault, self._fault = self._fault, None
        if fault is not None:
            raise PvaeError(fault) from None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        sums, dependent = _summed_by_model(msg)
        if msg["name"] not in sums or any(not site["is_observed"] for site in dependent):
            msg["scale"] = msg["scale"] * self.weight

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        sums, dependent = _summed_by_model(msg)
        if not any(site is msg for site in dependent):
            return
        likelihood = [site["name"] for site in dependent if site["is_observed"]]
        prior = [site["name"] for site in dependent if not site["is_observed"]]
        if likelihood and prior and (isinstance(self.weight, Tensor) or self.weight != 1):
            # Raised at the end: Pyro appends a table to errors that pass through its handlers.
            self._fault = (
                f"A KL weight (kl_warmup, LatentScale) is on log p(z) alone, and the model's sum "
                f"over {listed(sums)} holds both log p of {listed(prior)} and that of "
                f"{listed(likelihood)}: a part of a sum cannot be weighed. Let the guide have "
                f"{listed(sums)} and sum it out there, or train without a KL weight."
            )
        if prior == [msg["name"]]:
            for site in sums.values():
                site["scale"] = site["scale"] * self.weight


def _summed_by_model(msg: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Finds the sites that only the model has and sums out, and the sites that depend on them."""
    replays = [h.trace for h in _PYRO_STACK if isinstance(h, ReplayMessenger)]
    traces = [h.trace for h in _PYRO_STACK if isinstance(h, TraceMessenger)]
    if not replays or not traces:
        return {}, []
    nodes = {**traces[-1].nodes, msg["name"]: msg}
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    sums = {
        name: site
        for name, site in sites.items()
        if "_enumerate_dim" in site["infer"] and name not in (replays[-1] or ())
    }
    dims = [site["infer"]["_enumerate_dim"] for site in sums.values()]
    dependent = [
        site
        for name, site in sites.items()
        if name not in sums and not site["infer"].get("_deterministic")
        for shape in [getattr(site["fn"], "batch_shape", ())]
        if any(len(shape) >= -dim and shape[dim] > 1 for dim in dims)
    ]
    return sums, dependent
