"""Subject: the pair and the test data of a report, with the pair's answers as arrays."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pvae.predictive as predictive
from pvae.errors import PvaeError
from pvae.pair import (
    Program,
    base_distribution,
    given,
    modules,
    observed_sites,
    quiet,
    relaxed_in_training,
    trace_guide,
    trace_model,
)

__all__ = ["Subject"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A pair and the data that it was evaluated on; any of them may be missing.

    Attributes:
        model: The Pyro model, or None.
        guide: The Pyro guide, or None.
        data: A `pvae.data.Data` (its test part is shown), one part of it, a batch, a tensor,
            or None.
        site: The observed site to show; None is the one with the most values for each datum.
    """

    model: Callable[..., Any] | None
    guide: Callable[..., Any] | None
    data: Any
    site: str | None = None

    @property
    def size(self) -> int:
        """The number of test data."""
        return 0 if self.data is None else len(self._part)

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one x; empty without data."""
        return tuple(self.x([0]).shape[1:]) if self.size else ()

    @functools.cached_property
    def _bound(self) -> tuple[Any, tuple[Program | None, Program | None]]:
        """The test data as the pair receives them, and the pair for their batches."""
        pair = (self.model, self.guide)
        part, programs = given(self.data, {}, None, *(p for p in pair if p is not None))
        rest = iter(programs)
        return part, tuple(p if p is None else next(rest) for p in pair)

    @property
    def _part(self) -> Any:
        return self._bound[0]

    @property
    def _pair(self) -> tuple[Program, Program]:
        return self._bound[1]

    def batch(self, index: slice | Sequence[int] | Array) -> tuple[Tensor, ...]:
        """Returns the test data at these positions, as the pair is called with them."""
        return self._part.observe(index if isinstance(index, slice) else torch.as_tensor(index))

    def x(self, index: slice | Sequence[int] | Array) -> Array:
        """Returns observed values [n, *event]."""
        names = getattr(self._part, "names", ("x",))
        x = self.batch(index)[names.index("x") if "x" in names else 0]
        if (self.site or "x" not in names) and None not in (self.model, self.guide):
            sites = observed_sites(self._trace(index))
            site = self.site or max(sites, key=lambda name: sites[name]["value"].numel())
            if site not in sites:
                raise PvaeError(
                    f"The model observes no site {site!r}; it observes {', '.join(sites)}."
                )
            x = sites[site]["value"]
        return x.detach().float().cpu().numpy()

    def labels(self, index: slice) -> Array | None:
        """Returns classes [n]; None if the data have none."""
        part = self._part
        y = part.y if hasattr(part, "y") else next(iter(part.tensors()[1:]), None)
        if y is None or y.ndim != 1 or y.is_floating_point():
            return None
        return y[index].cpu().numpy()

    def reconstruct(self, index: slice | Sequence[int] | Array) -> Array:
        """Returns the means of p(x|z), z at its posterior mean, shaped as the data [n, *event]."""
        batch = self._where_the_pair_is(index)
        return self._shaped(predictive.reconstruct(*self._pair, *batch, site=self.site))

    def reconstruct_given(self, row: int, labels: Sequence[str]) -> Array:
        """Returns the reconstructions of one datum given each of C labels y, [C, *event]."""
        batch = list(self._where_the_pair_is([row] * len(labels)))
        names = getattr(self._part, "names", ("x", "y"))
        y = batch[names.index("y")]
        values = torch.tensor([int(label) for label in labels], device=y.device)
        if y.ndim > 1:
            values = torch.eye(y.shape[1], device=y.device)[values]
        batch[names.index("y")] = values.to(y.dtype)
        return self._shaped(predictive.reconstruct(*self._pair, *batch, site=self.site))

    def classes(self) -> Array | None:
        """Returns the labels of the first 1,000 test data that the pair receives, each once."""
        if "y" not in getattr(self._part, "names", ()):
            return None
        y = self.labels(slice(0, 1000))
        return None if y is None else np.unique(y[y >= 0])

    def generate(self, size: int, y: Array | None = None) -> Array:
        """Returns the means of x for z from the prior [size, *event], given labels y [size]."""
        model, batch = self._drawing(slice(0, size))
        if y is not None:
            batch = tuple(each[np.arange(size) % len(each)] for each in batch)
            place = self._part.names.index("y")
            labels = torch.as_tensor(y).to(batch[place])
            batch = *batch[:place], labels, *batch[place + 1 :]
        return self._shaped(predictive.generate(model, size, *batch, site=self.site))

    def decode(self, site: str, z: Array) -> Array:
        """Returns the means of x for given values of a latent site."""
        value = torch.as_tensor(z, dtype=torch.float32, device=self._device)
        model, batch = self._drawing(slice(0, 1))
        return self._shaped(predictive.decode(model, {site: value}, *batch, site=self.site))

    def encode(self, index: slice) -> dict[str, Array]:
        """Returns posterior means [n, ...] by latent site."""
        means = predictive.encode(self._pair[1], *self._where_the_pair_is(index))
        return {name: value.detach().float().cpu().numpy() for name, value in means.items()}

    @property
    def num_sites(self) -> int:
        """The number of the guide's latent sites."""
        return len(self.encode(slice(0, 1)))

    def probe(self) -> predictive.Probes:
        """Returns how well the classes can be read from the codes."""
        return predictive.probe(self.guide, self.data)

    def interpolate(self, start: slice, end: slice, steps: int) -> Array:
        """Returns the means of x between codes of pairs of data [n, steps, *event]."""
        ends = self._where_the_pair_is(start), self._where_the_pair_is(end)
        x = predictive.interpolate(*self._pair, *ends, steps=steps, site=self.site)
        shaped = self._shaped(x.flatten(0, 1))
        return shaped.reshape(-1, steps, *shaped.shape[1:])

    def traverse(self, steps: int) -> predictive.Traversal:
        """Returns the first datum's code as its dimensions move, x an array shaped as the data."""
        found = predictive.traverse(
            self.model, self.guide, self._part, steps=steps, shown=self.site
        )
        shaped = self._shaped(found.x.flatten(0, 1))
        return found._replace(x=shaped.reshape(-1, steps, *shaped.shape[1:]))

    def parameters(self) -> int | None:
        """Returns the number of the pair's parameters; None if it has none."""
        if self.model is None:
            return None
        found = modules(self.model, self.guide or self.model)
        each = {id(p): p.numel() for m in found.values() for p in m.parameters()}
        return sum(each.values()) or None

    def standard_normal(self, site: str) -> bool:
        """Returns whether the model draws a latent site from a standard normal."""
        trace = self._trace(slice(0, 4))
        prior = trace.nodes[site]["fn"]
        if not isinstance(base_distribution(prior), torch.distributions.Normal):
            return False
        return bool(prior.mean.abs().max() < 1e-6 and (prior.variance - 1).abs().max() < 1e-6)

    def relaxed_in_training(self) -> bool:
        """Returns whether the guide's values are relaxed in training mode."""
        if None in (self.model, self.guide) or not self.size:
            return False
        return relaxed_in_training(self._trace(slice(0, 1)))

    def _trace(self, index: slice | Sequence[int] | Array) -> Any:
        """Returns the model's trace on some data, with latents drawn by the guide."""
        batch = self._where_the_pair_is(index)
        model, guide = self._pair
        with quiet(model, guide), torch.random.fork_rng():
            return trace_model(model, trace_guide(guide, *batch), *batch)

    def _drawing(self, index: slice) -> tuple[Program, tuple[Tensor, ...]]:
        """Returns the model, and data for a model that cannot generate without."""
        if self.data is None:
            return self.model, ()
        return self._pair[0], self._where_the_pair_is(index)

    def _where_the_pair_is(self, index: slice | Sequence[int] | Array) -> tuple[Tensor, ...]:
        return tuple(t.to(self._device) for t in self.batch(index))

    @property
    def _device(self) -> torch.device:
        found = modules(self.model, self.guide or self.model)
        return next((p.device for m in found.values() for p in m.parameters()), torch.device("cpu"))

    def _shaped(self, mean: Tensor) -> Array:
        """Gives x the data's event shape; a program may have flattened it."""
        array = mean.detach().float().cpu().numpy()
        if self.event and array[0].size == int(np.prod(self.event)):
            array = array.reshape(len(array), *self.event)
        return array
