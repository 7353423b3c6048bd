"""The Gaussian mixture as a model with a label, and its EM algorithm."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import ScaleTril, at_least_one

__all__ = ["GaussianMixture"]


class GaussianMixture(PyroModule):
    r"""A mixture of Gaussians. The latent is the label, and log p(x) is known.

    .. math::
        y &\sim \mathrm{Categorical}(\pi) \\
        x \mid y &\sim \mathcal N(\mu_y, L_y L_y^\top)

    The posterior of the label, the responsibilities, is

    .. math:: r_k(x) = p(y = k \mid x) = \frac{\pi_k \, \mathcal N(x; \mu_k, L_k L_k^\top)}
        {\sum_j \pi_j \, \mathcal N(x; \mu_j, L_j L_j^\top)}

    EM is coordinate ascent on the ELBO

    .. math:: L(q, \theta) = \sum_n \sum_k q_{nk} \left[ \log \pi_k
        + \log \mathcal N(x_n; \mu_k, L_k L_k^\top) - \log q_{nk} \right] \le \sum_n \log p(x_n)

    The E step sets q to the responsibilities, where the bound equals log p(x). The M step sets θ
    to its best value for this q, in closed form. `pvae.guides.Responsibilities` is the E step as a
    guide; SVI with it takes gradient steps in place of the M step.

    Args:
        event_shape: Shape of one datum, of D values.
        num_components: K.

    Attributes:
        weights: π, [K].
        loc: μ, [K, D].
        scale_tril: Called, it returns L, [K, D, D], lower triangular.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If there is no component.

    Source: Dempster, Laird & Rubin 1977, *Maximum Likelihood from Incomplete Data via the EM
    Algorithm* (doi:10.1111/j.2517-6161.1977.tb01600.x); Neal & Hinton 1998, *A View of the EM
    Algorithm that Justifies Incremental, Sparse, and other Variants*
    (doi:10.1007/978-94-011-5014-9_12).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.cat([torch.randn(100, 2) - 3, torch.randn(100, 2) + 3])
        >>> model = GaussianMixture((2,), num_components=2).start_from(x)
        >>> history = model.em(x)
        >>> history[-1] > history[0]
        True
    """

    def __init__(self, event_shape: Sequence[int], num_components: int = 10) -> None:
        super().__init__()
        at_least_one(num_components=num_components)
        self.event_shape, self.num_components = tuple(event_shape), num_components
        dim = math.prod(self.event_shape)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, dim))
        self.scale_tril = ScaleTril(torch.eye(dim).repeat(num_components, 1, 1))

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            label = dist.Categorical(logits=self.logits)
            y = pyro.sample("y", label, infer={"enumerate": "parallel"})
            p = dist.MultivariateNormal(self.loc[y], scale_tril=self.scale_tril()[y])
            x = pyro.sample("x", p, obs=None if x is None else self._flat(x))
        return x.unflatten(-1, self.event_shape)

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    def log_joint(self, x: Tensor) -> Tensor:
        """Returns log p(x, y = k), [..., K], for x [..., *event_shape], in nats."""
        p = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril())
        return self.logits.log_softmax(-1) + p.log_prob(self._flat(x)[..., None, :])

    def log_px(self, x: Tensor) -> Tensor:
        """Returns log p(x), [...], exactly, for x [..., *event_shape], in nats."""
        return self.log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Returns p(y = k | x), [..., K], for x [..., *event_shape]: the E step."""
        return self.log_joint(x).softmax(-1)

    def elbo(self, x: Tensor, q: Tensor) -> Tensor:
        """Returns L(q, θ), a scalar in nats, for x [N, *event_shape] and q [N, K]."""
        return (q * self.log_joint(x)).sum() - torch.special.xlogy(q, q).sum()

    @torch.no_grad()
    def maximise(self, x: Tensor, q: Tensor, reg_covar: float = 0.0) -> "GaussianMixture":
        r"""Sets the parameters to the maximum of L(q, θ) in θ: the M step.

        .. math::
            N_k = \sum_n q_{nk}, \qquad \pi_k = \frac{N_k}{N}, \qquad
            \mu_k = \frac{1}{N_k} \sum_n q_{nk} x_n, \qquad
            L_k L_k^\top = \frac{1}{N_k} \sum_n q_{nk} (x_n - \mu_k)(x_n - \mu_k)^\top

        Args:
            x: Data [N, *event_shape].
            q: q(y = k | x_n), [N, K].
            reg_covar: Added to the variances, for data that leave a covariance singular (pixels
                that are always black). The step is then not the maximum: the bound may fall.

        Returns:
            The model.

        Raises:
            PvaeError: If a component has no data or a singular covariance.
        """
        flat, num = self._flat(x), q.sum(0)
        empty = (num <= torch.finfo(num.dtype).tiny).nonzero()[:, 0].tolist()
        loc = (q.T @ flat) / num[:, None]
        apart = flat - loc[:, None]  # [K, N, D]
        covariance = (q.T[..., None] * apart).transpose(-1, -2) @ apart / num[:, None, None]
        covariance.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
        scale_tril, info = torch.linalg.cholesky_ex(covariance)
        if empty or info.any():
            k = empty[0] if empty else int(info.nonzero()[0])
            raise PvaeError(
                f"Component {k} of {self.num_components} has degenerated: it holds "
                f"{float(num[k]):.3g} of {len(flat)} data, and its covariance is singular. Start "
                "again (start_from) with fewer components, or give reg_covar=1e-6 or more."
            )
        self._set(num / num.sum(), loc, scale_tril)
        return self

    @torch.no_grad()
    def start_from(self, x: Tensor) -> "GaussianMixture":
        """Sets μ to K data drawn at random from x [N, *event_shape], L to the data's spread.

        Raises:
            PvaeError: If there are fewer data than components.
        """
        flat = self._flat(x)
        if len(flat) < self.num_components:
            raise PvaeError(
                f"num_components={self.num_components} is larger than the data ({len(flat)}): give "
                f"at most {len(flat)}."
            )
        some = torch.randperm(len(flat), device=flat.device)[: self.num_components]
        spread = flat.std(0).clamp(min=1e-3)
        equal = torch.full_like(self.logits, 1 / self.num_components)
        self._set(equal, flat[some], spread.diag().expand(self.num_components, -1, -1))
        return self

    @torch.no_grad()
    def em(
        self, x: Tensor, num_steps: int = 100, tol: float = 1e-6, reg_covar: float = 0.0
    ) -> list[float]:
        """Alternates E and M steps until both together gain less than `tol` for each datum.

        Args:
            x: Data [N, *event_shape].
            num_steps: The largest number of E and M steps, each.
            tol: Nats for each datum.
            reg_covar: See `maximise`.

        Returns:
            The ELBO after each step, E and M in turn, in nats for all data. After an E step it
            is log p(x); without `reg_covar` it never falls.

        Raises:
            PvaeError: As `maximise`; the parameters are then those before the step.
        """
        history: list[float] = []
        for _ in range(num_steps):
            q = self.responsibilities(x)
            history.append(float(self.elbo(x, q)))
            if len(history) > 2 and history[-1] - history[-3] < tol * len(x):
                break
            history.append(float(self.maximise(x, q, reg_covar).elbo(x, q)))
        return history

    def _set(self, weights: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        self.logits.copy_(weights.log())
        self.loc.copy_(loc)
        self.scale_tril.set(scale_tril)

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(x.ndim - len(self.event_shape))
