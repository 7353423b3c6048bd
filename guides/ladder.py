"""The guide of the ladder VAE: top-down inference that shares the model's networks."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import MLP, make_encoder

__all__ = ["Ladder"]


class Ladder(PyroModule):
    r"""The ladder VAE's posterior: a deterministic pass up, then down the model's own layers.

    .. math::
        d_l &= g_l(d_{l-1}), \quad d_0 = x, \qquad
        (\hat\mu_l, \hat\sigma_l) = \text{linear}(d_l) \\
        q(z_L \mid x) &= \mathcal N(\hat\mu_L, \operatorname{diag} \hat\sigma_L^2) \\
        q(z_l \mid z_{l+1}, x) &= \mathcal N(\mu_{q,l}, \operatorname{diag} \sigma_{q,l}^2), \qquad
        \sigma_{q,l}^{-2} = \hat\sigma_l^{-2} + \sigma_{p,l}^{-2}, \qquad
        \mu_{q,l} = \sigma_{q,l}^2 \left( \hat\mu_l \hat\sigma_l^{-2}
            + \mu_{p,l} \sigma_{p,l}^{-2} \right)

    with :math:`\mu_{p,l}, \sigma_{p,l}` of the model's :math:`p(z_l \mid z_{l+1})`. Each layer is
    the normalised product of the evidence from the data and the prediction from the layer above.
    The model's networks get gradients through the prior and through this guide.

    Unlike the paper's, this guide has no batch normalisation, which would make one datum's bound
    depend on the rest of the minibatch. Two things keep upper layers active: ReLU instead of tanh,
    in the model too; and a warm-up of the KL (`pvae.fit(…, kl_warmup=…)`) or
    `pvae.objectives.FreeBits_ELBO`, which does not count some nats of each layer's KL.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        model: The pair's model, a `HierarchicalVAE`, or any with `latent_dims`, `hidden_dims`
            and `conditional(layer, above)`.
        hidden_dims: For each layer, widths of :math:`g_l`; the last is the size of :math:`d_l`.
            None takes the model's.
        network: `"dense"`, or `"conv"` for strided convolutions from an image to :math:`d_1`.
        channels: Channels of the convolutions, from the image upwards. With them only the last
            width of :math:`g_1` is used.
        activation: Nonlinearity of the dense networks.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z_1 [B, Z_1].

    Raises:
        PvaeError: If the model has no layers, or the layers and hidden_dims differ in number.

    Source: Sønderby et al. 2016, *Ladder Variational Autoencoders* (arXiv:1602.02282).

    Example:
        >>> import torch
        >>> from pvae.models import HierarchicalVAE
        >>> model = HierarchicalVAE((1, 28, 28), latent_dims=(64, 32), activation="relu")
        >>> guide = Ladder((1, 28, 28), model)
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 64])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        model: nn.Module,
        hidden_dims: Sequence[Sequence[int]] | None = None,
        network: Literal["dense", "conv"] = "dense",
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        if not hasattr(model, "latent_dims") or not hasattr(model, "conditional"):
            raise PvaeError(
                f"Ladder needs a model with layers, and {type(model).__name__} has none: "
                "use HierarchicalVAE, or a model with latent_dims and conditional(layer, above)."
            )
        # Not as a submodule: its parameters would be saved twice.
        self.__dict__["model"] = model
        latent_dims = tuple(model.latent_dims)
        hidden_dims = tuple(map(tuple, model.hidden_dims if hidden_dims is None else hidden_dims))
        if len(hidden_dims) != len(latent_dims) or not all(hidden_dims):
            raise PvaeError(
                f"hidden_dims={hidden_dims} is not valid: give one width or more for each of the "
                f"model's {len(latent_dims)} layers."
            )
        self.activation = activation
        self.up, self.heads = nn.ModuleList(), nn.ModuleList()
        below = tuple(event_shape)
        for latent_dim, (*widths, width) in zip(latent_dims, hidden_dims, strict=True):
            self.up.append(make_encoder(below, (width,), network, widths, channels, activation))
            self.heads.append(MLP((width,), (2, latent_dim), (), activation))
            below, network = (width,), "dense"

    def forward(self, x: Tensor) -> Tensor:
        *lower, (loc, scale) = self.encode(x)
        top = len(self.heads)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{top}", dist.Normal(loc, scale).to_event(1))
            for layer in range(top - 1, 0, -1):
                q = _product(*lower[layer - 1], self.model.conditional(layer, z))
                z = pyro.sample(f"z_{layer}", q)
        return z

    def encode(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        r"""Returns :math:`(\hat\mu_l, \hat\sigma_l)` for l = 1 … L, each [..., Z_l]."""
        found, d = [], x
        for up, head in zip(self.up, self.heads, strict=True):
            d = getattr(torch, self.activation)(up(d))
            loc, raw = head(d).unbind(-2)
            found.append((loc, F.softplus(raw) + 1e-4))
        return found


def _product(loc: Tensor, scale: Tensor, prior: dist.Distribution) -> dist.Distribution:
    """The normalised product of two diagonal Gaussians: precisions add."""
    here, above = scale**-2, prior.variance**-1
    variance = 1 / (here + above)
    return dist.Normal(variance * (loc * here + prior.mean * above), variance.sqrt()).to_event(1)
