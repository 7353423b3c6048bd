"""Autoencoders as the models of MAP pairs: the code is a point, its penalty a prior."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from pvae.models.vae import VAE

from pvae.errors import PvaeError

__all__ = ["Autoencoder", "SparseAutoencoder"]


class Autoencoder(VAE):
    r"""The autoencoder: with a guide that gives a point, the VAE's model is the classic one.

    .. math::
        z &\sim \mathcal N(0, I), \qquad x \mid z \sim p(x \mid g_\theta(z)) \\
        \log p(x, f(x)) &= - \frac{\| x - g_\theta(f(x)) \|^2}{2 \sigma^2}
            - \frac12 \| f(x) \|^2 + \mathrm{const}

    The second line is what training maximises with the guide z = f(x) of `pvae.guides.Code`: a
    Gaussian likelihood is the squared error, a Bernoulli one the cross entropy, and the prior
    a penalty on the code. A decoder that is free to grow can make that penalty as small as it
    likes; σ only weighs the two terms. Several `hidden_dims` make it deep.

    Such a pair has no bound on log p(x), and `pvae.evaluate` reports none: a point has no
    density. The likelihood of the model, which is a model like any other, is what annealed
    importance sampling says (`ais=100`).

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        likelihood: As in `VAE`: `"gaussian"` for real values, `"bernoulli"` for binary ones.
        scale: σ of the Gaussian, as in `VAE`.
        decoder: A network [..., Z] to [..., *event_shape] in place of the built-in one.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: As `VAE`.

    Source: Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data with Neural
    Networks*.

    Example:
        >>> from pvae import data, fit, guides
        >>> digits = data.load("digits", observation="grey")
        >>> model = Autoencoder((1, 8, 8), latent_dim=8, likelihood="gaussian", scale=0.1)
        >>> history = fit(model, guides.Code((1, 8, 8), 8), digits, epochs=1, progress=False)
    """


class SparseAutoencoder(VAE):
    r"""The sparse autoencoder: a Laplace prior on the code is the L1 penalty.

    .. math::
        z_j &\sim \mathrm{Laplace}(0, 1 / \lambda), \qquad x \mid z \sim p(x \mid g_\theta(z)) \\
        \log p(x, f(x)) &= \log p(x \mid f(x)) - \lambda \| f(x) \|_1 + Z \log (\lambda / 2)

    As in `Autoencoder`, the second line is what training with `pvae.guides.Code` maximises, and
    what keeps the penalty from vanishing is that the decoder does not grow without limit (few
    epochs, or `--optim AdamW --optim.weight_decay 0.01`).

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code; more than D is allowed (an overcomplete code).
        penalty: λ, nats for each unit of \|z\|₁.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        likelihood: As in `VAE`.
        scale: σ of the Gaussian, as in `VAE`.
        decoder: A network [..., Z] to [..., *event_shape] in place of the built-in one.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: As `VAE`; if the penalty is not positive.

    Source: Olshausen & Field 1996, *Emergence of simple-cell receptive field properties by
    learning a sparse code for natural images*; Ng 2011, *Sparse autoencoder*.

    Example:
        >>> model = SparseAutoencoder((1, 28, 28), latent_dim=100, penalty=2.0)
        >>> model.prior().mean.shape
        torch.Size([100])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        penalty: float = 1.0,
        **options: Any,
    ) -> None:
        if not penalty > 0:
            raise PvaeError(
                f"penalty={penalty}: the weight of the L1 norm is positive (it is one over the "
                "scale of the Laplace prior)."
            )
        super().__init__(event_shape, latent_dim, **options)
        self.penalty = penalty

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        return dist.Laplace(self.zeros, 1 / self.penalty).to_event(1)
