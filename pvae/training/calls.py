"""Calls: calls the callbacks of a run, and says which one failed."""

import contextlib
from collections.abc import Callable

from pvae.errors import PvaeError, reason_of
from pvae.runtime import apart, own_random_state
from pvae.training.hooks import HOOKS, Callback, Training, hooked
from pvae.training.warn import warn

__all__ = ["Calls"]


class Calls:
    """Calls callbacks in their order.

    Args:
        callbacks: The callbacks.
        training: What they see.
        final: Returns a context in which the pair has the parameters that evaluation would use.
        save: Saves the run, and returns a sentence on that.
    """

    def __init__(
        self,
        callbacks: tuple[Callback, ...],
        training: Training,
        final: Callable[[], contextlib.AbstractContextManager[None]],
        save: Callable[[], str],
    ) -> None:
        self._training, self._final, self._save = training, final, save
        self._methods = {hook: hooked(callbacks, hook) for hook in HOOKS}

    @property
    def each_step(self) -> bool:
        """Whether a callback is called after each step."""
        return bool(self._methods["step"])

    def __call__(self, hook: str) -> None:
        """Calls the methods of a hook.

        Raises:
            PvaeError: If one raises; the message names the callback, and the run has been saved.
        """
        seen = self._training
        for callback, method in self._methods[hook]:
            try:
                with contextlib.ExitStack() as stack:
                    stack.enter_context(apart())
                    if hook != "step":
                        stack.enter_context(own_random_state(seen.seed))
                    if hook == "epoch":
                        stack.enter_context(self._final())
                    method(seen)
            except Exception as error:
                when = {
                    "step": f", at step {seen.step}",
                    "epoch": f", after epoch {seen.epoch}",
                }.get(hook, "")
                raise PvaeError(
                    f"The callback {_name(callback)} failed in `{hook}`{when}. "
                    f"{reason_of(error).rstrip('.')}. {self._save()}"
                ) from error

    def end_after_failure(self) -> None:
        """Calls `end` after an error, which counts more than those of the callbacks."""
        self._training.finished = False
        for callback, method in self._methods["end"]:
            try:
                with apart():
                    method(self._training)
            except Exception as error:
                warn(f"The callback {_name(callback)} failed in `end`: {reason_of(error)}")


def _name(callback: Callback) -> str:
    return type(callback).__name__
