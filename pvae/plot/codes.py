"""Pictures of a code: its plane, its dimensions one at a time, and lines between codes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import pvae.predictive as predictive
from pvae.data import Data, Split
from pvae.drawing import is_image
from pvae.errors import PvaeError
from pvae.pair import Program, given
from pvae.plot.pictures import array, shown_in_rows
from pvae.plot.plane import MASSES, points, regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["interpolation", "latents", "manifold", "traversal"]


def manifold(
    model: Program,
    *batch: Any,
    size: int = 15,
    site: str | None = None,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draws the images that a code of two dimensions decodes to, on a grid over its prior.

    Each image has the same probability under the prior: the grid goes through the inverse of its
    distribution function, so that the steps are short in the middle and long at the edges.

    Args:
        model: Pyro program p(z) p(x|z).
        *batch: As for `pvae.generate`, for a model that is given more than its size.
        size: Images in a row.
        site: The latent site; None is the only one of two dimensions.
        ax: matplotlib axes to draw onto; None makes a figure.
        **kwargs: Arguments of the model by name, such as `y=torch.full((size * size,), 3)`.

    Raises:
        PvaeError: If no site has two dimensions, x is no image, or the model cannot generate.

    Example:
        >>> from pvae import models, plot
        >>> ax = plot.manifold(models.VAE((1, 8, 8), latent_dim=2), size=5)
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['−1.3', '−0.5', '0.0', '0.5', '1.3']
    """
    found = predictive.plane(model, *batch, size=size, site=site, **kwargs)
    rows = _images(found.x)
    ax = shown_in_rows(rows, gap=False, ax=ax)
    height, width = rows.shape[-2:]
    few = np.unique(np.linspace(0, size - 1, min(size, 5)).round().astype(int))
    across, up = few * width + (width - 1) / 2, (size - 1 - few) * height + (height - 1) / 2
    ax.set_xticks(across, [_one(value) for value in found.first[few]])
    ax.set_yticks(up, [_one(value) for value in found.second[few]])
    ax.tick_params(length=3, bottom=True, labelbottom=True)
    ax.set_xlabel(f"{found.site}[0]", parse_math=False)
    ax.set_ylabel(f"{found.site}[1]", parse_math=False)
    return ax


