"""Panel: a figure of the report with its sentence, or the reason why it is missing."""

import dataclasses
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from pvae.errors import PvaeError

__all__ = ["HIDDEN", "Missing", "Panel", "attempt"]


class Missing(Exception):
    """There is nothing to draw, and the message says why."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure, or the sentence in its place.

    Attributes:
        bodies: SVG or image elements, side by side.
        note: How to read it.
        title: What the figure is; `attempt` sets it where it is empty.
        name: The figure's id on the page; set by `attempt`.
        flagged: Whether its numbers are what the page's caveat is about; set by `attempt`.
        missing: Why there is no figure, else None.
        failed: Whether that is a failure and not a property of the pair or the data.
        items: Pictures with a caption of their own.
        hidden: Whether the page is complete without it.
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
    """Returns a panel whatever happens: a figure that fails never loses the page.

    Args:
        name: The figure's id on the page.
        title: What the figure is.
        draw: Returns the panel, or None where there are no finite numbers to draw.
        *args: Its arguments.
        flagged: Whether its numbers are what the page's caveat is about.
    """
    try:
        panel = draw(*args) or Panel(missing="There are no finite numbers to draw.")
    except (Missing, PvaeError) as reason:
        panel = Panel(missing=str(reason))
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        panel = Panel(missing=f"This figure could not be drawn. {text}", failed=True)
    return dataclasses.replace(panel, name=name, title=panel.title or title, flagged=flagged)
