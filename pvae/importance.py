"""log_weights(): the importance weights of a pair, on which every bound rests."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from pvae.agreement import counts_data, find_fault, refuse_mixing
from pvae.checking import check
from pvae.errors import PvaeError
from pvae.pair import (
    OwnParameters,
    Program,
    evaluating,
    latent_sites,
    name_of,
    observed_sites,
    trace_guide,
    trace_model,
)
from pvae.structure import base_distribution, batch_plate
from pvae.terms import Draws, add_up, site_terms

__all__ = ["Sampler", "Strategy", "log_weights"]

Strategy = Literal["auto", "plate", "tile", "loop"]

_TRIED = {
    "plate": "a particle plate left of the batch plate",
    "tile": "a batch that repeats each datum",
}


def log_weights(
    model: Program,
    guide: Program,
    *batch: Tensor,
    num_samples: int,
    strategy: Strategy = "auto",
    plate: str | None = None,
) -> Tensor:
    r"""Draws the log importance weights of a pair, one for each sample and datum.

    .. math:: \log w_{kb} = \log p_\theta(x_b, z_{kb}) - \log q_\phi(z_{kb} | x_b),
        \qquad z_{kb} \sim q_\phi(z | x_b)

    Their mean over k estimates the ELBO, and logsumexp over k minus log K the
    importance-weighted bound L_K. Scales (subsampling, KL weights) do not enter, masks and a
    model's `pyro.factor` do; sites enumerated in parallel are summed out exactly. No gradient
    flows, the modules are in eval mode, and the draws come from torch's global generator.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch)`.
        guide: Pyro program q(z|x), called as `guide(*batch)`.
        *batch: The data, tensors of leading size B.
        num_samples: K, the number of samples for each datum.
        strategy: How the K samples are computed: in a particle `"plate"` left of the batch
            plate (the encoder runs once), by `"tile"`-ing the batch, or in a `"loop"`.
            `"auto"` takes the first that agrees with single-sample replays of the same draws.
        plate: Name of the batch plate, where it is ambiguous.

    Returns:
        Tensor [K, B], in nats; -inf is a weight of zero.

    Raises:
        PvaeError: If the pair is wrong (see `pvae.check`), has a global latent site or a Delta
            guide, mixes data across the batch, or if a weight is NaN or +inf.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*.

    Example:
        >>> import torch
        >>> from pvae import guides, log_weights, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> log_weights(model, guide, torch.zeros(4, 1, 8, 8), num_samples=10).shape
        torch.Size([10, 4])
    """
    if num_samples < 1:
        raise PvaeError(f"num_samples={num_samples}: at least one sample is needed.")
    with Sampler(model, guide, *batch, strategy=strategy, plate=plate) as sampler:
        return torch.cat([draws.log_w for draws in sampler.stream(batch, num_samples)])


class Sampler:
    """Draws of one pair, by the strategy that was found right for it; use as a context.

    Inside the context the pair is in eval mode, keeps its own parameters, is not validated by
    Pyro and not differentiated.

    Attributes:
        strategy: `"plate"`, `"tile"` or `"loop"`.
        structure: What `check` found.
        numel: Number of values of the largest site of one datum.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *batch: Tensor,
        strategy: Strategy = "auto",
        plate: str | None = None,
    ) -> None:
        self.model, self.guide = model, guide
        size = len(batch[0]) if batch else 0
        with self._scope():
            self.structure = check(model, guide, *batch)
            self.plate, self.dim = batch_plate(self.structure, size, plate)
            self._refuse()
            traces = (self.structure.guide_trace, self.structure.model_trace)
            self.numel = max(
                site["value"].numel() // size
                for trace in traces
                for site in {**latent_sites(trace), **observed_sites(trace)}.values()
            )
            with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
                self.strategy = self._choose(batch, strategy)

    @contextlib.contextmanager
    def _scope(self) -> Iterator[None]:
        with (
            evaluating(self.model, self.guide),
            OwnParameters(self.model, self.guide),
            pyro.validation_enabled(False),
            torch.no_grad(),
        ):
            yield

    def __enter__(self) -> "Sampler":
        self._entered = self._scope()
        self._entered.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)

    def draw(self, batch: tuple[Tensor, ...], num_samples: int, first: int = 0) -> Draws:
        """Draws K samples for each datum of a batch in one go; `stream` does it in chunks.

        Args:
            batch: The data, tensors of leading size B.
            num_samples: K.
            first: Number of the batch's first datum, for messages.
        """
        if self.strategy != "loop":
            return self._draw(self.strategy, batch, num_samples, first)
        parts = [self._draw("loop", batch, 1, first) for _ in range(num_samples)]
        return Draws(
            torch.cat([part.log_w for part in parts]),
            torch.cat([part.elbo for part in parts]),
            {name: torch.cat([part.kl[name] for part in parts]) for name in parts[0].kl},
            {name: torch.cat([part.means[name] for part in parts]) for name in parts[0].means},
        )

    def stream(
        self,
        batch: tuple[Tensor, ...],
        num_samples: int,
        first: int = 0,
        seed: int | None = None,
    ) -> Iterator[Draws]:
        """Draws K samples for each datum in units of constant memory.

        With a seed, each unit is drawn from its own: of seed, first datum and first sample.
        """
        step = max(1, self.rows(batch[0].device) // len(batch[0]))
        for start in range(0, num_samples, step):
            if seed is not None:
                words = np.random.SeedSequence([seed, first, start]).generate_state(1, np.uint64)
                torch.manual_seed(int(words[0] >> 1))
            yield self.draw(batch, min(step, num_samples - start), first)

    def rows(self, device: torch.device) -> int:
        """Returns how many rows (samples times data) a call on a device should have."""
        # About 8 MiB for the largest site on a CPU, where chunks that leave the cache are
        # several times slower; 256 MiB on a GPU, which wants to be filled.
        floats, most = (2**21, 2**12) if device.type == "cpu" else (2**26, 2**18)
        return min(max(floats // self.numel, 64), most)

    def _draw(self, how: str, batch: tuple[Tensor, ...], num: int, first: int = 0) -> Draws:
        terms, guide_trace = self.run(how, batch, num)
        means = {}
        for name, site in latent_sites(guide_trace).items():
            value, fn = site["value"], site["fn"]
            lead = value.ndim - fn.event_dim - self.structure.max_plate_nesting - (how == "plate")
            if name in self.structure.enumerated or lead > 0 or not value.is_floating_point():
                continue
            with contextlib.suppress(NotImplementedError, AttributeError):
                value = fn.mean.expand_as(value)
            value = value.movedim(value.ndim - fn.event_dim + self.dim, 0)
            if how == "plate":
                value = value.movedim(1, 0)
            means[name] = value.reshape(num, len(batch[0]), -1)
        return add_up(terms, self.structure.enumerated, means, first)

    def run(self, how: str, batch: tuple[Tensor, ...], num: int) -> tuple[dict[str, Tensor], Trace]:
        """Runs the pair for `num` samples at once; terms are [*enumerated, num, B]."""
        size, wide = len(batch[0]), self.structure.max_plate_nesting
        if how == "plate":
            guide_trace, model_trace = self.traces(batch, num_samples=num)
            shape = (num, size)
            return (
                site_terms(guide_trace, model_trace, dim=self.dim, wide=wide + 1, shape=shape),
                guide_trace,
            )
        if how == "tile":
            batch = tuple(
                t.repeat(num, *(1,) * (t.ndim - 1)) if counts_data(t, size) else t for t in batch
            )
        terms, guide_trace = self.single(batch, num * size)
        return {n: t.reshape(*t.shape[:-1], num, size) for n, t in terms.items()}, guide_trace

    def single(
        self, batch: tuple[Tensor, ...], size: int, values: Trace | None = None
    ) -> tuple[dict[str, Tensor], Trace]:
        guide_trace, model_trace = self.traces(batch, values)
        wide = self.structure.max_plate_nesting
        terms = site_terms(guide_trace, model_trace, dim=self.dim, wide=wide, shape=(size,))
        return terms, guide_trace

    def traces(
        self, batch: tuple[Tensor, ...], values: Trace | None = None, num_samples: int | None = None
    ) -> tuple[Trace, Trace]:
        model, guide = self.model, self.guide
        wide = self.structure.max_plate_nesting
        if values is not None:
            guide = poutine.replay(guide, trace=values)
        if num_samples is not None:
            wide += 1
            model = pyro.plate("_pvae_samples", num_samples, dim=-wide)(model)
            guide = pyro.plate("_pvae_samples", num_samples, dim=-wide)(guide)
        if self.structure.enumerated:
            guide = poutine.enum(guide, first_available_dim=-1 - wide)
            model = poutine.enum(model)
        guide_trace = trace_guide(guide, *batch)
        return guide_trace, trace_model(model, guide_trace, *batch)

    def _choose(self, batch: tuple[Tensor, ...], wanted: Strategy) -> str:
        size = len(batch[0])
        small = tuple(_take(t, size, 6) for t in batch)
        try:
            self.single(small, len(small[0]))
        except PvaeError:
            small = batch  # the program is bound to the size of its batch
        refuse_mixing(self, small)
        faults = []
        for how in ("plate", "tile", "loop"):
            if wanted not in ("auto", how):
                continue
            fault = None if how == "loop" else find_fault(self, how, small)
            if fault is None:
                if faults:
                    warnings.warn(f"log_weights uses a {how}: {'; '.join(faults)}.", stacklevel=4)
                return how
            faults.append(f"{_TRIED[how]} {fault}")
        raise PvaeError(f"strategy={wanted!r} is not right for this pair: {faults[0]}.")

    def _refuse(self) -> None:
        latent = latent_sites(self.structure.guide_trace)
        for name, site in latent.items():
            if all(frame.dim != self.dim for frame in site["cond_indep_stack"]):
                raise PvaeError(
                    f"Latent site {name!r} stands outside the batch plate {self.plate!r}: it is "
                    "global, shared by all data, so that log p(x) does not split into one number "
                    "for each datum. Make it a pyro.param (a point estimate), move it into the "
                    "plate, or estimate the bound of the whole data set with "
                    "pyro.infer.Trace_ELBO().loss(model, guide, data)."
                )
        auxiliary = any(site["infer"].get("is_auxiliary") for site in latent.values())
        for name, site in latent.items():
            if isinstance(base_distribution(site["fn"]), Delta) and not auxiliary:
                raise PvaeError(
                    f"The guide {name_of(self.guide)} gives site {name!r} a Delta distribution: a "
                    "point has no density, so there is no bound on log p(x) and no importance "
                    "weight. Evaluate with a guide that has a density (for example "
                    "pvae.guides.MeanField); a Delta guide trains a MAP estimate only."
                )
        for name in self.structure.enumerated:
            for trace in (self.structure.guide_trace, self.structure.model_trace):
                stack = trace.nodes[name]["cond_indep_stack"] if name in trace.nodes else ()
                for frame in stack:
                    if frame.dim != self.dim:
                        raise PvaeError(
                            f"Site {name!r} is enumerated inside the plate {frame.name!r}; only "
                            "sites with one value for each datum can be summed out so far. Leave "
                            'out infer={"enumerate": "parallel"} to sample it.'
                        )


def _take(tensor: Tensor, size: int, most: int) -> Tensor:
    """The first few data; a lone datum would broadcast, so that fewer than four are repeated."""
    if not counts_data(tensor, size):
        return tensor
    return tensor[:most] if size >= 4 else torch.cat([tensor] * 4)[: max(4, size)]
