"""Progress bars for terminals, logs and notebooks."""

import sys
import warnings
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm draws text, which is fine.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm as bar

__all__ = ["tqdm"]


class tqdm(bar):
    """A progress bar, drawn once a second outside of a terminal.

    A terminal draws over the old bar; a log and the output of a notebook's cell keep every one of
    them, which at tqdm's ten a second is 140,000 characters in three minutes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not sys.stderr.isatty():
            kwargs.setdefault("mininterval", 1.0)
        super().__init__(*args, **kwargs)
