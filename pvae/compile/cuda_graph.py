"""Replay: a function's work on a GPU, captured once as a CUDA graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.compile.snapshot import Snapshot
from pvae.errors import PvaeError

__all__ = ["Replay", "can_replay"]

_TOLERANCE = 1e-3  # relative error in norm that another order of the same sums explains


def can_replay(device: torch.device | None) -> bool:
    """Whether work on this device can be captured (None: tensors are on several devices)."""
    return device is not None and device.type == "cuda"


class Replay:
    """Runs a function of tensors on a GPU as one launch.

    The function is run once, captured, and replayed once. The two results must agree, and their
    changes are undone. Replays 2, 4, 8, … are compared with the function too. Random numbers come
    from the device's generator, as in the function.

    inductor's own CUDA graphs cannot do this: they refuse host tensors, and inputs that change in
    place. A captured graph holds addresses only. Therefore the replay keeps the function, and with
    it the tensors that the function reads.

    Args:
        function: Maps a list of tensors to another. It must not wait for the device or read
            host memory.
        inputs: The list, on the device. Later calls may have other values of the same shapes.
        changes: Tensors that the function, and so each replay, changes in place.

    Raises:
        PvaeError: If the result of a replay differs from the function's, here or in a call.
        RuntimeError: torch's, if the function cannot be captured.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        changes: Sequence[Tensor] = (),
    ) -> None:
        self._function, self._changes = function, list(changes)
        self._inputs = [t.clone() for t in inputs]
        self._calls = 0
        before = Snapshot(self._changes)
        with torch.no_grad():
            try:
                expected = self._results(self._run())
                before.restore()
                self._replay, self._outputs = _capture(self._run)
                before.restore()
                self._replay()
                if not _same(self._results(self._outputs), expected):
                    raise PvaeError(
                        "The first replay of a CUDA graph differs from the function that it "
                        "captured."
                    )
            finally:
                before.restore()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the function's results."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._calls += 1
        if self._calls > 1 and not self._calls & (self._calls - 1):
            return self._compared()
        self._replay()
        return [t.clone() for t in self._outputs]

    @torch.no_grad()
    def _compared(self) -> list[Tensor]:
        """Replays, runs the function, and returns the results if they agree."""
        before = Snapshot(self._changes)
        self._replay()
        found = self._results(self._outputs)
        before.restore()
        expected = self._results(self._run())
        if not _same(found, expected):
            before.restore()
            raise PvaeError(
                f"Replay {self._calls:,} of a CUDA graph differs from the function that it "
                f"captured: do not trust the results since replay {self._calls // 2:,}."
            )
        return expected[: len(self._outputs)]

    def _run(self) -> list[Tensor]:
        return list(self._function(self._inputs))

    def _results(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [t.clone() for t in (*outputs, *self._changes)]


def _capture(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph.replay, outputs


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
        if not (ours - theirs).norm() <= _TOLERANCE * theirs.norm():
            return False
    return True
