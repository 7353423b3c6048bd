"""How x changes with the code: interpolation between data, traversal of dimensions."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.pair import Arguments, Program, alone, given, name_of
from pvae.predictive.encode import draw_codes, encode, encode_split
from pvae.predictive.generate import decode, prior_sites

__all__ = ["Traversal", "interpolate", "traverse"]

ACTIVE = 0.01
"""Variance of a posterior mean above which a dimension is active (Burda et al. 2016)."""

Array = NDArray[Any]


@alone
def interpolate(
    model: Program,
    guide: Program,
    start: Tensor | Sequence[Tensor],
    end: Tensor | Sequence[Tensor],
    *,
    steps: int = 7,
    path: Literal["straight", "spherical"] = "straight",
    site: str | None = None,
) -> Tensor:
    r"""Returns the means of p(x|z) along a line from one datum's code to another's.

    Every latent site goes along its own line, so that the ends are the reconstructions of the
    two data, in a hierarchy too. In many dimensions the middle of a straight line is shorter than
    samples of a Gaussian prior are. The spherical path turns from one code to the other by the
    angle ω between them, and its length changes evenly:

    .. math:: z_t = \frac{\sin((1 - t) \omega)}{\sin \omega} z_0
        + \frac{\sin(t \omega)}{\sin \omega} z_1

    Args:
        model: Pyro program p(z) p(x|z); what else it takes beside x is that of the start.
        guide: Pyro program q(z|x).
        start: Data to begin at, [B, *event]; or a batch, as the pair is called with it.
        end: As many data to end at.
        steps: T, how many points a line has, both ends among them.
        path: `"straight"`, or `"spherical"`, straight where codes point in the same direction or
            in opposite ones.
        site: Whose mean; None is the observed site with the most values for each datum.

    Returns:
        Tensor [B, T, *event].

    Raises:
        PvaeError: If start and end are not as many data, steps is below 2, a latent site is
            discrete, or the model cannot generate.

    Source: White 2016, *Sampling Generative Networks* (arXiv:1609.04468), for the spherical path.

    Example:
        >>> import torch
        >>> from pvae import guides, interpolate, models
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> interpolate(*pair, torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)).shape
        torch.Size([4, 7, 1, 8, 8])
    """
    if steps < 2:
        raise PvaeError(f"steps={steps} is not valid: give at least 2, the two ends of a line.")
    if path not in ("straight", "spherical"):
        raise PvaeError(f"path={path!r} is not valid: give 'straight' or 'spherical'.")
    start, end = ((t,) if isinstance(t, Tensor) else tuple(t) for t in (start, end))
    ends = Arguments(start), Arguments(end)
    if [t.shape for t in ends[0].batch] != [t.shape for t in ends[1].batch]:
        shapes = [" and ".join(str(tuple(t.shape)) for t in each.batch) for each in ends]
        raise PvaeError(
            f"start has shape {shapes[0]} and end {shapes[1]}: give as many data to each, of the "
            "same event shape."
        )
    first, last = encode(guide, *start), encode(guide, *end)
    size, lines = ends[0].size, {}
    for name, a in first.items():
        if not a.is_floating_point():
            raise PvaeError(
                f"Site {name!r} of the guide {name_of(guide)} is discrete: nothing lies between "
                "two of its values. Decode each value with pvae.decode instead."
            )
        t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        t = t.reshape(-1, *[1] * (a.ndim - 1))
        weights = (1 - t, t) if path == "straight" else _turned(a, last[name], t)
        lines[name] = (weights[0] * a[:, None] + weights[1] * last[name][:, None]).flatten(0, 1)
    if not lines:
        raise PvaeError(f"The guide {name_of(guide)} has no latent site, so there are no codes.")
    rows, _ = ends[0].filled(t.repeat_interleave(steps, 0) for t in ends[0].batch)
    return decode(model, lines, *rows, site=site).unflatten(0, (size, steps))


def _turned(a: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weights of both ends on a spherical path, each [B, T, 1, ...]."""
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1), -1).clamp(-1, 1)
    angle = cosine.acos().reshape(-1, *[1] * t.ndim)
    straight = angle.sin() < 1e-4
    sine = torch.where(straight, torch.ones_like(angle), angle.sin())
    first, last = ((s * angle).sin() / sine for s in (1 - t, t))
    return torch.where(straight, 1 - t, first), torch.where(straight, t, last)


class Traversal(NamedTuple):
    """One datum's code, changed in one dimension at a time.

    Attributes:
        x: Means of p(x|z), [D, T, *event]: a row for each dimension.
        z: The codes that they are decoded from, [D, T, Z].
        site: The latent site.
        dims: The D dimensions of it, the most active first.
        variance: For each of them, Var_x E[z|x], by which activity is measured.
    """

    x: Tensor
    z: Tensor
    site: str
    dims: tuple[int, ...]
    variance: tuple[float, ...]


