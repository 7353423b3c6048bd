"""Objects as HTML in a notebook: a heading, a table, a sentence, and details to unfold."""

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup

__all__ = ["card"]

_NUMBER = re.compile(r"[-−+±<>\d][\d\s.,%e−+-]*|–|")


def card(
    title: str,
    rows: Iterable[Sequence[object]] = (),
    *,
    head: Sequence[str] = (),
    words: Iterable[str] = (),
    details: Iterable[tuple[str, Iterable[Sequence[object]] | str]] = (),
) -> str:
    """Returns HTML that takes its colours from the notebook; every text is escaped.

    Args:
        title: The heading.
        rows: The rows of a table, the name of each first.
        head: The heads of its columns.
        words: Paragraphs beneath.
        details: What is folded away: its title, and a table or a text.

    Example:
        >>> "a &lt; b" in card("Fit", [("epochs", 3)], words=["a < b"])
        True
    """
    parts = [Markup('<p style="margin:0 0 4px"><strong>{}</strong></p>').format(title)]
    parts.append(_table(rows, head))
    parts += [Markup('<p style="margin:6px 0;max-width:72ch">{}</p>').format(w) for w in words]
    for name, what in details:
        inside = (
            Markup('<pre style="white-space:pre-wrap">{}</pre>').format(what)
            if isinstance(what, str)
            else _table(what)
        )
        parts.append(
            Markup('<details><summary style="cursor:pointer">{}</summary>{}</details>').format(
                name, inside
            )
        )
    body = Markup("").join(parts)
    return str(Markup('<div style="line-height:1.4">{}</div>').format(body))


def _table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> Markup:
    lines = [[str(each) for each in row] for row in rows]
    if not lines:
        return Markup("")
    side = ["right" if _NUMBER.fullmatch(each) else "left" for each in lines[-1]]
    cell = Markup('<{} style="text-align:{};padding:1px 14px 1px 0;font-weight:normal">{}</{}>')

    def line(row: Sequence[str], kind: str = "td") -> Markup:
        cells = (cell.format(kind, at, each, kind) for at, each in zip(side, row, strict=True))
        return Markup("<tr>{}</tr>").format(Markup("").join(cells))

    names = line(head, "th") if head else Markup("")
    body = Markup("").join(line(row) for row in lines)
    return Markup('<table style="margin:0;font-size:inherit">{}{}</table>').format(names, body)
