"""M2: a variational autoencoder of data of which some have a label."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood
from pvae.errors import PvaeError
from pvae.models.conditional_vae import ConditionalVAE

__all__ = ["M2"]


class M2(ConditionalVAE):
    r"""A VAE with a label y beside the code z, observed where it is known and latent elsewhere.

    .. math::
        y &\sim \mathrm{Categorical}(1/C, \dots, 1/C) \\
        z &\sim \mathcal N(0, I) \\
        x \mid z, y &\sim p(x \mid f_\theta(z, c(y)))

    c(y) is the one-hot form of y. A negative y, or NaN, is an unknown label; without y, all are
    unknown. Its guide is `pvae.guides.LabelThenCode`. The bound is on log p(x, y) of a datum with a
    label, and on log p(x) = log Σ_y p(x, y) of one without.

    M1+M2 is an M2 of codes: x are the means of a trained VAE's q(z|x) (M1), with
    `likelihood="gaussian"`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        num_classes: C, the number of labels.
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        activation: Nonlinearity of the dense decoder.
        likelihood: The name of a head, or a head, as in `VAE`.
        decoder: A network [..., Z + C] to [..., *out_shape] in place of the built-in one.
        **options: Of a head that is given by name.

    Shape:
        `model(x, y)` takes x [B, *event_shape] and y [B] and returns x. `model(size=n)` draws n
        samples of p(x), and `model(y=y, size=n)` of p(x|y), for n labels y [n] or one label y [].

    Raises:
        PvaeError: If a name, a size or an option is not valid, or y holds C or more.

    Source: Kingma, Rezende, Mohamed & Welling 2014, *Semi-Supervised Learning with Deep Generative
    Models* (arXiv:1406.5298).

    Example:
        >>> model = M2((1, 28, 28), num_classes=10)
        >>> model(y=torch.arange(10), size=10).shape, model(size=3).shape
        (torch.Size([10, 1, 28, 28]), torch.Size([3, 1, 28, 28]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 50,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (500,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        likelihood: Likelihood | Head = "bernoulli",
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        sizes = event_shape, num_classes, latent_dim, network, hidden_dims, channels, activation
        super().__init__(*sizes, likelihood, decoder=decoder, **options)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        size = size if x is None else len(x)
        y, known = self.labels(y, size)
        with pyro.plate("data", size):
            fn = dist.Categorical(logits=self.zeros.new_zeros(self.num_classes))
            y = pyro.sample("y", fn, obs=y, obs_mask=known)
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z, self.condition(y)), obs=x)

    def labels(self, y: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
        """Returns labels, 0 where they are unknown, and whether they are known, each [size]."""
        if y is None:
            y = torch.full((size,), -1, device=self.zeros.device)
        if y.ndim > 1:
            raise PvaeError(
                f"y of shape {tuple(y.shape)} is not valid: give the number of a class for each "
                "datum, -1 where it is unknown. One-hot labels are y.argmax(-1)."
            )
        known = y >= 0  # not NaN
        return torch.where(known, y, 0).long().expand(size), known.expand(size)