@alone
def traverse(
    model: Program,
    guide: Program,
    data: Data | Split | Tensor | Sequence[Tensor],
    *,
    index: int = 0,
    site: str | None = None,
    dims: Sequence[int] | None = None,
    num_dims: int = 8,
    steps: int = 7,
    span: float = 3.0,
    shown: str | None = None,
) -> Traversal:
    r"""Returns the means of p(x|z) as each of the most active dimensions moves, one at a time.

    .. math:: z_d = m_d + t \, s_d, \qquad t = -\text{span}, \dots, \text{span}

    where m and s are mean and standard deviation of the aggregate of q(z|x) over the data, from
    one sample for each datum: where codes of data lie, whatever the prior is. (With a standard
    normal prior and a good fit it is that prior.) The other dimensions stay at one datum's code.

    In a hierarchy the top site moves, and the sites below it are at their prior means given it, so
    that their details of the datum are lost; `site=` chooses another site.

    Args:
        model: Pyro program p(z) p(x|z); what else it takes beside x is that of the datum.
        guide: Pyro program q(z|x).
        data: The data that the aggregate is over, at least 2: a part, a tensor, or several as
            the pair is called with them. Of a `pvae.data.Data` the test part.
        index: Which of them the other dimensions are the code of.
        site: The latent site; None is the first that the model draws.
        dims: Dimensions of it; None is the most active, those whose posterior mean varies most
            over the data, by more than 0.01.
        num_dims: How many of these, at most.
        steps: T, how many values each takes.
        span: How far to go, in standard deviations of the aggregate.
        shown: Whose mean; None is the observed site with the most values for each datum.

    Raises:
        PvaeError: If the site is not a continuous vector, no dimension of it is active, the
            model cannot generate, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from pvae import guides, models, traverse
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> found = traverse(*pair, torch.rand(50, 1, 8, 8), dims=[0, 3])
        >>> found.x.shape, found.site
        (torch.Size([2, 7, 1, 8, 8]), 'z')
    """
    part, (model, guide) = given(data, {}, None, model, guide)
    size = len(part)
    if size < 2 or not 0 <= index < size or min(num_dims, steps) < 1 or not span > 0:
        raise PvaeError(
            f"traverse over {size} data with index={index}, num_dims={num_dims}, steps={steps}, "
            f"span={span}: it takes at least 2 data, the index of one of them, and positive "
            "sizes."
        )
    codes, draws = encode_split(guide, part), draw_codes(guide, part)
    datum = part.observe(slice(index, index + 1))
    order = [name for name in prior_sites(model, *datum) if name in codes]
    site = _site(site, order, codes, guide)
    variance = codes[site].var(0, ddof=1)
    if dims is None:
        dims = _active(variance, site)[:num_dims]
    elif not dims or not all(0 <= d < len(variance) for d in dims):
        raise PvaeError(
            f"dims={list(dims)}: site {site!r} has dimensions 0 to {len(variance) - 1}."
        )
    loc, scale = (torch.from_numpy(f(draws[site], 0)) for f in (np.mean, np.std))
    t = torch.linspace(-span, span, steps)
    z = torch.from_numpy(codes[site][index]).repeat(len(dims), steps, 1)
    for row, d in zip(z, dims, strict=True):
        row[:, d] = loc[d] + t * scale[d]
    above = {
        name: torch.from_numpy(codes[name][[index]]).repeat_interleave(len(dims) * steps, 0)
        for name in order[: order.index(site)]
    }
    latents = {**above, site: z.flatten(0, 1)}
    x = decode(model, latents, *datum, site=shown).unflatten(0, (len(dims), steps))
    return Traversal(x, z, site, tuple(map(int, dims)), tuple(float(variance[d]) for d in dims))


def _site(site: str | None, order: list[str], codes: dict[str, Array], guide: Program) -> str:
    if site is None:
        vectors = [name for name in order if _is_vector(codes[name])]
        if not vectors:
            shapes = ", ".join(f"{n} {list(code.shape[1:])}" for n, code in codes.items())
            raise PvaeError(
                f"No latent site of the guide {name_of(guide)} can be traversed: it takes a "
                f"continuous vector, and there is {shapes or 'none'}."
            )
        return vectors[0]
    if site not in order or not _is_vector(codes[site]):
        can = ", ".join(name for name in order if _is_vector(codes[name])) or "none"
        raise PvaeError(f"site={site!r} cannot be traversed; the continuous vectors are: {can}.")
    return site


def _is_vector(code: Array) -> bool:
    return code.ndim == 2 and np.issubdtype(code.dtype, np.floating)


def _active(variance: Array, site: str) -> list[int]:
    order = np.argsort(-variance, kind="stable")
    active = [int(d) for d in order if variance[d] > ACTIVE]
    if not active:
        raise PvaeError(
            f"No dimension of site {site!r} is active: the posterior means vary over the data by "
            f"at most {variance.max():.2g} (variance), so it says nothing about x, and a "
            "traversal would show nothing of the data. dims= shows chosen dimensions "
            "anyway."
        )
    return active
