"""Semi-amortised inference: gradient steps for each datum refine an encoder's output."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pvae.errors import PvaeError
from pvae.guides.mean_field import MeanField
from pvae.nn import at_least_one

__all__ = ["SemiAmortised"]


class SemiAmortised(MeanField):
    r"""The mean field, refined by a few steps of gradient ascent on each datum's own ELBO.

    .. math::
        \mu_0, \sigma_0 &= \mathrm{encoder}_\phi(x), \qquad
            q_\lambda = \mathcal N(\mu_0 + \sigma_0 a, \; \operatorname{diag} \sigma_0^2 e^{2 b}),
            \qquad \lambda = (a, b) \\
        \lambda_0 &= 0, \qquad
            \lambda_{t+1} = \lambda_t + \tanh \left( \eta \, \nabla_\lambda
            E_{q_\lambda}[\log p_\theta(x, z) - \log q_\lambda(z)] \big|_{\lambda_t} \right) \\
        q(z \mid x) &= q_{\lambda_T}(z)

    The steps are in units of the encoder's scale, so that one step size fits wide and narrow
    posteriors. The tanh limits each step to one unit, because an untrained model can be steep. The
    expectation is approximated at two points, :math:`\mu \pm \sigma \odot \varepsilon`. The signs
    :math:`\varepsilon` are drawn once for each step, when the guide is made, so that q(z|x) is the
    same at every call. A rough refinement does not make the bound wrong, because the ELBO of the
    final q uses new samples. Each datum's steps depend only on that datum.

    In training, the gradient flows through the steps into encoder and model, which needs second
    derivatives, as in the paper. Evaluation needs only first derivatives. The refinement ascends
    the plain ELBO, whatever objective trains the pair.

    Args:
        model: The model of the pair, whose latent site is z.
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_steps: T. Each runs the model forward and backward on two points for each datum.
        step_size: η.
        **options: `network`, `hidden_dims`, `encoder` and the other options of `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size, the step size or the network is not valid; when called, if the
            model has latent sites other than z.

    Source: Kim, Wiseman, Miller, Sontag & Rush 2018, *Semi-Amortized Variational Autoencoders*
    (arXiv:1802.02550).

    Example:
        >>> import torch
        >>> from pvae.models import VAE
        >>> guide = SemiAmortised(VAE((1, 8, 8), latent_dim=4), (1, 8, 8), latent_dim=4)
        >>> guide(torch.zeros(16, 1, 8, 8)).shape
        torch.Size([16, 4])
    """

    def __init__(
        self,
        model: PyroModule,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_steps: int = 5,
        step_size: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(event_shape, latent_dim, **options)
        at_least_one(num_steps=num_steps)
        if not step_size > 0:
            raise PvaeError(f"step_size={step_size} is not valid: give a positive number.")
        # Not as a submodule: its parameters would be saved twice.
        self.__dict__["model"] = model
        self.step_size = step_size
        # Signs, because their squares are 1, the mean square of a standard normal.
        signs = 2.0 * torch.randint(2, (num_steps, 1, 1, latent_dim)) - 1
        self.register_buffer("signs", torch.cat([signs, -signs], 1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale of the refined q(z|x), each [B, Z], for x."""
        return self.refine(x, *self.start(x))

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the encoder's own location and scale, each [B, Z], for x [B, *event_shape]."""
        return super().encode(x)

    def refine(self, x: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale after the steps, each [B, Z]."""
        through = torch.is_grad_enabled()
        with torch.enable_grad():
            a, b = (torch.zeros_like(loc).requires_grad_() for _ in range(2))
            for signs in self.signs:
                z = loc + scale * (a + b.exp() * signs)  # [2, B, Z]
                elbo = self._log_joint(x, z).mean(0).sum() + b.sum()  # up to a constant
                slopes = torch.autograd.grad(elbo, (a, b), create_graph=through)
                a, b = (
                    u + (self.step_size * g).tanh() for u, g in zip((a, b), slopes, strict=True)
                )
        if not through:
            a, b = a.detach(), b.detach()
        return loc + scale * a, scale * b.exp()

    def _log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Returns log p(x, z), [2, B]; other handlers see its parameters, not its sites."""
        given = poutine.condition(self.model, {"z": z})
        with poutine.block(hide_fn=lambda site: site["type"] != "param"):
            trace = poutine.trace(given).get_trace(x)
        trace = prune_subsample_sites(trace)
        sites = {n: site for n, site in trace.nodes.items() if site["type"] == "sample"}
        latent = [n for n, site in sites.items() if n == "z" or not site["is_observed"]]
        if latent != ["z"]:
            raise PvaeError(
                "SemiAmortised refines one latent site, 'z', but the latent sites of "
                f"{type(self.model).__name__} are {', '.join(map(repr, latent))}. Use another "
                "guide, or give the model one latent site, 'z'."
            )
        trace.compute_log_prob()
        return sum(site["log_prob"] for site in sites.values())
