"""Sampler: draws of a pair, unit by unit, in chunks that fit into memory."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import pyro
import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance.chunks import ChunkedModel, bytes_per_row, fastest
from pvae.importance.layout import (
    broadcasts_given,
    find_enumeration_fault,
    find_fault,
    refuse_other_jacobian,
    refuse_other_measure,
    refuse_unbounded,
)
from pvae.importance.mixing import refuse_mixing
from pvae.importance.particles import Particles
from pvae.importance.terms import Draws, add_up, sum_out
from pvae.pair import (
    OwnParameters,
    Program,
    batch_plate,
    evaluating,
    latent_sites,
    listed,
    look,
    observed_sites,
)
from pvae.runtime import Chunks, check_memory, keep_freed_memory

__all__ = ["Sampler", "Strategy", "seed_unit"]

Strategy = Literal["auto", "plate", "tile", "loop"]

MIB = 2**20
_TRIED = {
    "plate": "a particle plate left of the batch plate",
    "tile": "a batch that repeats each datum",
}
_PIECE = 1024  # rows of one draw from the prior


def seed_unit(seed: int, first: int, start: int = 0, purpose: int = 0) -> None:
    """Seeds torch's global generators for one unit of work.

    Args:
        seed: The evaluation's.
        first: The unit's first datum.
        start: Its first sample.
        purpose: What is drawn, so that estimators do not share their noise: 0 for the weights.
    """
    words = np.random.SeedSequence([seed, first, start, purpose])
    state = words.generate_state(1, np.uint64)
    # Not torch.manual_seed, which formats a stack trace for CUDA each time: 80 times slower.
    torch.default_generator.manual_seed(int(state[0] >> 1))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(state[0] >> 1))


class Sampler:
    """Draws of one pair, by the strategy that was found right for it; use as a context.

    Inside the context the pair is in eval mode, keeps its own parameters, is not validated by
    Pyro and not differentiated.

    Work is cut into *units*: what is drawn together depends on nothing but the pair, so that
    a unit's draws are the same however it is computed. A unit's model is run in *chunks* of
    `rows` rows (samples times data), which only memory and speed decide.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: Some data, to check the pair with: tensors of leading size B.
        strategy: See `log_weights`.
        plate: Name of the batch plate, where it is ambiguous.
        memory: MiB for the weights and activations of a chunk; the default is 64 on a CPU.

    Attributes:
        strategy: `"plate"`, `"tile"` or `"loop"`.
        structure: What `check` found.
        bound: Whether the pair runs with as many data as it was checked with, and no fewer.
        usual_rows: Rows of a chunk where `memory` is not given, for what is drawn in chunks.
        gradient_rows: Rows of a chunk where gradients are kept, which takes more memory for
            each; `memory` does not change it.
        chunks: Runs the model in chunks.
        gradient_chunks: Runs it in chunks of `gradient_rows`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *batch: Tensor,
        strategy: Strategy = "auto",
        plate: str | None = None,
        memory: float | None = None,
    ) -> None:
        if strategy not in get_args(Strategy):
            raise PvaeError(f"strategy={strategy!r}: one of {', '.join(get_args(Strategy))}.")
        check_memory(memory)
        self.model, self.guide = model, guide
        size = len(batch[0]) if batch else 0
        with self._scope():
            self.structure = look(model, guide, *batch)
            self.plate, self.dim = batch_plate(self.structure, size, plate)
            refuse_unbounded(self.structure, guide, self.plate, self.dim, size)
            refuse_other_measure(self.structure)
            for remark in self.structure.remarks:
                warnings.warn(remark, stacklevel=3)
            with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
                small = self._small(batch)
                self.strategy = self._choose(small, strategy)
                self.particles = self._particles(self.strategy)
                self._set_chunks(batch[0].device, size, memory, small)

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

    @contextlib.contextmanager
    def tuned(
        self, batch: tuple[Tensor, ...], num_samples: int, *, compiled: bool
    ) -> Iterator[None]:
        """Inside this context chunks have the size that is fastest, for batches of one size.

        A few sizes are timed on some draws; those that would change the last digits are passed
        over. Worth it for a million rows. Compiled, whose last digits are others, the same ones
        whatever the chunks are, for ten millions; a loop has nothing to compile.

        Args:
            batch: B data to time.
            num_samples: Samples for each datum that are to come.
            compiled: Whether the model's chunks run compiled.
        """
        kept = self._model, self.chunks
        if self.strategy != "loop":
            self._model = self._fastest(batch, num_samples, compiled)
            self.chunks = self._model.chunks
        try:
            yield
        finally:
            self._model, self.chunks = kept

    def _fastest(self, batch: tuple[Tensor, ...], num_samples: int, compiled: bool) -> ChunkedModel:
        size, rows = len(batch[0]), self.chunks.rows
        most = min(self._unit(size), num_samples)
        first = min(rows, self._cached_rows) if compiled else rows
        sizes = (min(rows, n) for n in (first, first // 2, 2 * first if compiled else first // 4))
        counts = [min(max(1, n // size), most) for n in sizes]
        with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
            num = min(most, 2 * max(counts))
            draws = self.particles.guide(batch, num)
        models = (
            ChunkedModel(self.particles, Chunks(count * size), most if compiled else 0)
            for count in dict.fromkeys(counts)
        )
        return fastest(models, draws, batch, num)

    def stream(
        self,
        batch: tuple[Tensor, ...],
        num_samples: int,
        first: int = 0,
        seed: int | None = None,
    ) -> Iterator[Draws]:
        """Draws K samples for each datum, unit by unit.

        Args:
            batch: The data, tensors of leading size B.
            num_samples: K.
            first: Number of the batch's first datum, for seeds and messages.
            seed: With a seed, each unit is drawn from its own: of seed, first datum and
                first sample.
        """
        if set(self.structure.latent) <= set(self.structure.enumerated):
            # Nothing is drawn: one weight says all, and it is exact.
            draws = self._draw(batch, 1, first)
            yield draws.map(lambda t: t.expand(num_samples, *t.shape[1:]))
            return
        step = self.unit(batch)
        for start in range(0, num_samples, step):
            if seed is not None:
                seed_unit(seed, first, start)
            yield self._draw(batch, min(step, num_samples - start), first)

    def prior_stream(
        self, batch: tuple[Tensor, ...], num_samples: int, first: int = 0, seed: int = 0
    ) -> Iterator[Tensor]:
        """Yields log p(x|z), [k, B], for K draws z ~ p(z) of each datum, unit by unit."""
        size, summed = len(batch[0]), {*self.structure.observed, *self.structure.enumerated}
        step = self._piece(size)
        for start in range(0, num_samples, step):
            num = min(step, num_samples - start)
            seed_unit(seed, first, start, purpose=1)
            trace = self.particles.prior(batch, num, enumerate=True)
            terms = self.particles.log_terms(trace, num, size)
            yield sum_out(term for name, term in terms.items() if name in summed)

    def unit(self, batch: tuple[Tensor, ...]) -> int:
        """Returns how many samples for each datum of a batch are drawn together."""
        return self._unit(len(batch[0]))

    def _unit(self, size: int) -> int:
        floats, most = (2**20, 2**15) if self._on_cpu else (2**25, 2**20)
        return max(1, min(floats // self.latent_numel, most) // size)

    @property
    def latent_numel(self) -> int:
        """Number of latent values of one datum."""
        sites = latent_sites(self.structure.guide_trace) or latent_sites(self.structure.model_trace)
        numbers = [site["value"].numel() for site in sites.values()]
        return max(1, sum(numbers) // self._checked)

    def prior(self, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        """Draws the latents from p(z), as rows [num, B, *rest], but for enumerated sites."""
        size = len(batch[0])
        step, parts = self._piece(size), []
        for start in range(0, num, step):
            n = min(step, num - start)
            parts.append(self.particles.rows_of(self.particles.prior(batch, n), n, size))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _piece(self, size: int) -> int:
        """How many samples of the prior are drawn at once: the decoder runs with them."""
        return 1 if self.strategy == "loop" else max(1, min(_PIECE, self.usual_rows) // size)

    def terms(
        self, batch: tuple[Tensor, ...], num: int, values: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the model's log density at given latents (rows), site by site."""
        if self.strategy == "loop" and num > 1:
            parts = [
                self.terms(batch, 1, {name: v[k : k + 1] for name, v in values.items()})
                for k in range(num)
            ]
            return {name: torch.cat([part[name] for part in parts], -2) for name in parts[0]}
        trace = self.particles.model(batch, num, values)
        return self.particles.log_terms(trace, num, len(batch[0]))

    def posterior(self, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        """Draws the latents from q(z|x), as rows [num, B, *rest], enumerated ones sampled too."""
        if self.strategy == "loop" and num > 1:
            parts = [self.posterior(batch, 1) for _ in range(num)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        trace = self.particles.guide(batch, num, enumerate=False)
        return self.particles.rows_of(trace, num, len(batch[0]), enumerated=True)

    def guide_terms(
        self,
        batch: tuple[Tensor, ...],
        num: int,
        values: dict[str, Tensor],
        *,
        enumerate: bool = True,
    ) -> dict[str, Tensor]:
        """Returns the guide's log density at given latents (rows), site by site."""
        if self.strategy == "loop" and num > 1:
            parts = [
                self.guide_terms(
                    batch, 1, {n: v[k : k + 1] for n, v in values.items()}, enumerate=enumerate
                )
                for k in range(num)
            ]
            return {name: torch.cat([part[name] for part in parts], -2) for name in parts[0]}
        trace = self.particles.guide(batch, num, values, enumerate=enumerate)
        return self.particles.log_terms(trace, num, len(batch[0]), observed=False)

    def _draw(self, batch: tuple[Tensor, ...], num: int, first: int) -> Draws:
        if self.strategy == "loop" and num > 1:
            return Draws.cat([self._draw(batch, 1, first) for _ in range(num)])
        particles, size = self.particles, len(batch[0])
        guide_trace = particles.guide(batch, num)
        q = particles.log_terms(guide_trace, num, size, observed=False)
        p = self._model.terms(guide_trace, batch, num)
        p = particles.cancel_masked(p, guide_trace, num, size)
        means = {}
        for name, site in latent_sites(guide_trace).items():
            value, fn = site["value"], site["fn"]
            if name in self.structure.enumerated or not value.is_floating_point():
                continue
            if value.ndim - fn.event_dim > particles.wide:
                continue  # one for each value of an enumerated site
            with contextlib.suppress(NotImplementedError, AttributeError):
                value = fn.mean.expand_as(value)
            rows = particles.rows(value, fn.event_dim, num, size)
            means[name] = rows.reshape(num, size, -1)
        return add_up(p, q, self.structure.enumerated, means, first)

    def _set_chunks(
        self, device: torch.device, size: int, memory: float | None, batch: tuple[Tensor, ...]
    ) -> None:
        live, made = bytes_per_row(self.particles, batch)
        # Some 16 MiB for the largest site on a CPU, where chunks that leave the cache are several
        # times slower and small ones pay for their handlers; 256 MiB on a GPU, which wants to be
        # filled.
        traces = (self.structure.guide_trace, self.structure.model_trace)
        sites = [s for t in traces for s in {**latent_sites(t), **observed_sites(t)}.values()]
        numel = max(1, max(site["value"].numel() for site in sites) // size)
        self._on_cpu = on_cpu = device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        floats, most = (2**22, 2**13) if on_cpu else (2**26, 2**18)
        usual = min(max(floats // numel, 64), most)
        budget = MIB * (64 if on_cpu else 4096)
        self.usual_rows = usual = max(1, min(usual, budget // live))
        rows = usual if memory is None else max(1, min(most, int(memory * MIB) // live))
        self.chunks = Chunks(rows)
        self._model = ChunkedModel(self.particles, self.chunks)
        # Without handlers small chunks cost nothing: 4 MiB for the largest site stay in the cache.
        self._cached_rows = max(2**20 // numel, 64) if on_cpu else most
        # Gradients of convolutions are not the same bit for bit in chunks of another size.
        self.gradient_rows = max(1, min(most, budget // made))
        self.gradient_chunks = Chunks(self.gradient_rows)
        if on_cpu and not self._same_bits(batch, rows, usual):
            warnings.warn(
                "on this machine the last digits depend on the size of a chunk: with "
                f"memory={memory} they differ from those of the default",
                stacklevel=4,
            )

    def _same_bits(self, batch: tuple[Tensor, ...], *rows: int) -> bool:
        """Whether chunks of one size give the same bits as chunks of another."""
        if self.strategy == "loop" or rows[0] == rows[1]:
            return True
        size = len(batch[0])
        num = max(1, max(rows) // size)
        trace = self.particles.guide(batch, num)
        chunked = (ChunkedModel(self.particles, Chunks(n)) for n in rows)
        ours, theirs = (model.terms(trace, batch, num) for model in chunked)
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    def _particles(self, how: str) -> Particles:
        return Particles(self.model, self.guide, self.structure, self.dim, how)

    def _small(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._checked, self.bound = len(batch[0]), False
        small = tuple(_take(t, 6) for t in batch)
        structures = [self.structure]
        if self.structure.enumerated and not self.structure.together_only:
            structures.append(dataclasses.replace(self.structure, one_by_one=True))
        for structure in structures:
            single = Particles(self.model, self.guide, structure, self.dim, "loop")
            try:
                self._run(single, small)
                if len(small[0]) == self._checked:  # too few to have been cut
                    self._run(single, tuple(torch.cat([t, t]) for t in batch))
            except PvaeError:
                continue
            return small
        self.bound = True  # to the size of its batch
        return batch

    def _run(self, single: Particles, batch: tuple[Tensor, ...]) -> None:
        guide_trace, size = single.guide(batch, 1), len(batch[0])
        single.log_terms(guide_trace, 1, size, observed=False)
        single.log_terms(single.model(batch, 1, guide_trace), 1, size)

    def _choose_enumeration(self, small: tuple[Tensor, ...]) -> None:
        """Sums discrete sites out one value at a time where a program does not broadcast."""
        if not self.structure.enumerated or self.structure.together_only:
            return
        parallel = self._particles("loop")
        looped = dataclasses.replace(self.structure, one_by_one=True)
        one_by_one = Particles(self.model, self.guide, looped, self.dim, "loop")
        fault = find_enumeration_fault(parallel, one_by_one, small)
        if fault is not None:
            self.structure = looped
            names = listed(self.structure.enumerated)
            warnings.warn(
                f"{names}: summed out one value at a time, because {fault}. Let the networks take "
                'labels with more dimensions, or mark the site "sequential" in the guide.',
                stacklevel=5,
            )
        elif not broadcasts_given(parallel, one_by_one, small):
            self.structure = dataclasses.replace(self.structure, one_by_one_given=True)

    def _choose(self, small: tuple[Tensor, ...], wanted: Strategy) -> str:
        self._choose_enumeration(small)
        single = self._particles("loop")
        refuse_mixing(single, small)
        refuse_other_jacobian(single, small)
        faults = []
        for how in ("plate", "tile", "loop"):
            if wanted not in ("auto", how):
                continue
            fault = None if how == "loop" else find_fault(self._particles(how), single, small)
            if fault is None:
                if faults:
                    warnings.warn(f"log_weights uses a {how}: {'; '.join(faults)}.", stacklevel=4)
                return how
            faults.append(f"{_TRIED[how]} {fault}")
        raise PvaeError(f"strategy={wanted!r} is not right for this pair: {faults[0]}.")


def _take(tensor: Tensor, most: int) -> Tensor:
    """The first few data; a lone datum would broadcast, so that fewer than four are repeated."""
    return tensor[:most] if len(tensor) >= 4 else torch.cat([tensor] * 4)[:4]
