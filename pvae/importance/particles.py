"""Runs a pair for many samples: in a particle plate, in a repeated batch, or in a loop."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.importance.looped import over_values
from pvae.importance.relaxed import with_noise
from pvae.importance.summed import sum_out
from pvae.importance.terms import log_terms
from pvae.pair import (
    Program,
    Structure,
    latent_sites,
    mask_of,
    observed_sites,
    plates_of_enumerated,
    trace_of,
    trace_program,
    unmasked,
)

__all__ = ["Particles"]

_HALF = (torch.float16, torch.bfloat16)


class Particles:
    """Runs a pair for K samples of each of B data, laid out in one of three ways.

    `"plate"` puts a particle plate left of the batch plate, `"tile"` repeats the batch K
    times, `"loop"` runs one sample at a time (then K is always 1 here). Outside, latent values
    are *rows*, [K, B, *rest], whatever the layout.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        structure: What `check` found.
        dim: The batch plate's dimension (negative).
        how: `"plate"`, `"tile"` or `"loop"`.

    Attributes:
        inner: Dimension and size of each plate of enumerated sites, except the batch plate.
    """

    def __init__(
        self, model: Program, guide: Program, structure: Structure, dim: int, how: str
    ) -> None:
        self._model, self._guide, self.structure = model, guide, structure
        self.dim, self.how = dim, how
        self.wide = structure.max_plate_nesting + (how == "plate")
        traces = structure.model_trace, structure.guide_trace
        self._events = {
            name: site["fn"].event_dim for t in traces for name, site in latent_sites(t).items()
        }
        in_guide = latent_sites(structure.guide_trace)
        self._inside = [name for name in structure.enumerated if name in in_guide]
        self.inner = plates_of_enumerated(structure, dim)

    def guide(
        self,
        batch: tuple[Tensor, ...],
        num: int,
        values: Trace | Mapping[str, Tensor] | None = None,
        *,
        enumerate: bool = True,
    ) -> Trace:
        """Runs the guide; `values` (a trace, or rows) take the place of its draws."""
        program = self._guide
        apart = self._apart(given=isinstance(values, Mapping))
        if values is not None:
            values = values if isinstance(values, Trace) else self.laid_out(values)
        if enumerate and self._inside and apart:
            return self._over_values("guide", program, batch, num, self._inside, values)
        if values is not None:
            program = poutine.replay(program, trace=values)
        program = self._widen(program, num)
        if enumerate and self._inside:
            program = self._enumerating(program)
        return trace_program("guide", self._guide, program, self._repeat(batch, num))

    def model(
        self, batch: tuple[Tensor, ...], num: int, values: Trace | Mapping[str, Tensor]
    ) -> Trace:
        """Runs the model with the values of a guide's trace, or with rows.

        With rows, every enumerated site is summed out by the model itself.
        """
        given = isinstance(values, Trace)
        trace = values if given else self.laid_out(values)
        if self.structure.enumerated and self._apart(given=not given):
            names = self.structure.enumerated
            return self._over_values("model", self._model, batch, num, names, trace)
        program = self._widen(poutine.replay(self._model, trace=trace), num)
        if self.structure.enumerated and given:
            used = len(self._inside)
            program = self._enumerating(program, used)
        elif self.structure.enumerated:
            program = self._enumerating(program)
        found = trace_program("model", self._model, program, self._repeat(batch, num))
        for name in self._inside if given else ():  # replayed with the marks of the guide's site
            found.nodes[name]["infer"] = {}
        return found

    def prior(self, batch: tuple[Tensor, ...], num: int, *, enumerate: bool = False) -> Trace:
        """Runs the model with its own samples, z ~ p(z)."""
        enumerate = enumerate or self.structure.together_only
        if enumerate and self.structure.enumerated and self._apart(given=True):
            names = self.structure.enumerated
            return self._over_values("model", self._model, batch, num, names)
        program = self._widen(self._model, num)
        if enumerate and self.structure.enumerated:
            program = self._enumerating(program)
        return trace_program("model", self._model, program, self._repeat(batch, num))

    def log_terms(
        self, trace: Trace, num: int, size: int, *, observed: bool = True
    ) -> dict[str, Tensor]:
        """Returns the log density of every site, in nats.

        [num, size], or [*enumerated, *inner, num, size] if it depends on an enumerated site.
        """
        shape = (num, size) if self.how == "plate" else (num * size,)
        sites = latent_sites(trace)
        if observed:
            sites |= observed_sites(trace)
        bounded = self.structure.bounded
        plates = {"dim": self.dim, "wide": self.wide, "shape": shape, "inner": self.inner}
        found = log_terms(sites, **plates, bounded=bounded)
        # Sums of many terms have no digit left in 16 bits.
        found = {n: t.float() if t.dtype in _HALF else t for n, t in found.items()}
        return {name: t.reshape(*t.shape[: -len(shape)], num, size) for name, t in found.items()}

    def sum_out(self, terms: Iterable[Tensor]) -> Tensor:
        """Returns the log of the sum over enumerated sites of what `log_terms` gives, [K, B]."""
        return sum_out(terms, len(self.inner))

    def cancel_masked(
        self, p: dict[str, Tensor], draws: Trace, num: int, size: int
    ) -> dict[str, Tensor]:
        """Replaces the masked log p of a site that the guide enumerates by its log q.

        The two then cancel, and the sum over the site's values is weighed by q.

        Args:
            p: Log densities of the model's sites, [*enumerated, num, size].
            draws: The guide's trace; its terms ignore masks of enumerated sites.
            num: Number of samples.
            size: Number of data.
        """
        masked = {}
        for name in self._inside:
            site = draws.nodes.get(name)  # none if the guide leaves out what all data mask
            mask = site and mask_of(site)
            if mask is not None:
                fn = unmasked(site["fn"])
                left_out = ~mask[(...,) + (0,) * fn.event_dim]
                masked[name] = {**site, "fn": fn, "mask": left_out, "infer": {}}
        trace = Trace()
        trace.nodes.update(masked)
        found = self.log_terms(trace, num, size)
        return p | {name: p[name] + term for name, term in found.items() if name in p}

    def rows_of(
        self, trace: Trace, num: int, size: int, *, enumerated: bool = False
    ) -> dict[str, Tensor]:
        """Returns the values of a trace's latent sites as rows; enumerated ones only if asked."""
        return {
            name: self.rows(site["value"], site["fn"].event_dim, num, size)
            for name, site in latent_sites(trace).items()
            if enumerated or name not in self.structure.enumerated
        }

    def means(self, trace: Trace, num: int, size: int) -> dict[str, Tensor]:
        """Returns E[z] given its parents for each continuous latent site, [num, size, numel]."""
        means = {}
        for name, site in latent_sites(trace).items():
            value, fn = site["value"], site["fn"]
            if name in self.structure.enumerated or not value.is_floating_point():
                continue
            if value.ndim - fn.event_dim > self.wide:
                continue  # one for each value of an enumerated site
            with contextlib.suppress(NotImplementedError, AttributeError):
                value = fn.mean.expand_as(value)
            means[name] = self.rows(value, fn.event_dim, num, size).reshape(num, size, -1)
        return means

    def rows(self, value: Tensor, event_dim: int, num: int, size: int) -> Tensor:
        """Lays a value [*plates, *event] out as rows [*enumerated, num, size, *rest]."""
        value = value.reshape((1,) * (self.wide + event_dim - value.ndim) + value.shape)
        lead = value.ndim - event_dim - self.wide
        at = value.ndim - event_dim + self.dim
        if self.how == "plate":
            value = value.movedim(at, lead + 1)
            shape = (*value.shape[:lead], num, size)
            return value.expand(*shape, *value.shape[lead + 2 :])
        value = value.movedim(at, lead)
        value = value.expand(*value.shape[:lead], num * size, *value.shape[lead + 1 :])
        return value.unflatten(lead, (num, size))

    def cut(self, trace: Trace, start: int, stop: int, num: int, size: int) -> Trace:
        """Returns the values of samples `start` to `stop` of a guide's trace of `num` samples."""
        if stop - start == num:
            return trace
        values, infer = {}, {}
        for name, site in latent_sites(trace).items():
            value, event = site["value"], site["fn"].event_dim
            axis, step = value.ndim - event - self.wide, 1
            if self.how != "plate":
                axis, step = value.ndim - event + self.dim, size
            if axis >= 0 and value.shape[axis] == num * step > 1:
                first, length = start * step, (stop - start) * step
                value = with_noise(value, lambda t, a=axis, f=first, n=length: t.narrow(a, f, n))
            values[name], infer[name] = value, site["infer"]
        return trace_of(values, infer)

    def laid_out(self, values: Mapping[str, Tensor]) -> Trace:
        """Returns a trace of rows laid out as the programs have them: the inverse of `rows`."""
        nodes = {
            **latent_sites(self.structure.model_trace),
            **latent_sites(self.structure.guide_trace),
        }
        laid_out = {}
        for name, value in values.items():
            if self.how == "plate":
                laid_out[name] = value.movedim(1, self.wide + self.dim)
                continue
            shape = list(nodes[name]["value"].shape)
            axis = len(shape) - self._events[name] + self.dim
            del shape[axis]
            laid_out[name] = value.reshape(-1, *shape).movedim(0, axis)
        return trace_of(laid_out)

    def _apart(self, *, given: bool) -> bool:
        """Whether enumerated sites take one value at a time, the other latents given or not."""
        return self.structure.one_by_one or (given and self.structure.one_by_one_given)

    def _over_values(
        self,
        role: str,
        program: Program,
        batch: tuple[Tensor, ...],
        num: int,
        names: Sequence[str],
        values: Trace | None = None,
    ) -> Trace:
        """Enumerates with one call for each combination of values."""

        def run(fixed: Messenger) -> Trace:
            wide = fixed(self._widen(program, num))
            return trace_program(role, program, wide, self._repeat(batch, num))

        nodes = {} if values is None else values.nodes
        given = {
            name: node["value"]
            for name, node in nodes.items()
            if node["type"] == "sample" and not node["is_observed"]
        }
        return over_values(run, names, self.wide, given)

    def _enumerating(self, program: Program, used: int = 0) -> Program:
        """Returns a program that enumerates the enumerated sites, each in its own dimension.

        Args:
            program: The program; its replayed sites keep their values.
            used: Number of dimensions that the guide's sites already take.
        """
        sites = self.structure.enumerated

        def configure(site: dict[str, Any]) -> dict[str, Any]:
            if site["done"]:
                return {}
            name, infer = site["name"], {"enumerate": None}
            if name in sites:
                marked = self.structure.guide_trace.nodes.get(name, site)["infer"]
                infer = {"enumerate": "parallel", "expand": marked.get("expand", False)}
            # Inside of pyro.markov sites would take turns in the same dimensions.
            return infer | {"_markov_scope": None}

        program = poutine.infer_config(program, configure)
        return poutine.enum(program, first_available_dim=-1 - self.wide - used)

    def _widen(self, program: Program, num: int) -> Program:
        if self.how != "plate":
            return program
        return pyro.plate("_pvae_samples", num, dim=-self.wide)(program)

    def _repeat(self, batch: tuple[Tensor, ...], num: int) -> tuple[Tensor, ...]:
        if self.how == "plate" or num == 1:
            return batch
        return tuple(t.repeat(num, *(1,) * (t.ndim - 1)) for t in batch)