def _one(value: float) -> str:
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def traversal(
    model: Program,
    guide: Program,
    data: Any,
    *,
    index: int = 0,
    site: str | None = None,
    dims: Sequence[int] | None = None,
    num_dims: int = 8,
    steps: int = 7,
    span: float = 3.0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws x as each of the most active dimensions of one datum's code moves: a row for each.

    The names of the rows have the variance of the posterior means of the dimension; those of the
    columns are standard deviations of the codes of the data.

    Args:
        model: As for `pvae.traverse`, as are the following.
        guide: Pyro program q(z|x).
        data: The data.
        index: The datum whose code it is.
        site: The latent site.
        dims: Dimensions of it; None is the most active.
        num_dims: How many of these, at most.
        steps: Images in a row.
        span: How far to go, in standard deviations.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: As `pvae.traverse`, and if x is no image.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((1, 8, 8), 2), pvae.guides.MeanField((1, 8, 8), 2)
        >>> len(traversal(model, guide, torch.rand(4, 1, 8, 8).round(), dims=[0]).images)
        1
    """
    found = predictive.traverse(
        model, guide, data, index=index, site=site, dims=dims, num_dims=num_dims, steps=steps,
        span=span,
    )  # fmt: skip
    titles = [
        f"{found.site}[{d}]  ({variance:.2f})"
        for d, variance in zip(found.dims, found.variance, strict=True)
    ]
    heads = [
        f"{t:+.2g}".replace("+0", "0").replace("-", "−") for t in np.linspace(-span, span, steps)
    ]
    return shown_in_rows(_images(found.x), titles, heads, ax=ax)


def interpolation(
    model: Program,
    guide: Program,
    start: Tensor | Sequence[Tensor],
    end: Tensor | Sequence[Tensor],
    *,
    steps: int = 7,
    path: Literal["straight", "spherical"] = "straight",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws x between the codes of pairs of data, a row for each, with the data at both ends.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        start: Data to begin at, [B, *event]; or a batch, as the pair is called with it.
        end: As many data to end at.
        steps: Points of a line, the reconstructions of its ends among them.
        path: `"straight"` or `"spherical"`, see `pvae.interpolate`.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: As `pvae.interpolate`, and if x is no image.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((1, 8, 8), 2), pvae.guides.MeanField((1, 8, 8), 2)
        >>> x = torch.rand(4, 1, 8, 8).round()
        >>> len(interpolation(model, guide, x[:2], x[2:]).images)
        1
    """
    lines = _images(predictive.interpolate(model, guide, start, end, steps=steps, path=path))
    ends = [t if isinstance(t, Tensor) else next(iter(t)) for t in (start, end)]
    if all(each.numel() == lines[:, 0].size for each in ends):  # x comes first
        first, last = (array(each).reshape(lines[:, :1].shape) for each in ends)
        lines = np.concatenate([first, lines, last], 1)
        between = [f"{t:.2g}" for t in np.linspace(0, 1, steps)]
        return shown_in_rows(lines, None, ["data", *between, "data"], ax=ax)
    return shown_in_rows(lines, None, [f"{t:.2g}" for t in np.linspace(0, 1, steps)], ax=ax)


def latents(
    guide: Program,
    data: Data | Split | Tensor | Sequence[Tensor],
    *,
    labels: Any = None,
    site: str | None = None,
    dims: tuple[int, int] | None = None,
    model: Program | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the codes of data as points, coloured by their labels.

    A code is the mean of q(z|x). Of a longer code the two dimensions are drawn whose means vary
    most over the data.

    Args:
        guide: Pyro program q(z|x).
        data: A part of data, such as `data.test`; of a `pvae.data.Data` the test part; or a
            tensor. At most 5,000 data are drawn, evenly spaced.
        labels: Classes [N]; None are those of the data, if they have any.
        site: The latent site; None is the first that is a continuous vector.
        dims: The two dimensions of it.
        model: The model, to draw its prior: lines around 50, 90 and 99 % of its mass, for a code
            of two dimensions.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If no site is a continuous vector of two dimensions or more.

    Example:
        >>> import pvae
        >>> guide = pvae.guides.MeanField((1, 8, 8), latent_dim=2)
        >>> ax = pvae.plot.latents(guide, pvae.data.load("digits"))
        >>> ax.get_xlabel()
        'z[0]'
    """
    part, _ = given(data, {}, None, guide)
    codes = predictive.encode(guide, part)
    flat = [n for n, z in codes.items() if z.ndim == 2 and z.shape[1] > 1 and z.dtype.kind == "f"]
    if not flat or site not in (None, *flat):
        shapes = ", ".join(f"{name} {list(z.shape[1:])}" for name, z in codes.items())
        raise PvaeError(
            f"{f'site={site!r}' if site else 'No latent site'} is a continuous vector of two "
            f"dimensions or more; the sites of the guide are {shapes or 'none'}."
        )
    name = site or flat[0]
    z = codes[name]
    if dims is None:
        order = np.argsort(-z.var(0), kind="stable")[:2]
        dims = (0, 1) if z.shape[1] == 2 else (int(order[0]), int(order[1]))
    if len(dims) != 2 or not all(0 <= d < z.shape[1] for d in dims):
        raise PvaeError(f"dims={dims}: give two of the dimensions 0 to {z.shape[1] - 1}.")
    if model is not None and z.shape[1] != 2:
        raise PvaeError(
            f"model= draws the prior of a code of two dimensions, and {name} has {z.shape[1]}."
        )
    y = getattr(codes, "y", None) if labels is None else array(labels)
    ax = points(z[:, list(dims)], y, names=tuple(f"{name}[{d}]" for d in dims), ax=ax)
    if model is not None:
        _prior(ax, model, name)
    return ax


def _prior(ax: "Axes", model: Program, site: str) -> None:
    """Draws lines around the regions of highest density of a prior."""
    edge = max(*map(abs, (*ax.get_xlim(), *ax.get_ylim())), 4.0) * 1.5  # the frame may cut a region
    regions(
        lambda z: predictive.prior_density(model, z, site=site),
        (-edge, edge), (-edge, edge), MASSES, ax,
    )  # fmt: skip


def _images(x: Any) -> NDArray[np.float64]:
    """Returns rows of images [R, T, C, H, W]."""
    x = array(x)
    if not is_image(x.shape[2:]):
        size = " × ".join(map(str, x.shape[2:])) or "1 number"
        raise PvaeError(
            f"x is {size}, which is no image of one or three channels. pvae.plot.curves and "
            "pvae.plot.points draw numbers; pvae.decode and pvae.traverse return them."
        )
    return (x[:, :, None] if x.ndim == 4 else x).astype(np.float64)
