"""Bar: the progress bar of a training run."""

import contextlib
from collections.abc import Iterator
from typing import Any

from pvae.runtime import tqdm

__all__ = ["Bar"]


class Bar:
    """Shows epoch, bound in nats per datum, and when a graph is compiled.

    Args:
        total: Number of steps of the run.
        initial: Number of steps so far.
        shown: Whether there is a bar.
    """

    def __init__(self, total: int, initial: int, shown: bool) -> None:
        self._text = ""
        self._bar = tqdm(
            total=total,
            initial=initial,
            disable=not shown,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def describe(self, text: str) -> None:
        """Sets the text on the left."""
        self._text = text
        self._bar.set_description(text, refresh=False)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Says that a graph is compiled, which takes seconds."""
        self._bar.set_description(f"{self._text}, compiling")
        try:
            yield
        finally:
            self._bar.set_description(self._text, refresh=False)

    def show(self, objective: str, elbo: float, validation: float | None) -> None:
        """Shows the bound, and that of the validation part if there is one."""
        shown = {objective: f"{elbo:.2f} nats"}
        if validation is not None:
            shown["validation"] = f"{validation:.2f}"
        self._bar.set_postfix(shown, refresh=False)

    def update(self) -> None:
        """Counts a step."""
        self._bar.update()
