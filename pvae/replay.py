"""Replay: what a function launches on a GPU, captured once as a CUDA graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.environment import noise_state, restore_noise
from pvae.errors import PvaeError

__all__ = ["Replay", "can_replay"]

_TOLERANCE = 1e-3  # relative error in norm that another order of the same sums explains


def can_replay(device: torch.device) -> bool:
    """Whether work on this device can be captured."""
    return device.type == "cuda"


class Replay:
    """A function of tensors on a GPU, as one launch.

    The function is tried once, captured, and the first replay is compared with the trial; all
    that has changed meanwhile is put back. Replays draw their random numbers from the device's
    generator, where the function itself would have drawn them.

    Args:
        function: Maps a list of tensors to another; it must not wait for the device.
        inputs: The list. Later calls may have other values, of the same shapes.
        changes: Tensors that the function changes in place; each replay changes them.

    Raises:
        PvaeError: If the replay does something else than the function.
        RuntimeError: Of torch, if the function cannot be captured.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        changes: Sequence[Tensor] = (),
    ) -> None:
        self._inputs = [t.clone() for t in inputs]
        run = lambda: list(function(self._inputs))  # noqa: E731
        with torch.no_grad():
            before, noise = [t.clone() for t in changes], noise_state()

            def rewind() -> None:
                restore_noise(noise)
                for tensor, value in zip(changes, before, strict=True):
                    tensor.copy_(value)

            try:
                expected = [t.clone() for t in (*run(), *changes)]
                rewind()
                self._replay, self._outputs = _capture(run)
                rewind()
                self._replay()
                for ours, theirs in zip((*self._outputs, *changes), expected, strict=True):
                    if not _close(ours, theirs):
                        raise PvaeError("replayed as a CUDA graph, it gives another result")
            finally:
                rewind()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns what the function would."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._replay()
        return [t.clone() for t in self._outputs]


def _capture(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph.replay, outputs


def _close(ours: Tensor, theirs: Tensor) -> bool:
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    return bool((ours - theirs).norm() <= _TOLERANCE * theirs.norm())
