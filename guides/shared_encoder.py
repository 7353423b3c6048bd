"""The guide of a model that owns the encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["SharedEncoder"]


class SharedEncoder(PyroModule):
    r"""The mean field with the model's own encoder, as for `pvae.models.VampPriorVAE`.

    .. math:: q_\phi(z \mid x) = \mathcal N(\mu_\phi(x), \operatorname{diag} \sigma_\phi^2(x))

    The guide has no parameters; they belong to the model.

    Args:
        model: A model whose `encode(x)` returns location and scale of q(z|x), each [..., Z].

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If the model has no such method.

    Source: Tomczak & Welling 2018, *VAE with a VampPrior* (arXiv:1705.07120).

    Example:
        >>> import torch
        >>> from pvae.models import VampPriorVAE
        >>> guide = SharedEncoder(VampPriorVAE((1, 8, 8), latent_dim=4, num_pseudo_inputs=10))
        >>> guide(torch.zeros(16, 1, 8, 8)).shape
        torch.Size([16, 4])
    """

    def __init__(self, model: PyroModule) -> None:
        super().__init__()
        if not callable(getattr(model, "encode", None)):
            raise PvaeError(
                f"{type(model).__name__} has no encode(x) to share: give a model with its own "
                "encoder, such as VampPriorVAE, or use MeanField."
            )
        # Not as a submodule: its parameters would be saved twice.
        self.__dict__["model"] = model

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.model.encode(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))
