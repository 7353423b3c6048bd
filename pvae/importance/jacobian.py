"""Checks the densities of Delta sites that are functions of auxiliary draws."""

import torch
from pyro.distributions import Delta
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance.particles import Particles
from pvae.pair import base_distribution, latent_sites, listed, trace_of

_MOST_LATENTS = 512  # of one datum; the Jacobian of more is not computed


def refuse_other_jacobian(single: Particles, batch: tuple[Tensor, ...]) -> None:
    r"""Raises a PvaeError if a Delta of auxiliary draws has the wrong `log_density`.

    As in Pyro's AutoGuides, :math:`e \sim q(e|x)` and z = f(e) as a Delta have the density

    .. math:: \log q(z|x) = \log q(e|x) - \log \left| \det \frac{df}{de} \right|

    where f is a bijection and the last term is the Delta's `log_density`. Both are compared.

    Args:
        single: Runs the pair for one sample.
        batch: Some data.
    """
    in_model, size = latent_sites(single.structure.model_trace), len(batch[0])
    latent = latent_sites(single.structure.guide_trace)
    deltas = [n for n, s in latent.items() if isinstance(base_distribution(s["fn"]), Delta)]
    auxiliary = [name for name in latent if name not in in_model]
    if not auxiliary or not deltas:
        return
    latent = latent_sites(single.guide(batch, 1))
    kept = {n: s["value"].detach() for n, s in latent.items() if n not in deltas}
    events = {name: site["fn"].event_dim for name, site in latent.items()}
    with torch.enable_grad():
        draws = {name: kept[name].clone().requires_grad_() for name in auxiliary}
        trace = single.guide(batch, 1, trace_of(kept | draws))
        points = [
            single.rows(trace.nodes[name]["value"], events[name], 1, size).reshape(size, -1)
            for name in deltas
        ]
        z = torch.cat(points, -1)
        numel = sum(draw.numel() for draw in draws.values()) // size
        what = f"The guide draws {listed(auxiliary)} and gives {listed(deltas)} as a function of it"
        if z.shape[-1] != numel:
            raise PvaeError(
                f"{what}, {numel} values for {z.shape[-1]}: that is no bijection, and the density "
                "of the Delta cannot be computed. Give the model the auxiliary site too (any "
                "density given z keeps the bound), or the guide a distribution of z itself."
            )
        if numel > _MOST_LATENTS or not z.requires_grad:
            why = f"{numel} values" if z.requires_grad else "without a gradient"
            raise PvaeError(
                f"{what} ({why}): whether log_density of the Delta is -log |det| of its Jacobian "
                "cannot be checked. Write a TransformedDistribution in place of both."
            )
        slopes = [
            torch.autograd.grad(
                z[:, i].sum(), list(draws.values()), retain_graph=True, allow_unused=True
            )
            for i in range(numel)
        ]
    rows = [
        [
            torch.zeros(size, draw.numel() // size, dtype=z.dtype, device=z.device)
            if slope is None
            else single.rows(slope, events[name], 1, size).reshape(size, -1)
            for slope, (name, draw) in zip(each, draws.items(), strict=True)
        ]
        for each in slopes
    ]
    jacobian = torch.stack([torch.cat(row, -1) for row in rows], 1)
    due = -torch.linalg.slogdet(jacobian.double()).logabsdet
    terms = single.log_terms(trace, 1, size, observed=False)
    given = sum(terms[name] for name in deltas)[0].double()
    wrong = ~((given - due).abs() <= 1e-3 * (1 + due.abs()))
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise PvaeError(
            f"{what}, with a log_density of {float(given[at]):.4g} where -log |det| of its "
            f"Jacobian is {float(due[at]):.4g} (datum {at}): the weights are those of another "
            "density. Write Delta(z, log_density=-log |det dz/de|), or a TransformedDistribution "
            "in place of both."
        )
