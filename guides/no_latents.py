"""The guide of a model without latent variables."""

from typing import Any

from pyro.nn import PyroModule

__all__ = ["NoLatents"]


class NoLatents(PyroModule):
    r"""The guide of a model without latent variables: it has no sites and no parameters.

    The ELBO of such a model is log p(x) itself, without a gap:

    .. math:: \log p_\theta(x) - 0

    Shape:
        `guide(x)` takes anything and returns None.

    Source: none; the bound of Jordan et al. 1999, *An Introduction to Variational Methods for
    Graphical Models* (doi:10.1023/A:1007665907178), where there is nothing to bound.

    Example:
        >>> import torch
        >>> from pvae import evaluate
        >>> from pvae.models import MADE
        >>> model, x = MADE((4,)), torch.ones(10, 4)
        >>> result = evaluate(model, NoLatents(), x, num_samples=1, progress=False)
        >>> bool((result.log_px == result.elbo).all())
        True
    """

    def forward(self, *args: Any, **kwargs: Any) -> None:
        return None
