"""Autoencoders as models: the penalty on the code is a prior."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist

from pvae.errors import PvaeError
from pvae.models.vae import VAE

__all__ = ["Autoencoder", "SparseAutoencoder"]


class Autoencoder(VAE):
    r"""The autoencoder: the VAE's model, for a guide that gives a single code.

    .. math::
        z &\sim \mathcal N(0, I), \qquad x \mid z \sim p(x \mid g_\theta(z)) \\
        \log p(x, f(x)) &= - \frac{\| x - g_\theta(f(x)) \|^2}{2 \sigma^2}
            - \frac12 \| f(x) \|^2 + \mathrm{const}

    With the guide z = f(x) of `pvae.guides.Code`, training maximises the second line: a Gaussian
    likelihood is the squared error, a Bernoulli one the cross entropy, and the prior penalises
    the code. A decoder with large weights can make that penalty arbitrarily small; σ only weighs
    the two terms. Several `hidden_dims` make the autoencoder deep. The arguments are those of
    `VAE`.

    A point mass has no density, so `pvae.evaluate` reports no bound on log p(x) for such a pair.
    Annealed importance sampling (`AIS(100)`) estimates the likelihood of the model.

    Source: Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data with Neural
    Networks* (doi:10.1126/science.1127647).

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

    As with `Autoencoder`, training with `pvae.guides.Code` maximises the second line. The penalty
    works only while the decoder's weights stay small: train for few epochs, or with
    `--optim AdamW --optim.weight_decay 0.01`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code; more than D is allowed (an overcomplete code).
        penalty: λ, nats for each unit of \|z\|₁.
        **options: `network`, `hidden_dims`, `likelihood` and the other options of `VAE`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If the penalty is not positive; see also `VAE`.

    Source: Olshausen & Field 1996, *Emergence of simple-cell receptive field properties by
    learning a sparse code for natural images* (doi:10.1038/381607a0); Ng 2011, *Sparse
    autoencoder*, CS294A lecture notes.

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
                f"penalty={penalty} is not valid: give a positive number, the weight of the L1 "
                "norm (one over the scale of the Laplace prior)."
            )
        super().__init__(event_shape, latent_dim, **options)
        self.penalty = penalty

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        return dist.Laplace(self.zeros, 1 / self.penalty).to_event(1)
