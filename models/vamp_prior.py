"""The VAE with a VampPrior, a mixture of its own posteriors."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import SoftplusTransform

from pvae.errors import PvaeError
from pvae.models.vae import VAE
from pvae.nn import at_least_one, make_encoder

__all__ = ["VampPriorVAE"]


class VampPriorVAE(VAE):
    r"""A VAE whose prior is a mixture of the posteriors of K learned pseudo-inputs.

    .. math::
        z &\sim \frac1K \sum_{k=1}^K q_\phi(z \mid u_k), \qquad
            q_\phi(z \mid x) = \mathcal N(\mu_\phi(x), \operatorname{diag} \sigma_\phi^2(x)) \\
        x \mid z &\sim p(x \mid f_\theta(z))

    The best prior is the average posterior, with all data as pseudo-inputs u_k. A few hundred
    learned pseudo-inputs are cheaper and overfit less. The encoder belongs to the model; its guide
    is `pvae.guides.SharedEncoder`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_pseudo_inputs: K. They start as noise, or as data after `start_from`. Their range is
            that of the likelihood's values: real (Gaussian), positive (counts), or [0, 1].
        network: `"dense"` or `"conv"`, for the decoder; the encoder mirrors it.
        hidden_dims: Widths of the dense decoder's hidden layers, from the code to the image.
        channels: Channels of the convolutional decoder, from the code to the image.
        activation: Nonlinearity of the dense networks.
        encoder: A network [..., *event_shape] to [..., 2, Z] in place of the built-in one
            (location, then scale before softplus).
        **options: `likelihood`, its options and `decoder`, as in `VAE`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If there is no pseudo-input; see also `VAE`.

    Source: Tomczak & Welling 2018, *VAE with a VampPrior* (arXiv:1705.07120).

    Example:
        >>> from pvae import data, fit, guides
        >>> digits = data.load("digits")
        >>> model = VampPriorVAE((1, 8, 8), latent_dim=8, num_pseudo_inputs=50)
        >>> model.start_from(*digits.train.tensors())
        >>> history = fit(model, guides.SharedEncoder(model), digits, epochs=1, progress=False)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_pseudo_inputs: int = 500,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            event_shape, latent_dim, network, hidden_dims, channels, activation, **options
        )
        at_least_one(num_pseudo_inputs=num_pseudo_inputs)
        if encoder is None:
            sizes = network, hidden_dims[::-1], channels[::-1], activation
            encoder = make_encoder(event_shape, (2, latent_dim), *sizes)
        self.encoder = encoder
        support = self.head.support
        below, above = (support.check(torch.full(self.event_shape, x)).all() for x in (-1.0, 2.0))
        self._range = "real" if below else "positive" if above else "unit"
        name = "before_softplus" if self._range == "positive" else "logits"
        self.pseudo = nn.ParameterDict({name: torch.randn(num_pseudo_inputs, *event_shape)})
        self.register_buffer("equal", torch.zeros(num_pseudo_inputs), persistent=False)

    def start_from(self, x: Tensor) -> None:
        """Sets the pseudo-inputs to K data drawn at random from x [N, *event_shape].

        Raises:
            PvaeError: If there are fewer data than pseudo-inputs.
        """
        num = len(self.equal)
        if num > len(x):
            raise PvaeError(
                f"num_pseudo_inputs={num} is larger than the data ({len(x)}): the prior could "
                "memorise them. Choose fewer pseudo-inputs."
            )
        some = x[torch.randperm(len(x), device=x.device)[:num]]
        # Clamped, because training hardly moves them where sigmoid or softplus is flat.
        if self._range == "unit":
            some = some.clamp(0.05, 0.95).logit()
        elif self._range == "positive":
            some = SoftplusTransform().inv(some.clamp(min=0.05))
        (raw,) = self.pseudo.values()
        raw.data.copy_(some)

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, [K, *event_shape]."""
        (raw,) = self.pseudo.values()
        if self._range == "real":
            return raw
        return F.softplus(raw) if self._range == "positive" else raw.sigmoid()

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        loc, scale = self.encode(self.pseudo_inputs)
        components = dist.Normal(loc, scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.equal), components)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x), each [..., Z], for x [..., *event_shape]."""
        loc, raw = self.encoder(x).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
