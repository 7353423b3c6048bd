"""The KL of each latent dimension, from the largest to the smallest."""

from typing import Any

import numpy as np

from pvae.drawing.colours import Look
from pvae.drawing.naming import key, named, plain

__all__ = ["MOST_DIMS", "draw_dims"]

MOST_DIMS = 64


def draw_dims(
    ax: Any,
    name: str,
    site: dict[str, Any],
    least: float,
    *,
    look: Look,
    few: int = 20,
    room: float = 0,
) -> None:
    """Draws the KL of the dimensions of a latent site, the active ones in strong colour.

    Args:
        ax: The axes.
        name: The site.
        site: Its `kl_dims`, nats, and the `variance` of its posterior means over the data.
        least: The variance above which a dimension is active.
        look: The colours.
        few: So many bars have the number of their dimension.
        room: So many bars have room.
    """
    kl = np.nan_to_num(np.asarray(site["kl_dims"], dtype=np.float64), posinf=np.nan)
    order = np.argsort(-np.nan_to_num(kl), kind="stable")[:MOST_DIMS]
    variance = site["variance"] or []
    same = len(variance) == len(kl)
    active = np.asarray(variance)[order] > least if same else np.zeros(len(order))
    at = np.arange(len(order))
    for some, colour, words, faint in (
        (active == 1, look.accent, "active", 0.85),
        (active == 0, look.fill, "not active", 0.85 if look.page else 0.35),
    ):
        ax.bar(at[some], kl[order][some], color=colour, width=0.72, alpha=faint,
               label=words if same else None)  # fmt: skip
    if same and 0 < active.sum() < len(active):
        key(ax, 2)
    numbered = len(order) <= few
    ax.set_xticks(at if numbered else [], [str(i + look.page) for i in order] if numbered else [])
    ax.set_xlim(-0.8, max(len(order), room) - 0.2)
    plain(ax.yaxis)
    across = "dimension, sorted" if numbered else "dimensions, sorted"
    across = across if look.page else across.replace(",", f" of {name} (from 0),")
    up = f"{name}, nats" if look.page else f"KL of {name}, nats per datum"
    named(ax, across=across, up=up, look=look)
