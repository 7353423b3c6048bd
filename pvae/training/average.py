"""Average: an exponential moving average of a pair's parameters and buffers."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pvae.errors import PvaeError
from pvae.runtime import number
from pvae.training.svi import SVI

__all__ = ["Average", "check_decay"]


def check_decay(average: float) -> float:
    """Returns the decay of an average as a `float`.

    Raises:
        PvaeError: It is not in [0, 1).
    """
    decay = number("average", average, zero=True)
    if decay >= 1:
        raise PvaeError(
            f"average={average!r} is not valid: give a decay below 1, such as 0.999, which averages"
            " over some 1000 steps."
        )
    return decay


class Average:
    r"""Keeps averaged values of the trained parameters and the buffers of a pair.

    .. math:: \bar\theta_1 = \theta_1, \qquad
        \bar\theta_t = d \, \bar\theta_{t-1} + (1 - d) \, \theta_t

    after step t, as torch's `AveragedModel` with `get_ema_multi_avg_fn(d)` and `use_buffers=True`,
    whose function computes it here. `AveragedModel` itself copies a module, but a pair can have
    parameters outside of modules; and on a GPU it waits at each step. A constrained parameter is
    averaged before its transform (a positive scale as its logarithm). Integer buffers, and buffers
    that are not finite at first, such as masks of −inf, keep their values.

    Args:
        svi: Has the pair and the optimiser's parameters.
        decay: d, in [0, 1).
    """

    def __init__(self, svi: SVI, decay: float) -> None:
        self._svi = svi
        self._average = get_ema_multi_avg_fn(decay)
        self._values: dict[str, Tensor] = {}
        self._fixed: set[str] = set()
        self._buffers = [
            (f"buffer {path}.{where}.{name}", module._buffers, name)
            for path, root in svi.own.modules.items()
            for where, module in root.named_modules()
            for name in module._buffers
        ]

    @property
    def begun(self) -> bool:
        """Whether there are averaged values."""
        return bool(self._values)

    @torch.no_grad()
    def update(self) -> None:
        """Adds the present values; new parameters start with theirs."""
        live = self._find()
        old = [name for name in live if name in self._values]
        if old:
            self._average([self._values[n] for n in old], [live[n] for n in old], 0)
        if len(old) < len(live):
            self.adopt({name: t for name, t in live.items() if name not in self._values})

    @torch.no_grad()
    def adopt(self, tensors: dict[str, Tensor] | None = None) -> None:
        """Takes the present values of some tensors, or of all, as averaged ones."""
        tensors = self._find() if tensors is None else tensors
        self._fixed |= {
            n for n, t in tensors.items() if n.startswith("buffer ") and not t.isfinite().all()
        }
        self._values |= {n: t.detach().clone() for n, t in tensors.items() if n not in self._fixed}

    @torch.no_grad()
    def take(self) -> None:
        """Gives the pair the averaged values."""
        live = self._find()
        for name in live.keys() & self._values.keys():
            live[name].copy_(self._values[name])

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Gives the pair the averaged values in this block, and its own after it."""
        live = self._find()
        before = {name: tensor.detach().clone() for name, tensor in live.items()}
        self.take()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(before[name])

    def _find(self) -> dict[str, Tensor]:
        optim = self._svi.optim
        found = {optim.names[id(p)]: p for p in optim.parameters}
        found |= {key: buffers[name] for key, buffers, name in self._buffers if name in buffers}
        once = {id(t): (n, t) for n, t in found.items() if t is not None and n not in self._fixed}
        return dict(each for each in once.values() if each[1].is_floating_point())
