"""The E step as a guide: the exact posterior of a mixture's label."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["Responsibilities"]


class Responsibilities(PyroModule):
    r"""The posterior of a mixture's label, held fixed while the model moves.

    .. math:: q(y = k \mid x) = p_{\bar\theta}(y = k \mid x), \qquad \bar\theta = \theta
        \text{ without a gradient}

    so that the ELBO is log p(x), and its gradient that of the M step: SVI with this guide is
    generalised EM, a gradient step in place of the maximum. It has no parameters.

    Args:
        model: A model whose `responsibilities(x)` returns p(y|x), [..., K], such as
            `pvae.models.GaussianMixture`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns y, [B] or enumerated [K, …, 1].

    Raises:
        PvaeError: If the model has no such method.

    Source: Neal & Hinton 1998, *A View of the EM Algorithm that Justifies Incremental, Sparse,
    and other Variants*.

    Example:
        >>> import torch
        >>> from pvae import log_weights
        >>> from pvae.models import GaussianMixture
        >>> model, x = GaussianMixture((2,), num_components=3), torch.zeros(5, 2)
        >>> log_w = log_weights(model, Responsibilities(model), x, num_samples=1)
        >>> torch.allclose(log_w[0], model.log_px(x))
        True
    """

    def __init__(self, model: PyroModule) -> None:
        super().__init__()
        if not callable(getattr(model, "responsibilities", None)):
            raise PvaeError(
                f"{type(model).__name__} has no responsibilities(x): this guide is for models such "
                "as GaussianMixture, whose label has a posterior in closed form."
            )
        # A reference, not a submodule: the parameters are the model's.
        self.__dict__["model"] = model

    def forward(self, x: Tensor) -> Tensor:
        q = self.model.responsibilities(x).detach()
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Categorical(q), infer={"enumerate": "parallel"})
