"""Warnings that point at the user's line."""

import os
import warnings
from pathlib import Path

__all__ = ["warn"]

_PVAE = str(Path(__file__).parents[1]) + os.sep


def warn(text: str) -> None:
    """Warns of something at the line outside of pvae that led to it."""
    warnings.warn(text, stacklevel=2, skip_file_prefixes=(_PVAE,))
