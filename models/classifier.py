"""A classifier: the label y given x, by a network."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.nn import at_least_one, make_encoder

__all__ = ["Classifier"]


class Classifier(PyroModule):
    r"""A softmax on the features of an encoder: the label y given x, without latent variables.

    .. math:: y \mid x \sim \operatorname{Categorical}(\operatorname{softmax}(W f(x) + b))

    log p(y|x) is exact; its guide is `pvae.guides.NoLatents`, and its data are (x, y), with
    `labels=True`. The encoder of a guide that was trained without labels makes a self-taught
    classifier: freeze it (`encoder.requires_grad_(False)`), or train it on.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        num_classes: C, the number of labels 0 … C − 1.
        num_features: F, the size of f(x).
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder.
        activation: Nonlinearity of the dense encoder.
        encoder: f, a network [..., *event_shape] to features of any shape, in place of the built-in
            one.

    Shape:
        `model(x, y)` takes x [B, *event_shape] and labels y [B] and returns y; `model(x)` draws y.

    Raises:
        PvaeError: If a size or the network is not valid.

    Source: Raina et al. 2007, *Self-taught Learning: Transfer Learning from Unlabeled Data* (ICML).

    Example:
        >>> classifier = Classifier((1, 28, 28))
        >>> classifier(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int = 10,
        num_features: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        at_least_one(num_classes=num_classes, num_features=num_features)
        self.event_shape = tuple(event_shape)
        sizes = network, hidden_dims, channels, activation
        self.encoder = encoder or make_encoder(event_shape, (num_features,), *sizes)
        with torch.no_grad():
            size = self.features(torch.zeros(1, *self.event_shape)).numel()
        self.out = nn.Linear(size, num_classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("y", self.distribution(x), obs=y)

    def distribution(self, x: Tensor) -> dist.Categorical:
        """Returns p(y|x), batch shape [...], for x [..., *event_shape]."""
        return dist.Categorical(logits=self.out(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        """Returns f(x), [..., F]."""
        return self.encoder(x).flatten(x.ndim - len(self.event_shape))
