"""Panel: a figure of the report with its sentence, or the reason why it is missing."""

import dataclasses
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from pvae.errors import PvaeError

__all__ = ["HIDDEN", "Missing", "Panel", "attempt"]


class Missing(Exception):
    """Raised if there is nothing to draw; the message says why."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure of the report, or the sentence that replaces it.

    Attributes:
        bodies: SVG or image elements, side by side.
        note: How to read it.
        title: What the figure shows; `attempt` sets it if it is empty.
        name: The figure's id on the page; set by `attempt`.
        flagged: Whether the page's caveat concerns its numbers; set by `attempt`.
        missing: Why there is no figure, else None.
        failed: Whether drawing failed, so that the pair and the data are not the reason.
        items: Pictures, each with its own caption.
        hidden: Whether the page leaves it out without a word.
    """

    bodies: tuple[Markup, ...] = ()
    note: str = ""
    title: str = ""
    name: str = ""
    flagged: bool = False
    missing: str | None = None
    failed: bool = False
    items: tuple[dict[str, Any], ...] = ()
    hidden: bool = False


HIDDEN = Panel(hidden=True)


def attempt(
    name: str, title: str, draw: Callable[..., Panel | None], *args: Any, flagged: bool = False
) -> Panel:
    """Draws a panel; if that fails, the panel holds the reason and the page is not lost.

    Args:
        name: The figure's id on the page.
        title: What the figure shows.
        draw: Returns the panel, or None if there are no finite numbers to draw.
        *args: Its arguments.
        flagged: Whether the page's caveat concerns its numbers.
    """
    try:
        panel = draw(*args) or Panel(missing="There are no finite numbers to draw.")
    except (Missing, PvaeError) as reason:
        panel = Panel(missing=str(reason))
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        panel = Panel(missing=f"This figure could not be drawn. {text}", failed=True)
    return dataclasses.replace(panel, name=name, title=panel.title or title, flagged=flagged)
