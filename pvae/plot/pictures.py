"""Images in rows: data, reconstructions, samples, and the weights of a layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvae.drawing import Pictures, canvas, onto
from pvae.drawing import columns as best_columns
from pvae.errors import PvaeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["array", "images", "shown_in_rows"]


def array(x: Any) -> NDArray[Any]:
    """Returns a tensor or a sequence as an array."""
    x = x.detach().cpu() if isinstance(x, torch.Tensor) else x
    x = x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x
    return np.asarray(x)


def images(
    x: Any,
    *,
    columns: int | None = None,
    titles: Sequence[object] | None = None,
    heads: Sequence[object] | None = None,
    signed: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws images: in a grid, or in rows that have a name.

    All of them have the same grey levels: 0 is black and 1 is white, or the range of the values
    if they leave [0, 1]. The bar beside the images shows them then.

    Args:
        x: Images [N, C, H, W] or [N, H, W], with 1 or 3 channels, that fill rows of `columns`;
            rows of images [R, T, C, H, W] or [R, T, H, W]; or a dict of images [n, C, H, W] by
            the title of their row.
        columns: Images in a row of a grid; None is a number that suits their width.
        titles: The names of the rows.
        heads: The names of the columns.
        signed: Whether zero is white, negative values are blue and positive ones red, as for the
            weights of a layer.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If x has another shape, is empty, or there is another number of names.

    Example:
        >>> import torch
        >>> from pvae import plot
        >>> x = torch.rand(5, 1, 8, 8)
        >>> ax = plot.images({"data": x, "reconstructions": x.round()})
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['data', 'reconstructions']
    """
    if isinstance(x, Mapping):
        rows = {str(name): _pictures(each, f"the images of {name!r}") for name, each in x.items()}
        sizes = {each.shape[1:] for each in rows.values()}
        if len(sizes) != 1:
            shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in rows.items())
            raise PvaeError(f"Images of one figure have one size, and these have {shapes}.")
        across = max(map(len, rows.values()))
        grid = np.full((len(rows), across, *next(iter(sizes))), np.nan)
        for row, each in zip(grid, rows.values(), strict=True):
            row[: len(each)] = each
        titles = list(rows) if titles is None else titles
    else:
        x = array(x)
        in_rows = x.ndim == 5 or (x.ndim == 4 and x.shape[1] not in (1, 3))
        if in_rows:
            flat = _pictures(x.reshape(-1, *x.shape[2:]), "x", x.shape)
            grid = flat.reshape(*x.shape[:2], *flat.shape[1:])
        else:
            flat = _pictures(x, "x")
            across = _columns(len(flat), flat.shape[-1]) if columns is None else columns
            if across < 1:
                raise PvaeError(f"columns={columns} is not valid: give at least 1.")
            rest = -len(flat) % across
            empty = np.full((rest, *flat.shape[1:]), np.nan)
            grid = np.concatenate([flat, empty]).reshape(-1, across, *flat.shape[1:])
    return shown_in_rows(grid, titles, heads, signed=signed, ax=ax)


def _columns(size: int, width: int) -> int:
    """Returns how many images a row has, so that the last row is full where that is possible."""
    best = best_columns(width)
    full = [n for n in range(best - 4, best + 3) if n > 1 and size % n == 0]
    return size if size <= best else min(full, key=lambda n: abs(n - best), default=best)


def _pictures(x: Any, what: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Returns images [N, C, H, W] as numbers."""
    x = array(x)
    good = x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3))
    if not good or not x.size or np.iscomplexobj(x):
        raise PvaeError(
            f"{what} has shape {list(shape or x.shape)}, and images have [N, C, H, W] with 1 or 3 "
            "channels, or [N, H, W]; rows of them have one dimension more on the left. Reshape "
            "flat images: x.reshape(-1, 28, 28)."
        )
    return (x[:, None] if x.ndim == 3 else x).astype(np.float64)


def shown_in_rows(
    grid: NDArray[np.float64],
    titles: Sequence[object] | None = None,
    heads: Sequence[object] | None = None,
    *,
    signed: bool = False,
    gap: bool = True,
    look: Pictures | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws rows of images [R, T, C, H, W]; cells that are all NaN are empty."""
    rows, across, channels, height, width = grid.shape
    for names, size, what in ((titles, rows, "titles"), (heads, across, "heads")):
        if names is not None and len(names) != size:
            raise PvaeError(f"There are {len(names)} {what} for {size} {_OF[what]}.")
    wide = min(7.0, max(2.0, across * 0.62))
    high = max(0.8, wide * rows * height / (across * width)) + (0.25 if heads else 0.0)
    ax, _ = onto(ax, wide + (1.2 if titles else 0.0), min(high, 9.0))
    flat = grid.reshape(-1, channels, height, width)
    known = flat[np.isfinite(flat)]
    if signed:
        most = float(np.abs(known).max(initial=0.0)) or 1.0
        look = Pictures(-most, most)
    look = look or Pictures.of(known)
    levels = look.pixels(flat)
    if signed and channels == 1:
        import matplotlib

        levels = np.rint(255 * matplotlib.colormaps["RdBu_r"](levels[..., 0])[..., :3])
        levels = levels.astype(np.uint8)
    drawn = canvas(levels, across, gap)
    space = (drawn.shape[1] - across * width) // max(1, across - 1)
    for i in np.flatnonzero(np.isnan(flat).reshape(len(flat), -1).all(1)):
        y, x = (i // across) * (height + space), (i % across) * (width + space)
        drawn[y : y + height, x : x + width, 3] = 0
    ax.imshow(drawn, interpolation="nearest", aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    at = (np.arange(rows) * (height + space) + (height - 1) / 2) if titles else []
    ax.set_yticks(at, [str(title) for title in titles or []])
    at = (np.arange(across) * (width + space) + (width - 1) / 2) if heads else []
    ax.set_xticks(at, [str(head) for head in heads or []])
    ax.tick_params(length=0, bottom=False, labelbottom=False, labeltop=bool(heads))
    ax.grid(False)
    if (look.low, look.high) != (0.0, 1.0):
        _level_bar(ax, look, "RdBu_r" if signed else "gray")
    return ax


_OF = {"titles": "rows", "heads": "columns"}


def _level_bar(ax: "Axes", look: Pictures, name: str) -> None:
    """Draws what the grey levels stand for."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(look.low, look.high), name)
    bar = ax.figure.colorbar(scale, ax=ax, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
