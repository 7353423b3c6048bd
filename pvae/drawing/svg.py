"""Charts by matplotlib as inline SVG: text stays text, colours are the page's CSS variables.

matplotlib is imported by the first chart, so that an evaluation does not wait for it.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterator

from markupsafe import Markup, escape

from pvae.drawing.colours import INK, MUTED, RULE, VARIABLES
from pvae.drawing.hover import add_targets, add_titles

__all__ = ["Chart", "chart", "responsive"]

_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "pvae", "font.size": 11, "axes.titlesize": 11,
    "axes.edgecolor": RULE, "axes.linewidth": 1, "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.labelcolor": MUTED, "axes.titlecolor": MUTED, "axes.titlelocation": "left",
    "axes.titlepad": 8, "axes.labelpad": 5, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "grid.linewidth": 1,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED, "ytick.major.size": 0, "xtick.major.size": 4,
    "xtick.major.width": 1, "lines.linewidth": 1.8, "legend.frameon": False,
    "legend.fontsize": 11, "legend.labelcolor": MUTED, "axes.formatter.use_mathtext": False,
}  # fmt: skip


class Chart:
    """A figure with its size in CSS pixels, and its SVG after the drawing."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        self.svg = Markup("")


@contextlib.contextmanager
def chart(label: str, width: float = 350, height: float = 240) -> Iterator[Chart]:
    """Yields a figure to draw in, and sets its `svg` at the end of the context.

    Args:
        label: What the picture shows, for screen readers.
        width: CSS pixels.
        height: CSS pixels.
    """
    import matplotlib

    # The user's matplotlib settings do not change the report, and the report does not change them.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        drawn = Chart(width, height)
        yield drawn
        said = add_targets(drawn.figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn.svg = Markup(add_titles(_inline(file.getvalue(), label), said))


def _inline(svg: str, label: str) -> Markup:
    """Turns matplotlib's file into an element without namespaces, fonts and clashing ids."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', svg[: svg.index(">")])
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([\w.-]+)', body))
    used |= set(re.findall(r'id="(hover-\d+)"', body))
    size = (box[1] if box else "0 0 350 240").split()
    prefix = re.sub(r"[^a-z0-9]+", "-", label.lower()) + f"-{size[2].partition('.')[0]}"
    body = re.sub(
        r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body
    )
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    body = re.sub(r" font-family: [^;\"]+;", "", body)
    body = re.sub(r"font: (\d\S*) [^;\"]+", r"font-size: \1", body)
    body = re.sub(
        r"(fill|stroke): (#0a0[bc]0\d)", lambda m: f"{m[1]}: var(--{VARIABLES[m[2]]})", body
    )
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = re.sub(r"(<g clip-path=[^>]*)>\n((?:<use [^>]*>\n)+)</g>", _markers, body)
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="{" ".join(size)}" width="{size[2]}" height="{size[3]}">{body}</svg>'
    )


def _markers(match: re.Match[str]) -> str:
    """Moves the style that all markers of a group share to the group."""
    styles = set(re.findall(r' style="[^"]*"', match[2]))
    if len(styles) != 1:
        return match[0]
    (style,) = styles
    return f"{match[1]}{style}>\n{match[2].replace(style, '')}</g>"


def responsive(draw: Callable[[float], Markup]) -> Markup:
    """Draws a chart twice, for wide and for narrow screens, so that its text keeps its size.

    Args:
        draw: Draws the chart at a width in CSS pixels.
    """
    wide = Markup('<div class="on-page">{}</div>').format(draw(720))
    return wide + Markup('<div class="on-phone">{}</div>').format(draw(350))
