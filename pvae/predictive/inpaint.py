"""Draws the missing values of x given the known ones, by importance resampling."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import Program, alone, inspect, name_of, quiet
from pvae.predictive.at_means import given_to
from pvae.predictive.known import KnownPart, blank, known_of
from pvae.runtime import own_random_state, whole

__all__ = ["inpaint"]

_ROWS = 1 << 14  # samples of z at a time


@alone
def inpaint(
    model: Program,
    guide: Program,
    *batch: Any,
    known: Tensor,
    num_samples: int = 1,
    mean: bool = False,
    num_proposals: int = 1000,
    num_chains: int = 50,
    num_steps: int = 20,
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    r"""Draws the missing values of x given the known ones, for any pair where x factorises given z.

    .. math:: x_{\text{missing}} \sim p(x_{\text{missing}} \mid x_{\text{known}})
        = \int p(x_{\text{missing}} \mid z) \, p(z \mid x_{\text{known}}) \, dz

    First the missing values are imputed, in M chains of Gibbs steps in which the guide stands for
    the posterior: z ~ q(z|x), then x_missing ~ p(x_missing|z). Then K samples of z are drawn, from
    the guide's densities at these M imputations and from the prior, and each completion takes one
    of them with a probability in proportion to its weight:

    .. math:: w_k = \frac{p(z_k) \, p(x_{\text{known}} \mid z_k)}{\frac{0.8}{M} \sum_m
        q(z_k \mid x_{\text{known}}, \hat x_m) + 0.2 \, p(z_k)}

    The completions of one datum are drawn from the same K samples of z. They follow
    p(x_missing | x_known) as K grows, whatever the guide.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: x [B, *event], whose missing values are not read and may be NaN, and what else the
            programs take, as for `pvae.check`.
        known: Which values of x are known, booleans [B, *event], [*event], or of the first
            dimensions of an event.
        num_samples: The number of completions of each datum.
        mean: Whether a missing value is its mean given z in place of a draw.
        num_proposals: K.
        num_chains: M.
        num_steps: Gibbs steps of each chain.
        seed: Seed of the draws.
        **kwargs: Arguments of the programs by name.

    Returns:
        Tensor [num_samples, B, *event], the known values unchanged; floats with `mean`.

    Raises:
        PvaeError: If the likelihood of x does not factorise over its values given z, `known` has
            another shape, all or none of the values are known, the pair has no bound, no sample of
            z gives the known values of a datum a probability, or a mean is asked for and there is
            none.

    Warns:
        UserWarning: If several completions were asked for, and for most of the data almost all of
            the weight is on one sample of z.

    Source: Rezende, Mohamed & Wierstra 2014, *Stochastic Backpropagation and Approximate Inference
    in Deep Generative Models* (arXiv:1401.4082), for the Gibbs steps; Mattei & Frellsen 2018,
    *Leveraging the Exact Likelihood of Deep Latent Variable Models* (arXiv:1802.04826), for their
    correction by the model's density, here by importance weights.

    Example:
        >>> import torch
        >>> from pvae import guides, inpaint, models
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> upper = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> upper[:, :4] = True
        >>> inpaint(*pair, torch.ones(5, 1, 8, 8), known=upper, num_samples=3).shape
        torch.Size([3, 5, 1, 8, 8])
    """
    sizes = {"num_proposals": num_proposals, "num_chains": num_chains, "num_steps": num_steps}
    for name, value in {"num_samples": num_samples, **sizes}.items():
        whole(name, value, 1)
    (model, guide), (x, *others) = given_to(batch, kwargs, model, guide)
    known = known_of(known, x)
    batch = (blank(x, known), *others)
    found = inspect(model, guide, *batch)
    parts, effective = [], []
    with (
        own_random_state(seed),
        quiet(model, guide),
        KnownPart(found, known, num_chains, num_steps) as part,
    ):
        if part.unsampled:
            raise PvaeError(
                f"Site {part.unsampled[0]!r} is summed out in the model, and the guide does not "
                "draw it: there is no value of it to complete x with. Give the guide this site."
            )
        rows = len(x) if part.sampler.bound else max(1, _ROWS // num_proposals)
        for start in range(0, len(x), rows):
            piece = tuple(t[start : start + rows] for t in (*batch, known))
            drawn = part.weighted(piece, num_proposals, start, seed)
            _refuse_impossible(drawn.log_w, start)
            w = drawn.log_w.double().softmax(0)
            effective.append(1 / w.square().sum(0))
            at = torch.multinomial(w.T, num_samples, replacement=True).T
            values = {name: _rows(value, at) for name, value in drawn.values.items()}
            parts.append(part.drawn(piece, values, mean=mean))
            if mean and bool(parts[-1].isnan().all()):
                raise PvaeError(
                    f"The likelihood of x in the model {name_of(model)} has no mean. Leave "
                    "mean=True out to draw the missing values."
                )
    _warn(torch.cat(effective), num_samples, num_proposals)
    return torch.where(known, x, torch.cat(parts, 1))


def _refuse_impossible(log_w: Tensor, first: int) -> None:
    lost = (~(log_w > -math.inf)).all(0).nonzero()
    if len(lost):
        raise PvaeError(
            f"Datum {first + int(lost[0])} cannot be completed: its known values have no "
            f"probability given any of {len(log_w)} samples of z. Check these values, or raise "
            "num_proposals."
        )


def _rows(value: Tensor, at: Tensor) -> Tensor:
    """Returns samples [n, B, *rest] of values [K, B, *rest], at their numbers [n, B]."""
    return value[at, torch.arange(value.shape[1], device=value.device)]


def _warn(effective: Tensor, num_samples: int, num_proposals: int) -> None:
    median = float(effective.median())
    if num_samples > 1 and num_proposals > 1 and median < 2:
        warnings.warn(
            f"For most of the data almost all of the weight is on one of {num_proposals} samples "
            f"of z (median effective sample size {median:.1f}): the completions of one datum "
            "differ too little. Raise num_proposals, num_chains or num_steps.",
            stacklevel=4,
        )
