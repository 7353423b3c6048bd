"""The guide of M2: a classifier, and a Gaussian of the code given the label."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import MLP, make_encoder

__all__ = ["LabelThenCode"]


class LabelThenCode(PyroModule):
    r"""A label and a code: q(y|x) classifies, and q(z|x, y) encodes.

    .. math::
        q_\phi(y \mid x) &= \mathrm{Categorical}(\pi_\phi(x)) \\
        q_\phi(z \mid x, y) &= \mathcal N(\mu_\phi(h), \operatorname{diag} \sigma_\phi^2(h)),
            \qquad h = \sigma(f_\phi(x) + W c(y))

    A known label takes the place of q(y|x), which `pvae.objectives.SemiSupervised_ELBO` trains
    with it (α log q(y|x)). f(x) is computed once for all labels.

    Args:
        model: `pvae.models.M2`, which says how many labels there are and what c is.
        event_shape: Shape of one datum, (C, H, W) or (D,).
        label: `"enumerated"` sums unknown labels out, exactly and at the cost of C decoders;
            `"sampled"` draws one for each sample of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions; of the
            classifier and of f.
        hidden_dims: Widths of the dense networks' hidden layers; the last is the size of h.
        channels: Channels of the convolutions, from the image to the code.
        activation: Nonlinearity of the dense networks.
        classifier: A network [..., *event_shape] to [..., C] in place of the built-in one.

    Shape:
        `guide(x, y)` takes x [B, *event_shape] and y [B], negative or NaN where it is unknown, and
        returns z [B, Z].

    Raises:
        PvaeError: If the model has no labels, or `label`, a size or the network is not valid.

    Source: Kingma, Rezende, Mohamed & Welling 2014, *Semi-Supervised Learning with Deep Generative
    Models* (arXiv:1406.5298).

    Example:
        >>> from pvae.models import M2
        >>> guide = LabelThenCode(M2((1, 28, 28)), (1, 28, 28))
        >>> guide.classify(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 10])
    """

    def __init__(
        self,
        model: PyroModule,
        event_shape: Sequence[int],
        label: Literal["enumerated", "sampled"] = "enumerated",
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (500,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "labels"):
            raise PvaeError(
                f"{type(model).__name__} has no labels: LabelThenCode is for M2. Choose MeanField."
            )
        if label not in ("enumerated", "sampled"):
            raise PvaeError(f"label={label!r} is not valid: give 'enumerated' or 'sampled'.")
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        self.infer = {"enumerate": "parallel"} if label == "enumerated" else {}
        if classifier is None:
            sizes = network, hidden_dims, channels, activation
            classifier = make_encoder(event_shape, (model.num_classes,), *sizes)
        self.classifier, self.activation = classifier, activation
        *before, width = hidden_dims
        sizes = network, before, channels, activation
        self.features = make_encoder(event_shape, (width,), *sizes)
        self.of_label = nn.Linear(model.num_classes, width, bias=False)
        self.code = MLP((width,), (2, model.latent_dim), ())

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y, known = self.model.labels(y, len(x))
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=~known):
                fn = dist.Categorical(logits=self.classify(x))
                drawn = pyro.sample("y_unobserved", fn, infer=self.infer)
            loc, scale = self.encode(x, torch.where(known, y, drawn))
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def classify(self, x: Tensor) -> Tensor:
        """Returns log q(y|x), [..., C], for x [..., *event_shape]."""
        return self.classifier(x).log_softmax(-1)

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x, y), each [..., Z], for labels y [...]."""
        c = self.model.condition(y).to(x.dtype)
        h = self.features(x) + self.of_label(c)
        loc, raw = self.code(h.relu() if self.activation == "relu" else h.tanh()).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
