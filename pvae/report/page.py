"""Renders a template with numbers and figures into one HTML file."""

import functools
import os
import pathlib
import re
from typing import Any

import jinja2

from pvae.drawing import text
from pvae.runtime import atomic

__all__ = ["first_sentence", "write_page"]


def write_page(
    path: str | os.PathLike[str], template: str, context: dict[str, Any]
) -> pathlib.Path:
    """Renders a template of this folder into a file; an older file is kept until it is complete.

    Raises:
        PvaeError: If the file cannot be written.
    """
    page = _environment().get_template(template).render(context)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return pathlib.Path(path)


def first_sentence(note: str) -> tuple[str, str]:
    """Splits a text after its first sentence; "et al. 2024" and "K = 1.5" do not end one.

    Example:
        >>> first_sentence("As in Burda et al. 2016. Higher is better. See there.")
        ('As in Burda et al. 2016.', 'Higher is better. See there.')
    """
    end = re.search(r"(?<=[.)])\s+(?=[^\W\d_a-z])", note)
    return (note, "") if end is None else (note[: end.start()], note[end.end() :])


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pvae.report", ""), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    names = ("count", "decimals", "number", "percent", "plural", "with_error")
    environment.globals |= {name: getattr(text, name) for name in names}
    environment.globals["first_sentence"] = first_sentence
    return environment
