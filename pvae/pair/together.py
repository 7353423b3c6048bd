"""Runs a pair; under enumeration if it only runs with all values of its discrete sites at once."""

from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import config_enumerate
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair.program import Program
from pvae.pair.traces import latent_sites, trace_guide, trace_model, trace_program

__all__ = ["runs_together", "trace_pair"]

_MOST_PLATES = 4  # of a pair that runs only under enumeration


def trace_pair(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[Trace, Trace, bool]:
    """Runs a pair once: the guide, and the model with the guide's samples.

    Returns:
        The traces of guide and model, and whether the pair runs only under enumeration. The traces
        then have the first value of each enumerated site.

    Raises:
        PvaeError: If a program fails both with and without enumeration.
    """
    try:
        guide_trace = trace_guide(guide, *batch)
        return guide_trace, trace_model(model, guide_trace, *batch), False
    except PvaeError as error:
        found = _traces_together(model, guide, batch)
        if found is None:
            raise error
        return *found, True


def runs_together(model: Program, batch: tuple[Tensor, ...]) -> bool:
    """Whether a model runs with every discrete site enumerated in parallel."""
    marked = config_enumerate(model, "parallel", expand=True)
    return _traces_together(marked, lambda *_: None, batch) is not None


def _traces_together(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[Trace, Trace] | None:
    """Returns the traces under parallel enumeration, reduced to each site's first value."""
    for wide in range(1, _MOST_PLATES + 1):
        try:
            # Pyro needs the number of the plates' dimensions before it has seen them.
            program = poutine.enum(guide, first_available_dim=-1 - wide)
            guide_trace = trace_program("guide", guide, program, batch)
            sites = latent_sites(guide_trace).values()
            used = [s["infer"]["_enumerate_dim"] for s in sites if "_enumerate_dim" in s["infer"]]
            program = poutine.replay(model, trace=guide_trace)
            program = poutine.enum(program, first_available_dim=min(used, default=-1 - wide) - 1)
            traces = guide_trace, trace_program("model", model, program, batch)
        except PvaeError:
            continue
        nodes = [site for trace in traces for site in trace.nodes.values()]
        nodes = [site for site in nodes if site["type"] == "sample"]
        dims = [f.dim for site in nodes for f in site["cond_indep_stack"] if f.vectorized]
        if -min(dims, default=0) > wide or not any("_enumerate_dim" in s["infer"] for s in nodes):
            continue
        for site in nodes:
            if hasattr(site["fn"], "event_dim"):
                site["value"] = _first_value(site["value"], wide + site["fn"].event_dim)
                site["fn"] = _FirstValue(site["fn"], wide)
                site["infer"] = {k: v for k, v in site["infer"].items() if k != "_enumerate_dim"}
        return traces
    return None


class _FirstValue(TorchDistribution):
    """A distribution of batch shape [*enumerated, *plates], reduced to the first value.

    `wide` is the number of dimensions of the plates.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, base_dist: Any, wide: int) -> None:
        self.base_dist, self._wide = base_dist, wide
        shape = base_dist.batch_shape
        shape = shape[max(0, len(shape) - wide) :]
        super().__init__(shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    @property
    def support(self) -> Any:
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        return _first_value(self.base_dist.mean, self._wide + self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        return _first_value(self.base_dist.log_prob(value), self._wide)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        drawn = self.base_dist.sample(sample_shape)
        lead = len(self.base_dist.batch_shape) - len(self.batch_shape)
        index = (slice(None),) * len(sample_shape) + (0,) * lead
        return drawn[index]


def _first_value(value: Tensor, ndim: int) -> Tensor:
    """Returns the first slice of `ndim` dimensions of a tensor."""
    return value[(0,) * max(0, value.ndim - ndim)]
