"""Means of x given codes from the prior, from the guide or from the caller."""

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import (
    Program,
    alone,
    base_distribution,
    name_of,
    observed_sites,
    quiet,
    trace_model,
)
from pvae.predictive.at_means import AtMeans, given_to, place_of, trace_at_means
from pvae.predictive.without_data import drawn, one_label, run_without_data
from pvae.runtime import own_random_state

__all__ = ["decode", "generate", "mean_of", "prior_sites", "reconstruct", "shown_site"]


def prior_sites(model: Program, *batch: Any) -> list[str]:
    """Returns the sites of a model in the order in which it draws them, the data last."""
    with quiet(model, model), own_random_state(0):
        return list(drawn(run_without_data(model, 2, batch)))


@alone
def reconstruct(
    model: Program, guide: Program, *batch: Any, site: str | None = None, **kwargs: Any
) -> Tensor:
    """Returns the mean of p(x|z) with z at the code that `encode` gives.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: The data, tensors of leading size B, and what else the programs take, as for
            `pvae.check`.
        site: Whose mean; None is the observed site with the most values for each datum.
        **kwargs: Arguments of the programs by name.

    Returns:
        Tensor [B, *event].

    Raises:
        PvaeError: If a program fails, or the model has no such site.

    Example:
        >>> import torch
        >>> from pvae import guides, models, reconstruct
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> reconstruct(*pair, torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """
    with own_random_state(0):
        (model, guide), batch = given_to(batch, kwargs, model, guide)
        with quiet(model, guide):
            guide_trace = trace_at_means(guide, batch)
            with one_label(model, batch):
                trace = trace_model(model, guide_trace, *batch)
            return mean_of(model, trace, site)


@alone
def generate(
    model: Program,
    size: int,
    *batch: Any,
    site: str | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    """Draws latents from the prior and returns the means of p(x|z).

    A model that can be called as `model(size=n)` is given the fields of the batch after the first,
    and the arguments by name: `generate(model, n, y=y)` is of p(x|y). Any other model is called
    with the batch, and its observations are taken away, as `pyro.infer.Predictive` does. Of the
    batch there it takes what its programs read beside the observations: shapes, labels and other
    conditions.

    Args:
        model: Pyro program p(z) p(x|z).
        size: n, the number of samples.
        *batch: Arguments as the model is trained with; their rows are repeated, or left out, to n.
            Not needed for a model that reads only the number of
            data from its arguments.
        site: Whose mean; None is the observed site with the most values for each datum.
        seed: Seed of the draws.
        **kwargs: Arguments of the model by name.

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: If the model needs a batch, has no such site, gives another number of data,
            or reads the very data that it observes, as an autoregressive decoder does.

    Example:
        >>> from pvae import generate, models
        >>> generate(models.VAE((1, 8, 8)), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    if size < 1:
        raise PvaeError(f"size={size} is not valid: at least one sample is needed.")
    with own_random_state(seed), quiet(model, model):
        return mean_of(model, run_without_data(model, size, batch, kwargs), site, size)


@alone
def decode(
    model: Program, latents: dict[str, Tensor], *batch: Any, site: str | None = None, **kwargs: Any
) -> Tensor:
    """Returns the means of p(x|z) for given latents.

    A latent site that is not given is at its prior mean, given those above it: in a hierarchy
    the top alone can be given.

    Args:
        model: Pyro program p(z) p(x|z).
        latents: For each latent site, its values [n, *event].
        *batch: As for `generate`.
        site: As for `generate`.
        **kwargs: As for `generate`.

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: As `generate`; or if the model has no site of such a name.

    Example:
        >>> import torch
        >>> from pvae import decode, models
        >>> model = models.VAE((1, 8, 8), latent_dim=2)
        >>> decode(model, {"z": torch.zeros(3, 2)}).shape
        torch.Size([3, 1, 8, 8])
    """
    if not isinstance(latents, Mapping) or not latents:
        raise PvaeError("latents: give a dict of tensors by site, as in {'z': z}.")
    size, place = len(next(iter(latents.values()))), place_of(model)
    latents = {name: value.to(place or value.device) for name, value in latents.items()}
    with quiet(model, model), own_random_state(0), AtMeans(), poutine.condition(data=latents):
        trace = run_without_data(model, size, batch, kwargs)
    if unknown := [name for name in latents if name not in trace.nodes]:
        raise PvaeError(
            f"The model {name_of(model)} has no site {unknown[0]!r}; its sites are "
            f"{', '.join([*drawn(trace), *observed_sites(trace)])}."
        )
    return mean_of(model, trace, site, size, given=set(latents))


def mean_of(
    model: Program,
    trace: Trace,
    site: str | None,
    size: int | None = None,
    given: frozenset[str] | set[str] = frozenset(),
) -> Tensor:
    """Returns the mean of a site, or of the observed site with the most values."""
    return _mean(shown_site(model, trace, site, size, given))


def shown_site(
    model: Program,
    trace: Trace,
    site: str | None,
    size: int | None = None,
    given: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Any]:
    """Returns a site of a trace, or the observed site with the most values."""
    sites = {**drawn(trace), **observed_sites(trace)}
    sites = {n: s for n, s in sites.items() if not isinstance(base_distribution(s["fn"]), Unit)}
    if site is not None:
        if site not in sites:
            raise PvaeError(
                f"The model {name_of(model)} has no site {site!r}; its sites are "
                f"{', '.join(sites)}."
            )
        return sites[site]
    sites = {name: each for name, each in sites.items() if name not in given}
    if not sites:
        raise PvaeError(f"The model {name_of(model)} has no sample site to show.")
    # With a size, what is observed was given, as a label. What was observed is the data, which a
    # model that was called without any has drawn last.
    shown = [
        s
        for s in sites.values()
        if s["infer"].get("was_observed") or (s["is_observed"] and size is None)
    ]
    last = [s for s in sites.values() if not s["is_observed"]] or [*sites.values()]
    chosen = max(shown, key=_numel) if shown else last[-1]
    rows = chosen["fn"].batch_shape
    if size is not None and rows and size not in rows:
        raise PvaeError(
            f"The model {name_of(model)} was asked for {size} data and gives {chosen['name']!r} "
            f"of batch shape {tuple(rows)}: its number of data is fixed. Let its plate "
            'and its shapes follow its arguments, pyro.plate("data", len(x)), or ask for as '
            "many as it gives."
        )
    return chosen


def _numel(site: dict[str, Any]) -> int:
    return site["value"].numel()


def _mean(site: dict[str, Any]) -> Tensor:
    value = site["value"]
    try:
        mean = site["fn"].mean.expand_as(value)
    except (NotImplementedError, AttributeError, RuntimeError):
        return value
    return value if mean.isnan().all() else mean  # torch's mean of categories
