"""The guides of autoencoders: a deterministic code, plain, denoising or contractive."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import MLP, at_least_one, make_encoder

__all__ = ["Code", "ContractiveCode", "DenoisingCode"]

Activation = Literal["linear", "sigmoid", "tanh"]

_ACTIVATIONS = {"linear": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class Code(PyroModule):
    r"""A deterministic code: q(z|x) is a point mass.

    .. math:: q_\phi(z \mid x) = \delta(z - f_\phi(x))

    The pair's objective is log p(x, f(x)): an amortised MAP estimate of each datum's code. It is
    not a bound on log p(x), and `pvae.evaluate` says so.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers; none for a linear one.
        channels: Channels of the convolutional encoder, from the image to the code.
        activation: Of the code itself: `"linear"`, `"sigmoid"` or `"tanh"`.
        encoder: A network [..., *event_shape] to [..., Z] in place of the built-in one. The
            activation is applied to its output.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size, the network or the activation is not valid, or the encoder's codes
            do not have latent_dim values.

    Source: Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data with Neural
    Networks* (doi:10.1126/science.1127647).

    Example:
        >>> guide = Code((1, 28, 28), latent_dim=20)
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Activation = "linear",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        if activation not in _ACTIVATIONS:
            raise PvaeError(
                f"activation={activation!r} is not valid: give one of {', '.join(_ACTIVATIONS)}."
            )
        if encoder is None:
            encoder = make_encoder(event_shape, (latent_dim,), network, hidden_dims, channels)
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.encoder, self.activation = encoder, _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Delta(self.encode(x), event_dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """Returns the code f(x), [..., Z], for x [..., *event_shape]."""
        z = self.activation(self.encoder(x))
        if z.shape[-1:] != (self.latent_dim,):
            raise PvaeError(
                f"The encoder gives codes of shape {tuple(z.shape)}, whose last dimension is not "
                f"latent_dim={self.latent_dim}. Change the encoder's last layer or latent_dim."
            )
        return z


class DenoisingCode(Code):
    r"""The denoising autoencoder's guide: in training it encodes a corrupted x.

    .. math::
        \tilde x &= m \odot x + \sigma \epsilon, \qquad
            m_d \sim \mathrm{Bernoulli}(1 - \nu), \quad \epsilon \sim \mathcal N(0, I) \\
        z &= f_\phi(\tilde x)

    The model's likelihood is that of the clean x. Each call draws a new corruption. In eval mode,
    which `pvae.evaluate`, `pvae.encode` and validation use, x is not corrupted.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        masking: ν, the probability that a value of x is set to zero.
        noise: σ, the scale of the Gaussian noise that is added.
        **options: `network`, `hidden_dims` and the other options of `Code`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If masking is not a probability, noise is negative, or both are zero; see also
            `Code`.

    Source: Vincent et al. 2010, *Stacked Denoising Autoencoders*, JMLR 11.

    Example:
        >>> guide = DenoisingCode((1, 28, 28), latent_dim=20, masking=0.5)
        >>> x = torch.ones(16, 1, 28, 28)
        >>> bool((guide.corrupt(x) == 0).any()), bool((guide.eval().corrupt(x) == 0).any())
        (True, False)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        masking: float = 0.3,
        noise: float = 0.0,
        **options: Any,
    ) -> None:
        if not 0 <= masking <= 1:
            raise PvaeError(f"masking={masking} is not valid: give a probability between 0 and 1.")
        if not noise >= 0:
            raise PvaeError(f"noise={noise} is not valid: give the scale of the noise, at least 0.")
        if not masking and not noise:
            raise PvaeError("masking=0 and noise=0: nothing is corrupted. Use guides.Code instead.")
        super().__init__(event_shape, latent_dim, **options)
        self.masking, self.noise = masking, noise

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.corrupt(x))

    def corrupt(self, x: Tensor) -> Tensor:
        """Returns a new corruption of x; in eval mode x itself."""
        if not self.training:
            return x
        kept = torch.rand_like(x) >= self.masking
        return torch.where(kept, x, 0.0) + self.noise * torch.randn_like(x)


class ContractiveCode(Code):
    r"""The contractive autoencoder's guide: a code that changes little when x does.

    .. math:: z = f_\phi(x), \qquad
        \text{penalty } \lambda \left\| \frac{\partial f_\phi}{\partial x} \right\|_F^2
        = \lambda \sum_{jd} \left( \frac{\partial f_j}{\partial x_d} \right)^2

    in nats for each datum. Training subtracts the penalty from log p(x, z); evaluation does not
    count it. For one layer, :math:`f = s(Wx + b)` as in the paper, it is computed exactly:

    .. math:: \| J \|_F^2 = \sum_j s'(a_j)^2 \sum_d W_{jd}^2

    For other encoders it is Hutchinson's unbiased estimate, :math:`\| v^\top J \|^2` with one
    :math:`v \sim \mathcal N(0, I)` for each datum and call.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        penalty: λ, nats.
        hidden_dims: Widths of the dense encoder's hidden layers; none by default.
        activation: s, of the code: `"linear"`, `"sigmoid"` or `"tanh"`.
        **options: `network`, `channels` and `encoder` of `Code`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If the penalty is negative; see also `Code`.

    Source: Rifai et al. 2011, *Contractive Auto-Encoders*; Hutchinson 1989, *A stochastic
    estimator of the trace of the influence matrix*.

    Example:
        >>> guide = ContractiveCode((1, 28, 28), latent_dim=20)
        >>> guide.contraction(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        penalty: float = 0.1,
        hidden_dims: Sequence[int] = (),
        activation: Activation = "sigmoid",
        **options: Any,
    ) -> None:
        if not penalty >= 0:
            raise PvaeError(
                f"penalty={penalty} is not valid: give the weight of the Jacobian's norm, which is "
                "at least 0."
            )
        super().__init__(
            event_shape, latent_dim, hidden_dims=hidden_dims, activation=activation, **options
        )
        self.penalty = penalty

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            if self.training:
                # A guide's factor is subtracted from the bound.
                pyro.factor("contraction", self.penalty * self.contraction(x), has_rsample=True)
            return pyro.sample("z", dist.Delta(self.encode(x), event_dim=1))

    def contraction(self, x: Tensor) -> Tensor:
        r"""Returns ‖∂f/∂x‖² of each datum, [B], for x [B, *event_shape]: exact, or an estimate."""
        if isinstance(self.encoder, MLP) and len(self.encoder.layers) == 1:
            (layer,) = self.encoder.layers
            return self._slope(self.encode(x)).square() @ layer.weight.square().sum(1)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z = self.encode(x)
            (product,) = torch.autograd.grad(z, x, torch.randn_like(z), create_graph=True)
        return product.square().flatten(1).sum(1)

    def _slope(self, z: Tensor) -> Tensor:
        """Returns the slope s' at which s has the value z."""
        if isinstance(self.activation, nn.Sigmoid):
            return z * (1 - z)
        return 1 - z.square() if isinstance(self.activation, nn.Tanh) else torch.ones_like(z)
