"""Parsers of the shell's commands, which import no torch."""

import argparse
import re
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from pvae.cli.usage import UsageError
from pvae.errors import nearest

__all__ = ["PROGRAMS", "new_parser", "underscored", "values"]

PROGRAMS = {"model", "guide", "data"}


class _Help(DefaultHelpFormatter):
    """Leaves out what does not help at the prompt: lists of all subclasses, Python's types."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text = super()._get_type_str(action) or ""
        if text in ("str", "bool") or "Callable" in text or text.startswith("Literal"):
            return None  # {a,b} or the help itself has the values
        text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | "), text)
        text = re.sub(r"^(?:Union|Optional)\[(.*)\]$", r"\1", text)
        return re.sub(r"(, | \| )null\b", "", text).replace(", ", " | ") or None

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))
        none = "False" if action.nargs == 0 else "null"
        return text.replace(f" (default: {none})", "").replace(f", default: {none})", ")")


def new_parser(command: str, positional: str = "") -> ArgumentParser:
    """Returns a parser for the options of a command."""
    parser = ArgumentParser(
        prog=f"pvae {command}", exit_on_error=False, print_config=None, formatter_class=_Help
    )
    parser.usage = " ".join(filter(None, (parser.prog, positional, "[OPTIONS]")))
    return parser


def underscored(argv: list[str]) -> list[str]:
    """Returns a command line with underscores in the names of its options."""
    return [re.sub(r"(?<=^--)[^=]+", lambda m: m[0].replace("-", "_"), a) for a in argv]


def values(parser: ArgumentParser, argv: list[str], *, defaults: bool = True) -> dict[str, Any]:
    """Returns the values of a command line as plain values."""
    argv = underscored(argv)
    _check_options(parser, argv)
    try:
        found = parser.parse_args(argv, defaults=defaults)
    except argparse.ArgumentError as error:
        from pvae.runs import one_line  # which imports torch, and that takes seconds

        text = one_line(error).replace("--run:", "RUN:").replace("--name:", "NAME:")
        raise UsageError(text) from None
    return yaml.safe_load(parser.dump(found, skip_unset=False)) or {}


def _check_options(parser: ArgumentParser, argv: list[str]) -> None:
    """Raises a UsageError with the nearest option for an option that does not exist."""
    known = {name for action in parser._actions for name in action.option_strings}
    # If the option before a dot takes an object, jsonargparse checks what follows the dot.
    objects = tuple(f"{name}." for name in known - {f"--{name}" for name in PROGRAMS})
    for name in (argument.partition("=")[0] for argument in argv if argument.startswith("--")):
        if name not in known and not name.startswith(objects):
            close = nearest(name, known)
            close = close if close.startswith("Did") else f"`{parser.prog} --help` lists them."
            raise UsageError(f"There is no option {name}. {close}")
