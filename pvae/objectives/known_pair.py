"""What an objective knows of a pair: found at the first call, and compared again at later ones."""

import warnings
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pvae.errors import PvaeError
from pvae.importance import (
    Particles,
    few,
    first_right,
    lay_out,
    refuse_global,
    refuse_other_jacobian,
    rows_at,
)
from pvae.pair import Inspection, Program, Structure, quiet, refuse_unbounded, refuse_unlisted
from pvae.runtime import in_float32

__all__ = ["KnownPair", "is_recorded", "know"]

_LAYOUTS = ("plate", "tile")
_MOST_CALLS = 1000  # between two comparisons

_Pair = tuple[Program, Program, Structure, int]


@dataclass
class KnownPair:
    """What an objective knows of a pair that it is called with.

    Attributes:
        model: As it was handed in.
        guide: As it was handed in.
        structure: The pair's.
        dim: The batch plate's dimension.
        how: The layout of its particles, `"plate"` or `"tile"`.
        counting: See `pvae.pair.Arguments`.
        calls: Number of calls.
        compared: The last call in which the layout was compared with single samples.
        due: The next one.
    """

    model: Program
    guide: Program
    structure: Structure
    dim: int
    how: str
    counting: bool | None = None
    calls: int = 0
    compared: int = 1
    due: int = 2

    def compare(
        self, objective: str, programs: tuple[Program, ...], batch: tuple[Tensor, ...]
    ) -> bool:
        """Compares the layout again if that is due; if it is wrong now, takes another and warns.

        A layout that is wrong for a network may be right for its initial parameters, such as a
        gate of zero. Calls 2, 3, 9, 27, … compare, as parameters move most at the start, and then
        every thousandth.

        Args:
            objective: Its name.
            programs: Model and guide, as functions of the batch alone.
            batch: B data.

        Returns:
            Whether the layout has changed.

        Raises:
            PvaeError: If no layout is right now.
        """
        self.calls += 1
        if self.calls < self.due:
            return False
        before, self.compared = self.compared, self.calls
        self.due = 3 if self.calls == 2 else min(3 * self.calls, self.calls + _MOST_CALLS)
        pair, left = (*programs, self.structure, self.dim), _LAYOUTS[_LAYOUTS.index(self.how) :]
        how, faults = _find(pair, rows_at(batch, few(len(batch[0]))), left)
        if how != self.how:  # perhaps only because the pair needs its whole batch
            how, faults = _find(pair, batch, left)
        if how == self.how:
            return False
        if how is None:
            raise _nothing_is_right(objective, faults)
        self.how = how
        text = (
            f"{objective} uses a {how} from call {self.calls} on: {'; '.join(faults)}. At call "
            f"{before} it did not, as behind a gate that starts at zero."
        )
        if wrong := self.calls - before - 1:
            text += f" Losses and gradients of the {wrong} calls between may be wrong."
        warnings.warn(text, stacklevel=5)
        return True


def know(objective: str, found: Inspection, *, enumerates: bool = False) -> KnownPair:
    """Returns what an objective has to know of a pair.

    Args:
        objective: Its name.
        found: The pair.
        enumerates: Whether the objective sums out sites that are marked so.

    Raises:
        PvaeError: If the pair has no bound, a global latent site, or an enumerated one that the
            objective does not sum out, or if no layout is right.
    """
    refuse_unbounded(found)
    if found.structure.enumerated and enumerates:
        return _summing(objective, found)
    if enumerated := found.structure.enumerated:
        raise PvaeError(
            f"Site {enumerated[0]!r} is enumerated in parallel, and {objective} takes samples. "
            'Leave out infer={"enumerate": "parallel"} to sample it, or use TraceEnum_ELBO.'
        )
    pair = found.model, found.guide, found.structure, found.dim
    how, faults = _find(pair, found.batch, _LAYOUTS)
    if how is None:
        raise _nothing_is_right(objective, faults)
    return KnownPair(*pair, how)


def _summing(objective: str, found: Inspection) -> KnownPair:
    refuse_unlisted(found.structure)
    batch = found.batch
    devices = [batch[0].device] if batch[0].is_cuda else []
    with quiet(found.model, found.guide), torch.random.fork_rng(devices), in_float32():
        layout = lay_out(found)
    if layout.how == "loop":
        raise _nothing_is_right(objective, ["each sample needs its own call"])
    return KnownPair(found.model, found.guide, layout.structure, found.dim, layout.how)


def _find(
    pair: _Pair, batch: tuple[Tensor, ...], layouts: tuple[str, ...]
) -> tuple[str | None, list[str]]:
    """Returns the first layout that is right, and what is wrong with those before it."""
    devices = [batch[0].device] if batch[0].is_cuda else []
    with poutine.block(), quiet(*pair[:2]), torch.random.fork_rng(devices), in_float32():
        single = Particles(*pair, "loop")
        refuse_global(single, batch)
        how, faults = first_right(lambda how: Particles(*pair, how), batch, layouts)
        if how is not None:
            refuse_other_jacobian(single, batch)
    return how, faults


def _nothing_is_right(objective: str, faults: list[str]) -> PvaeError:
    return PvaeError(
        f"{objective} cannot compute the particles of this pair together: {'; '.join(faults)}. Let "
        "the networks treat every dimension left of the event as batch, or use "
        "pyro.infer.Trace_ELBO."
    )


def is_recorded() -> bool:
    """Whether torch records operations, or maps them, so that no value may decide anything."""
    mapped = torch._C._functorch.maybe_current_level() is not None
    return mapped or get_proxy_mode() is not None or torch.jit.is_tracing()
