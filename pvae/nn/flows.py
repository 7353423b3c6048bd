"""Flows: invertible maps of vectors, for priors and posteriors that are not Gaussian."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pvae.errors import PvaeError
from pvae.nn.sizes import at_least_one

__all__ = ["SplineCoupling", "affine_autoregressive", "masked_networks", "rational_quadratic"]

_LEAST = 1e-3  # the least share of a bin and the least slope, as in Durkan et al.


def affine_autoregressive(
    net: Callable[[Tensor], tuple[Tensor, Tensor]],
    order: Sequence[int],
    dtype: torch.dtype,
    *,
    stable: bool = False,
) -> AffineAutoregressive:
    r"""Makes Pyro's autoregressive transform from a network that is called with one tensor.

    .. math:: y_i = \mu_i(x_{<i}) + e^{s_i(x_{<i})} x_i, \qquad
        \log \left| \det \frac{dy}{dx} \right| = \sum_i s_i

    The map takes one pass. Its inverse takes D passes, one for each coordinate; the density of a
    value that this transform did not draw needs the inverse.

    Args:
        net: x [..., D] to μ and s, each [..., D], whose i-th outputs depend only on the coordinates
            before i in `order`.
        order: The coordinates in order.
        dtype: Precision of the network. Pyro starts the inverse from zeros in single precision.
        stable: Whether y is a weighted mean, g x + (1 − g) μ with g = sigmoid(s + 2).

    Source: Kingma et al. 2016 (arXiv:1606.04934); Papamakarios, Pavlakou & Murray 2017
    (arXiv:1705.07057).

    Example:
        >>> net = lambda x: (x.cumsum(-1) - x, 0 * x + 1)
        >>> flow = affine_autoregressive(net, (0, 1, 2), torch.float32)
        >>> y = flow(torch.ones(3))
        >>> y, flow.log_abs_det_jacobian(torch.ones(3), y)
        (tensor([2.7183, 3.7183, 4.7183]), tensor(3.))
    """

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        return net(x.to(dtype))

    network.permutation = order
    return AffineAutoregressive(network, stable=stable)


def masked_networks(
    latent_dim: int,
    num_steps: int,
    flow_hidden_dims: Sequence[int],
    context_dim: int | None = None,
) -> tuple[nn.ModuleList, list[list[int]]]:
    """Makes a masked network (MADE) for each step of an autoregressive flow.

    Args:
        latent_dim: Z, the number of coordinates.
        num_steps: The number of networks.
        flow_hidden_dims: Widths of each network's hidden layers, not below Z.
        context_dim: The size of a second input, `context`; None for networks without one.

    Returns:
        Networks that give two tensors [..., Z] for one [..., Z], whose i-th values depend only on
        the coordinates before i; and the order of the coordinates for each network. Each step
        reverses the order.

    Raises:
        PvaeError: If there is no step or no hidden layer, or a layer is narrower than Z.

    Source: Germain et al. 2015, *MADE* (arXiv:1502.03509).

    Example:
        >>> networks, orders = masked_networks(3, num_steps=2, flow_hidden_dims=[8])
        >>> len(networks), orders
        (2, [[0, 1, 2], [2, 1, 0]])
    """
    at_least_one(num_steps=num_steps)
    if not flow_hidden_dims or min(flow_hidden_dims) < latent_dim:
        raise PvaeError(
            f"flow_hidden_dims={tuple(flow_hidden_dims)}: give one hidden layer or more, none "
            f"narrower than latent_dim={latent_dim}, or no unit is left for some coordinate."
        )
    orders = [list(range(latent_dim))[:: (-1) ** step] for step in range(num_steps)]
    make = AutoRegressiveNN
    if context_dim is not None:
        make = partial(ConditionalAutoRegressiveNN, context_dim=context_dim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro prefers an affine map for Z = 1
        networks = nn.ModuleList(
            make(latent_dim, hidden_dims=list(flow_hidden_dims), permutation=torch.tensor(order))
            for order in orders
        )
    return networks, orders


class SplineCoupling(Transform):
    r"""Maps some coordinates by splines whose parameters depend on the others.

    .. math:: y_a = x_a, \qquad y_b = f(x_b; \theta(x_a)), \qquad
        \log \left| \det \frac{dy}{dx} \right| = \sum_b \log f'(x_b; \theta(x_a))

    with f a monotonic rational-quadratic spline. Both directions take one pass.

    Args:
        net: x_a [..., D // 2] to θ, [..., D - D // 2, 3 M - 1] for M bins.
        order: The coordinates, [D]; the first D // 2 of them are a.
        bound: The spline is the identity outside of [-bound, bound].

    Source: Durkan et al. 2019, *Neural Spline Flows* (arXiv:1906.04032). (Pyro's splines have a
    slope of 0.999 at the ends, and rounding can break their inverse in single precision.)

    Example:
        >>> net = lambda a: torch.zeros(*a.shape[:-1], 2, 3 * 8 - 1)
        >>> SplineCoupling(net, torch.arange(3))(torch.tensor([0.5, -1.0, 7.0]))
        tensor([ 0.5000, -1.0000,  7.0000])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, net: Callable[[Tensor], Tensor], order: Tensor, bound: float = 5.0) -> None:
        super().__init__(cache_size=1)
        self.net, self.order, self.bound = net, order, bound
        self._log_det: Tensor | None = None  # of the last (x, y): a draw knows its density

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_det = self._map(x, inverse=False)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x, self._log_det = self._map(y, inverse=True)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log |det dy/dx|, [...]."""
        x_kept, y_kept = self._cached_x_y
        if x is x_kept and y is y_kept:
            return self._log_det
        return self._map(x, inverse=False)[1]

    def _map(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        half = len(self.order) // 2
        a, b = value[..., self.order].split([half, len(self.order) - half], -1)
        b, log_slope = rational_quadratic(b, self.net(a), self.bound, inverse=inverse)
        return torch.cat([a, b], -1)[..., self.order.argsort()], log_slope.sum(-1)


def rational_quadratic(
    x: Tensor, parameters: Tensor, bound: float = 5.0, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Maps by a monotonic spline of M rational-quadratic pieces on [-B, B], the identity outside.

    A bin begins at :math:`(x_0, y_0)` and has width w and height h, the average slope
    :math:`s = h / w`, and the slopes :math:`d_0, d_1` at its ends. With
    :math:`\xi = (x - x_0) / w`,

    .. math:: y = y_0 + h \frac{s \xi^2 + d_0 \xi (1 - \xi)}
            {s + (d_0 + d_1 - 2 s) \xi (1 - \xi)}

    Args:
        x: Values of x, or of y for the inverse, [...].
        parameters: M widths and M heights before the softmax, then the M - 1 slopes between the
            bins before softplus, [..., 3 M - 1]. Zeros make the identity.
        bound: B.
        inverse: Whether to map y to x.

    Returns:
        y (x for the inverse) and log dy/dx, each [...].

    Source: Durkan et al. 2019, equations 4 to 8 (arXiv:1906.04032).

    Example:
        >>> y, slope = rational_quadratic(torch.tensor([0.5, 7.0]), torch.zeros(2, 11))
        >>> y
        tensor([0.5000, 7.0000])
    """
    bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split([bins, bins, bins - 1], -1)
    widths, heights = (
        2 * bound * (_LEAST + (1 - _LEAST * bins) * raw.softmax(-1)) for raw in (widths, heights)
    )
    slopes = _LEAST + F.softplus(slopes + math.log(math.expm1(1 - _LEAST)))
    slopes = F.pad(slopes, (1, 1), value=1.0)
    lefts, bottoms = (
        F.pad(size.cumsum(-1)[..., :-1], (1, 0)) - bound for size in (widths, heights)
    )

    inside = x.abs() < bound
    value = x.clamp(-bound, bound)
    edges = bottoms if inverse else lefts
    k = (value[..., None] >= edges[..., 1:]).sum(-1, keepdim=True)
    w, h, x_0, y_0, d_0, d_1 = (
        each.gather(-1, k).squeeze(-1)
        for each in (widths, heights, lefts, bottoms, slopes[..., :-1], slopes[..., 1:])
    )
    s = h / w
    bend = d_0 + d_1 - 2 * s
    if inverse:
        rise = value - y_0
        a, b, c = h * (s - d_0) + rise * bend, h * d_0 - rise * bend, -s * rise
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        xi = xi.clamp(0, 1)  # rounding
        other = x_0 + xi * w
    else:
        xi = (value - x_0) / w
        other = y_0 + h * (s * xi.square() + d_0 * xi * (1 - xi)) / (s + bend * xi * (1 - xi))
    top = d_1 * xi.square() + 2 * s * xi * (1 - xi) + d_0 * (1 - xi).square()
    log_slope = 2 * s.log() + top.log() - 2 * (s + bend * xi * (1 - xi)).log()
    return torch.where(inside, other, x), torch.where(inside, log_slope, 0.0)
