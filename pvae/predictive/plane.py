"""A plane of codes: the means of x on a grid, and the density of the prior."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import Program, alone, base_distribution, name_of, quiet
from pvae.predictive.at_means import place_of
from pvae.predictive.generate import decode
from pvae.predictive.without_data import drawn, run_without_data
from pvae.runtime import own_random_state

__all__ = ["Plane", "code_grid", "normal_quantiles", "plane", "prior_density"]

_DRAWS = 4000


class Plane(NamedTuple):
    """The means of x on a grid of codes.

    Attributes:
        x: Means of p(x|z), [n, n, *event]; the first code rises to the right and the second
            upwards, so that `x[0, 0]` is at the top left.
        first: The values of the first dimension, rising, [n].
        second: The values of the second dimension, rising, [n].
        site: The latent site.
        standard: Whether its prior is standard normal.
    """

    x: Tensor
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    site: str
    standard: bool


def normal_quantiles(size: int) -> NDArray[np.float64]:
    """Returns values that cut the standard normal into parts of equal probability, [n]."""
    return torch.special.ndtri(torch.from_numpy(_levels(size))).numpy()


def _levels(size: int) -> NDArray[np.float64]:
    return (np.arange(size) + 0.5) / size


def code_grid(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Returns the codes of a grid row by row from the top left, [n m, 2].

    Args:
        first: The first code, which rises to the right, [n].
        second: The second code, which rises upwards, [m].
    """
    return np.stack(np.meshgrid(first, second[::-1]), -1).reshape(-1, 2)


@alone
def plane(
    model: Program, *batch: Any, size: int = 15, site: str | None = None, **kwargs: Any
) -> Plane:
    r"""Returns the means of p(x|z) on a grid with equal probability under the prior of z.

    .. math:: z_{ij} = \big(F_1^{-1}(\tfrac{i - 1/2}{n}), F_2^{-1}(\tfrac{j - 1/2}{n})\big)

    with F the distribution function of a dimension: that of the standard normal if the prior is
    one, else the empirical one of 4,000 draws from the prior.

    Args:
        model: Pyro program p(z) p(x|z), whose code has two dimensions.
        *batch: As for `pvae.generate`.
        size: n, the number of codes in a row.
        site: The latent site; None is the only one of two dimensions.
        **kwargs: As for `pvae.generate`.

    Raises:
        PvaeError: If no site has two dimensions, or the model cannot generate.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (arXiv:1312.6114), figure 4.

    Example:
        >>> from pvae import models
        >>> from pvae.predictive import plane
        >>> plane(models.VAE((1, 8, 8), latent_dim=2), size=3).x.shape
        torch.Size([3, 3, 1, 8, 8])
    """
    if size < 1:
        raise PvaeError(f"size={size} is not valid: at least one code is needed.")
    with quiet(model, model), own_random_state(0):
        sites = drawn(run_without_data(model, _DRAWS, batch, kwargs))
    flat = [
        name for name, each in sites.items()
        if each["value"].shape == (_DRAWS, 2) and each["value"].is_floating_point()
    ]  # fmt: skip
    if site not in flat and (site is not None or len(flat) != 1):
        shapes = ", ".join(f"{n} {list(each['value'].shape[1:])}" for n, each in sites.items())
        which = f"site={site!r} is no" if site is not None else "A plane of codes needs one"
        raise PvaeError(
            f"{which} latent site of two dimensions; the sites of {name_of(model)} are {shapes}. "
            "Of a longer code, pvae.plot.traversal shows one dimension in each row."
        )
    site = site or flat[0]
    fn, codes = sites[site]["fn"], sites[site]["value"]
    standard = isinstance(base_distribution(fn), torch.distributions.Normal) and bool(
        fn.mean.abs().max() < 1e-6 and (fn.variance - 1).abs().max() < 1e-6
    )
    if standard:
        first = second = normal_quantiles(size)
    else:
        first, second = np.quantile(codes.double().cpu().numpy(), _levels(size), axis=0).T
    z = torch.as_tensor(code_grid(first, second), dtype=codes.dtype)
    x = decode(model, {site: z}, *batch, **kwargs).unflatten(0, (size, size))
    return Plane(x, first, second, site, standard)


@alone
def prior_density(model: Program, z: Tensor, *batch: Any, site: str = "z", **kwargs: Any) -> Tensor:
    """Returns log p(z) for given values of a latent site, [n], nats.

    Args:
        model: Pyro program p(z) p(x|z).
        z: Values [n, *event].
        *batch: As for `pvae.generate`.
        site: The latent site.
        **kwargs: As for `pvae.generate`.

    Raises:
        PvaeError: If the model cannot generate, or has no such site.

    Example:
        >>> import torch
        >>> from pvae import models
        >>> from pvae.predictive import prior_density
        >>> prior_density(models.VAE((1, 8, 8), latent_dim=2), torch.zeros(1, 2))
        tensor([-1.8379])
    """
    value = z.to(place_of(model) or z.device)
    with quiet(model, model), own_random_state(0), poutine.condition(data={site: value}):
        trace = run_without_data(model, len(z), batch, kwargs)
    if site not in trace.nodes:
        raise PvaeError(f"The model {name_of(model)} has no site {site!r}.")
    return trace.nodes[site]["fn"].log_prob(value).detach()
