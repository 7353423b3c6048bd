"""The VAE with arbitrary conditioning: any part of x given any other part."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from pvae.distributions import Completed, Head, Likelihood, make_head
from pvae.errors import PvaeError
from pvae.nn import SkipNetwork, at_least_one

__all__ = ["VAEAC"]


class VAEAC(PyroModule):
    r"""A VAE of the missing values of x given the known ones, for any mask.

    .. math::
        z \mid x_{\text{known}}, m &\sim
            \mathcal N(\mu_\psi(x_{\text{known}}, m),
            \operatorname{diag} \sigma_\psi^2(x_{\text{known}}, m)) \\
        x_{\text{missing}} \mid z, x_{\text{known}}, m &\sim
            p(x_{\text{missing}} \mid f_\theta(z, x_{\text{known}}, m))

    The mask m is 1 where a value is known. One network gives the prior and, through skip
    connections, f. The observed site x has the density of the missing values only, so the pair's
    bound is one on log p(x_missing | x_known, m). The guide is `pvae.guides.MaskedMeanField`. The
    paper also has a weak prior on μ and σ of the prior network, which is left out.

    Masks come with the data: `pvae.data.load("mnist", mask="any")` draws them for each minibatch,
    and a field `mask` gives your own.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense network's hidden layers.
        channels: Channels of the convolutions, from the image to the code.
        likelihood: The name of a head, or a head, as in `VAE`; its values must be independent.
        **options: Of a head that is given by name.

    Shape:
        `model(x, mask)` takes x [B, *event_shape], whose missing values are only observed, and
        booleans [B, *event_shape], and returns x. `pvae.generate(model, n, x, mask)` completes n
        rows, those of x repeated to n; the known values stay.

    Raises:
        PvaeError: If a name, a size, an option or the mask is not valid, or the mask is missing.

    Source: Ivanov, Figurnov & Vetrov 2019, *Variational Autoencoder with Arbitrary Conditioning*
    (arXiv:1806.02382).

    Example:
        >>> model = VAEAC((1, 28, 28))
        >>> x, mask = torch.ones(5, 1, 28, 28), torch.rand(5, 1, 28, 28) < 0.5
        >>> model(x, mask).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        likelihood: Likelihood | Head = "bernoulli",
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.head = make_head(likelihood, self.event_shape, **options)
        channel, *rest = self.event_shape
        self.net = SkipNetwork(
            (2 * channel, *rest), (2, latent_dim), latent_dim, self.head.out_shape, network,
            hidden_dims, channels,
        )  # fmt: skip
        self.register_buffer("zeros", torch.zeros(self.event_shape), persistent=False)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        self.check(x, mask)
        with pyro.plate("data", len(x)):
            features = self.features(x, mask)
            z = pyro.sample("z", self.prior(features))
            return pyro.sample("x", Completed(self.likelihood(z, features), x, mask), obs=x)

    @staticmethod
    def check(x: Tensor | None, mask: Tensor | None) -> None:
        """Raises a PvaeError unless there is a boolean for each value of x."""
        if x is None or mask is None:
            raise PvaeError(
                "This is a model of the missing values of x given the known ones, and "
                f"{'x' if x is None else 'the mask'} was not given: call model(x, mask), or "
                "pvae.generate(model, n, x, mask), with a mask that is True where x is known. "
                "Data by name have masks with mask='any'."
            )
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise PvaeError(
                f"mask={mask.dtype} of shape {tuple(mask.shape)} is not valid for x of shape "
                f"{tuple(x.shape)}: give a boolean for each value, True where it is known."
            )

    def features(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """Returns what the network finds in the known values and the mask; see `SkipNetwork`."""
        known = torch.where(mask, x, 0).to(self.zeros)
        return self.net.down(torch.cat([known, mask.to(known)], -len(self.event_shape)))

    def prior(self, features: list[Tensor]) -> dist.Distribution:
        """Returns p(z|x_known, m), batch shape [...] and event shape [Z]."""
        loc, raw = self.net.code(features).unbind(-2)
        return dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1)

    def likelihood(self, z: Tensor, features: list[Tensor]) -> dist.Distribution:
        """Returns p(x|z, x_known, m) of all values, batch shape [...], for z [..., Z]."""
        f = self.net.up(z, features)
        return self.head(self.head.shaped(f, z.shape[:-1]))
