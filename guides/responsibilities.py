"""The E step as a guide: the exact posterior of a mixture's label."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["Responsibilities"]


class Responsibilities(PyroModule):
    r"""The exact posterior of a mixture's label, without a gradient.

    .. math:: q(y = k \mid x) = p_{\bar\theta}(y = k \mid x), \qquad \bar\theta = \theta
        \text{ without a gradient}

    The ELBO is then log p(x), and its gradient is that of the M step. SVI with this guide is
    generalised EM: a gradient step in place of the maximum. The guide has no parameters.

    Args:
        model: A model whose `responsibilities(x)` returns p(y|x), [..., K], such as
            `pvae.models.GaussianMixture`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns y, [B] or enumerated [K, …, 1].

    Raises:
        PvaeError: If the model has no such method.

    Source: Neal & Hinton 1998, *A View of the EM Algorithm that Justifies Incremental, Sparse,
    and other Variants* (doi:10.1007/978-94-011-5014-9_12).

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
                f"{type(model).__name__} has no responsibilities(x): give a model whose label has "
                "a posterior in closed form, such as GaussianMixture."
            )
        # Not as a submodule: its parameters would be saved twice.
        self.__dict__["model"] = model

    def forward(self, x: Tensor) -> Tensor:
        q = self.model.responsibilities(x).detach()
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Categorical(q), infer={"enumerate": "parallel"})
