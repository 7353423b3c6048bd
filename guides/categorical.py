"""The guide of categorical latents, with the gradients that the field trains it by."""

import math
from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import GumbelSoftmax
from pvae.errors import PvaeError
from pvae.nn import at_least_one, make_encoder, positive

__all__ = ["Categorical"]

_GRADIENTS = ("score", "gumbel_softmax", "straight_through")


class Categorical(PyroModule):
    r"""Independent categorical variables whose probabilities are the output of one encoder.

    .. math:: q_\phi(z \mid x) = \prod_{i=1}^N \prod_{c=1}^C \pi_{ic}(x)^{z_{ic}}, \qquad
        \pi_i(x) = \mathrm{softmax}(h_\phi(x)_i)

    z is in one-hot form. A sample of it has no derivative in φ; `gradient` says what training uses
    instead:

    - `"straight_through"`: z is drawn, and has the derivative of the relaxed
      :math:`y = \mathrm{softmax}((\log \pi + g) / \tau)`, where g is the Gumbel noise of
      :math:`z = \operatorname{onehot} \arg\max y`. Biased, with little noise;
    - `"gumbel_softmax"`: y takes the place of z. The training ELBO is then that of the relaxed
      values, and no bound on log p(x). Biased, with little noise;
    - `"score"`: the score function, as the objective has it. Unbiased, with much noise. Train
      with `IWAE_ELBO` (VIMCO), whose particles are each other's baseline.

    In eval mode the guide draws z whatever the gradient, so that validation, evaluation and report
    are those of the discrete pair.

    The temperature falls with the number t of calls in training mode, one for each step (Pyro's
    ELBOs of several particles call once for each): :math:`\tau = \max(\tau_{min}, \tau_0 e^{-rt})`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        num_latents: N.
        num_categories: C.
        gradient: `"straight_through"`, `"gumbel_softmax"` or `"score"`.
        temperature: τ_0, at the start. It has no effect on `"score"`.
        anneal_rate: r, for each step; 0 for a constant temperature.
        min_temperature: τ_min; a lower temperature at the start stays.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder, from the image to the code.
        activation: Nonlinearity of the dense encoder.
        encoder: A network [..., *event_shape] to [..., N, C], log π up to a constant, in place of
            the built-in one.

    Attributes:
        num_calls: t, a buffer.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, N, C].

    Raises:
        PvaeError: If a size, the gradient, a temperature or the rate is not valid.

    Source: Jang, Gu & Poole 2017, *Categorical Reparameterization with Gumbel-Softmax*
    (arXiv:1611.01144), also straight-through and the annealing; Mnih & Rezende 2016, *Variational
    Inference for Monte Carlo Objectives* (arXiv:1602.06725).

    Example:
        >>> guide = Categorical((1, 28, 28), num_latents=20, num_categories=2)
        >>> z = guide(torch.zeros(16, 1, 28, 28))
        >>> z.shape, z.unique()
        (torch.Size([16, 20, 2]), tensor([0., 1.], grad_fn=<Unique2Backward0>))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_latents: int = 30,
        num_categories: int = 10,
        gradient: Literal["straight_through", "gumbel_softmax", "score"] = "straight_through",
        temperature: float = 1.0,
        anneal_rate: float = 1e-4,
        min_temperature: float = 0.5,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        at_least_one(num_latents=num_latents, num_categories=num_categories)
        positive(temperature=temperature, min_temperature=min_temperature)
        if gradient not in _GRADIENTS:
            known = ", ".join(map(repr, _GRADIENTS))
            raise PvaeError(f"gradient={gradient!r} is not valid: give one of {known}.")
        if not 0 <= anneal_rate < math.inf:
            raise PvaeError(f"anneal_rate={anneal_rate} is not valid: give 0 or a positive number.")
        self.gradient, self.start = gradient, temperature
        self.anneal_rate, self.min_temperature = anneal_rate, min_temperature
        if encoder is None:
            sizes = network, hidden_dims, channels, activation
            encoder = make_encoder(event_shape, (num_latents, num_categories), *sizes)
        self.encoder = encoder
        self.register_buffer("num_calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q = self.posterior(x)
        if self.training:
            self.num_calls.add_(1)
        with pyro.plate("data", len(x)):
            relaxed = self.gradient == "gumbel_softmax"
            return pyro.sample("z", q, infer={"relaxed_in_training": relaxed})

    def posterior(self, x: Tensor) -> dist.Distribution:
        """Returns q(z|x), batch shape [...] and event shape [N, C], for x [..., *event_shape]."""
        logits = self.encoder(x)
        if self.gradient == "score":
            return dist.OneHotCategorical(logits=logits).to_event(1)
        hard = self.gradient == "straight_through" or not self.training
        return GumbelSoftmax(self.temperature, logits, hard).to_event(1)

    @property
    def temperature(self) -> Tensor:
        """τ, a tensor of one number."""
        cooled = self.start * torch.exp(-self.anneal_rate * self.num_calls)
        return cooled.clamp(min=min(self.start, self.min_temperature))
