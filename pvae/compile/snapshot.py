"""Snapshot: values of tensors and random states, to return to."""

from collections.abc import Sequence

from torch import Tensor

from pvae.runtime import noise_state, restore_noise

__all__ = ["Snapshot"]


class Snapshot:
    """Copies tensors and the state of torch's generators; `restore` sets both back.

    Attributes:
        values: The copies.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self.values = [t.clone() for t in self._tensors]
        self._noise = noise_state()

    def restore(self) -> None:
        """Sets the tensors, in place, and the generators to what they were."""
        restore_noise(self._noise)
        for tensor, value in zip(self._tensors, self.values, strict=True):
            tensor.copy_(value)
