"""Values on hover: the points of lines and the bars of a chart say their numbers."""

import math
import re
from typing import Any

import numpy as np
from markupsafe import escape

from pvae.drawing.text import count, number

__all__ = ["add_targets", "add_titles"]

_MOST = 120  # points of a line


def add_targets(figure: Any) -> dict[str, list[str]]:
    """Adds a transparent circle to each point of each line, and returns what each part says.

    Lines of one or two points are marks, and clouds of points are left alone.

    Returns:
        The texts of the circles of a line, or of a bar, by the id of their group.
    """
    said: dict[str, list[str]] = {}
    for ax in figure.axes:
        low, high = sorted(ax.get_ylim())
        places = _places(high - low)
        across = ax.get_xlabel().removesuffix("→").strip()
        limits = ax.get_xlim(), ax.get_ylim()
        for line in list(ax.lines):
            x, y = (np.ma.filled(np.ma.asarray(v, dtype=float), np.nan) for v in line.get_data())
            a_mark = len(x) < 3 or line.get_transform() != ax.transData
            if a_mark or line.get_linestyle() == "None":
                continue
            kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
            kept = kept[:: math.ceil(len(kept) / _MOST) or 1]
            name = "" if str(line.get_label()).startswith("_") else f"{line.get_label()}, "
            gid = f"hover-{len(said)}"
            unseen = {"alpha": 0, "color": line.get_color(), "markeredgewidth": 0}
            ax.plot(x[kept], y[kept], "o", markersize=9, gid=gid, **unseen)
            said[gid] = [
                f"{name}{across} {_plain(a)}: {number(float(b), places)}".strip()
                for a, b in zip(x[kept], y[kept], strict=True) if low <= b <= high
            ]  # fmt: skip
            ax.lines[-1].set_data(*(v[kept][(y[kept] >= low) & (y[kept] <= high)] for v in (x, y)))
        for bars in ax.containers:
            for bar in getattr(bars, "patches", []):
                gid = f"hover-{len(said)}"
                bar.set_gid(gid)
                start, width = bar.get_x(), bar.get_width()
                if getattr(bars, "orientation", "vertical") == "horizontal":
                    said[gid] = [number(width, _places(np.ptp(ax.get_xlim())))]
                else:
                    ends = (number(v, _places(width)) for v in (start, start + width))
                    height = bar.get_height()
                    value = count(int(height)) if height == int(height) else number(height, places)
                    said[gid] = [f"{' to '.join(ends)}: {value}" if width != 0.72 else value]
        ax.set_xlim(*limits[0])
        ax.set_ylim(*limits[1])
    return said


def add_titles(svg: str, said: dict[str, list[str]]) -> str:
    """Writes the texts into an SVG as the `title` elements that browsers show on hover."""
    svg = str(svg)  # Markup would escape what is added to it
    for gid, texts in said.items():
        found = re.search(rf'<g id="[^"]*{gid}"[^>]*>', svg)
        if found is None or not texts:
            continue
        end = svg.find("<g id=", found.end())
        part, rest = svg[found.end() : end if end > 0 else None], svg[end:] if end > 0 else ""
        if len(texts) == 1:
            part = f"<title>{escape(texts[0])}</title>{part}"
        else:
            part = _one_by_one(part, texts)
        svg = svg[: found.end()] + part + rest
    return svg


def _one_by_one(svg: str, texts: list[str]) -> str:
    each = iter(texts)

    def titled(use: re.Match[str]) -> str:
        return f"<use {use[1]}><title>{escape(next(each, ''))}</title></use>"

    return re.sub(r"<use ([^>]*)/>", titled, svg)


def _places(span: float) -> int:
    return min(4, max(0, 2 - math.floor(math.log10(span)))) if span > 0 else 2


def _plain(value: float) -> str:
    return count(int(value)) if value == int(value) else number(value, 2)
