"""Numbers as text: how tables, sentences and charts print them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "NONE", "count", "decimals", "flatten", "number", "percent", "plural", "shape", "with_error",
]  # fmt: skip

NONE = "–"
_ROUNDING = 1e-9  # below this, an error is one of arithmetic


def number(value: Any, places: int = 2, sign: bool = False) -> str:
    """Returns a number with a true minus sign; a dash for None and NaN.

    Example:
        >>> number(-89.3142), number(None), number(float("-inf"))
        ('−89.31', '–', '−∞')
    """
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return (text.lstrip("-+") if float(text) == 0 else text).replace("-", "−")


def with_error(value: Any, error: Any, places: int, sign: bool = False) -> tuple[str, str]:
    """Returns a number and its error as two words; the second is empty if there is no error.

    Example:
        >>> with_error(-1.234, 0.05, 2), with_error(0.5, None, 1), with_error(0.5, 1e-6, 2)
        (('−1.23', '± 0.05'), ('0.5', ''), ('0.50', '± <0.01'))
    """
    known = error is not None and math.isfinite(error)
    tiny = known and _ROUNDING < error < 0.5 * 10**-places
    shown = f"<{number(10**-places, places)}" if tiny else number(error, places)
    return number(value, places, sign), f"± {shown}" if known else ""


def decimals(*errors: float | None) -> int:
    """Returns the number of decimals that show two digits of the smallest error, 1 to 4.

    Example:
        >>> decimals(0.27), decimals(13.1), decimals(None)
        (2, 1, 2)
    """
    known = [e for e in errors if e is not None and math.isfinite(e) and e > _ROUNDING]
    return min(4, max(1, 1 - math.floor(math.log10(min(known))))) if known else 2


def count(value: int | None) -> str:
    r"""Returns an integer in groups of three, split by a thin space.

    Example:
        >>> count(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
        True
    """
    return NONE if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(value: int, one: str, many: str | None = None) -> str:
    """Returns a count with its noun.

    Example:
        >>> plural(1, "datum", "data"), plural(3, "epoch")
        ('1 datum', '3 epochs')
    """
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def percent(fraction: float | None) -> str:
    """Returns a share in per cent; only 0 reads as 0%, and only 1 as 100%.

    Example:
        >>> percent(0.0123), percent(0.0), percent(0.00001), percent(0.99999)
        ('1.2%', '0%', '<0.1%', '>99.9%')
    """
    if fraction is None or math.isnan(fraction):
        return NONE
    if fraction in (0, 1):
        return f"{fraction:.0%}"
    if fraction < 0.001:
        return "<0.1%"
    return ">99.9%" if fraction > 0.999 else f"{fraction:.1%}"


def shape(sizes: tuple[int, ...]) -> str:
    """Returns an event shape in words.

    Example:
        >>> shape((1, 28, 28)), shape((2,))
        ('1 × 28 × 28', '2 numbers')
    """
    if len(sizes) == 1:
        return plural(sizes[0], "number")
    return " × ".join(map(str, sizes)) if sizes else "1 number"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of a nested config as (dotted name, value).

    Example:
        >>> list(flatten({"model": {"class_path": "VAE", "init_args": {"latent_dim": 2}}}))
        [('model', 'VAE'), ('model.latent_dim', '2')]
    """
    for key, value in config.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".strip(".")
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
        else:
            yield name or str(key), NONE if value is None else str(value)
