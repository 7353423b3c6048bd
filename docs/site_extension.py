"""What the site needs beyond Sphinx: equations as MathML, and docstrings set as they are meant.

MathML is drawn by the browser itself: a page needs no script, no font and no network for it.
"""

import contextlib
import re
import unicodedata
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# What docstrings write plainly: a shape such as [B, *event_shape], a density such as log p(x|z),
# an arXiv number. Doctests, directives and code in backticks stay unchanged.
PLAIN = re.compile(
    r"""
    (?P<keep> ^[ ]*>>>.*?(?=\n[ ]*\n|\Z)
      | ^(?P<indent>[ ]*)\.\.[ ][^\n]*(?:\n(?:(?P=indent)[ ]+\S[^\n]*|[ ]*(?=\n)))*
      | ``.+?`` | (?::[\w:]+:)?`.+?`(?:__?)? )
    | (?<![\w.])(?P<shape>\[[^][`]{1,60}\](?![\w(]))
    | (?<![\w.])(?P<density>(?:log[ ])?[pq](?:_[\wθφ])?\([^()`\n]{1,30}\))(?!\w)
    | \barXiv:(?P<arxiv>\d{4}\.\d{4,5})
    | (?P<bar>(?<![\w)])\|)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def tex(density: str) -> str:
    """Returns log p(x|z) and its like as TeX."""
    density = re.sub(r"_(\w{2,})", r"_{\\text{\1}}", density.replace("log ", r"\log "))
    density = density.replace("|", r"\mid ").replace("θ", r"\theta").replace("φ", r"\phi")
    return re.sub(r"(?<![\\\w{])([a-zA-Z]{2,})", r"\\mathit{\1}", density)


def set_plain(match: re.Match[str]) -> str:
    """Returns what one match of `PLAIN` is in reStructuredText."""
    if match["shape"]:
        return f"``{match['shape']}``"
    if match["density"]:
        return f":math:`{tex(match['density'])}`"
    if match["arxiv"]:
        return "`arXiv:{0} <https://arxiv.org/abs/{0}>`__".format(match["arxiv"])
    return r"\|" if match["bar"] else match[0]


def set_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list) -> None:
    """Sets the plain shapes, densities and arXiv numbers of a docstring."""
    lines[:] = PLAIN.sub(set_plain, "\n".join(lines)).split("\n")


STYLED = re.compile(r'<mi mathvariant="(double-struck|script)">([A-Z])</mi>')
FUNCTION = re.compile(
    r"(?<!<msub>)(?<!<msup>)(?<!<msubsup>)(?<!<munder>)(?<!<munderover>)"
    r'(<mi>(?:log|min|max|exp)</mi>)(?!<mo stretchy="false">&#x00028;)'
)


def letter(match: re.Match[str]) -> str:
    """Returns a letter in its style: browsers know a character for it, but no attribute."""
    style, name = match[1].upper(), match[2]
    for place in (f"MATHEMATICAL {style} CAPITAL {name}", f"{style} CAPITAL {name}"):
        with contextlib.suppress(KeyError):
            return f'<mi mathvariant="normal">{unicodedata.lookup(place)}</mi>'
    raise ValueError(match[0])


def mathml(source: str, display: str = "inline") -> str:
    """Returns TeX as MathML, with a thin space between a function and its argument."""
    known = source.replace("{aligned}", "{split}")  # the same to a reader
    made = STYLED.sub(letter, convert(known, display=display))
    made = made.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # \sim
    if "<mi>&</mi>" in made or "linebreak" in made:
        raise ValueError(f"This equation's lines are not aligned: {source}")
    return FUNCTION.sub(r'\1<mspace width="0.17em" />', made)


def inline_equation(self: Any, node: nodes.math) -> None:
    """Writes an equation within a line."""
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def equation(self: Any, node: nodes.math_block) -> None:
    """Writes an equation on lines of its own."""
    source = node.astext()
    if r"\\" in source and r"\begin" not in source:
        source = rf"\begin{{align*}}{source}\end{{align*}}"
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(source, "block"))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def make_accessible(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Lets a keyboard reach what scrolls sideways, and gives headings of the menu their level."""
    if "body" in context:
        scrolls = r'<(pre|div class="(?:math|table-wrapper))\b'
        context["body"] = re.sub(
            scrolls,
            lambda m: (
                m[0].replace(" ", ' tabindex="0" ', 1) if " " in m[0] else f'{m[0]} tabindex="0"'
            ),
            context["body"],
        )
    if menu := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = menu.replace(
            'role="heading"', 'role="heading" aria-level="2"'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers all of it."""
    app.add_html_math_renderer("mathml", (inline_equation, None), (equation, None))
    app.connect("autodoc-process-docstring", set_docstring)
    app.connect("html-page-context", make_accessible, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}
