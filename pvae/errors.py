"""The error that pvae raises for bad input, and helpers for its messages."""

import difflib
from collections.abc import Iterable

__all__ = ["PvaeError", "first_line", "nearest", "reason_of", "text_of"]


class PvaeError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do.

    The shell prints only the message. Any other exception is a bug in pvae or in the user's
    program and keeps its stack trace.

    Example:
        >>> import pvae
        >>> pvae.models.VAE((4,), latent_dim=0)
        Traceback (most recent call last):
        ...
        pvae.errors.PvaeError: latent_dim=0: it must be at least 1.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the known names nearest to a mistyped one, or all of them.

    Example:
        >>> nearest("mnits", ["digits", "mnist"])
        'Did you mean mnist?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.65)
    lower = {k.lower(): k for k in known}
    close = close or [lower[k] for k in difflib.get_close_matches(name.lower(), lower, cutoff=0.65)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(known)}."


def text_of(error: BaseException) -> str:
    """Returns an error's text, or an empty string if the error cannot be printed."""
    try:
        return str(error)
    except Exception:
        return ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type's name if it has none.

    Example:
        >>> first_line(EOFError()), first_line(ValueError("no" + chr(10) + "more"))
        ('EOFError', 'no')
    """
    return next(
        (line for line in text_of(error).splitlines() if line.strip()), type(error).__name__
    )


def reason_of(error: BaseException) -> str:
    """Returns why something failed, in one sentence. Names the error's type unless it is ours.

    Example:
        >>> reason_of(PvaeError("This is wrong.")), reason_of(KeyError("z"))
        ('This is wrong.', "KeyError: 'z'")
    """
    text = first_line(error)
    return str(error) if isinstance(error, PvaeError) else f"{type(error).__name__}: {text}"
