"""Draws samples of a pair, unit by unit, in chunks that fit into memory."""

import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pvae.importance.chunks import ChunkedModel, bytes_per_row, fastest
from pvae.importance.inner import numel_of_terms
from pvae.importance.layout import Layout, Strategy, lay_out
from pvae.importance.particles import Particles
from pvae.importance.seeds import seed_unit
from pvae.importance.terms import Draws, add_up
from pvae.pair import (
    Inspection,
    latent_sites,
    observed_sites,
    quiet,
    refuse_other_measure,
    refuse_unbounded,
    refuse_unlisted,
)
from pvae.runtime import (
    Chunks,
    Precision,
    backends_in,
    check_memory,
    keep_freed_memory,
)

__all__ = ["Sampler"]

MIB = 2**20
_PIECE = 1024  # rows of one draw from the prior on a CPU
_HOST = 32, 2**20  # data and log weights held at a time: 8 MiB in double precision
_DEVICE = 256, 2**25  # on a GPU, which few data do not fill: 256 MiB


class Sampler:
    """Draws samples of one pair with a layout that was checked; use as a context.

    Inside the context the pair is in eval mode, keeps its own parameters, is not validated by
    Pyro and not differentiated, and products are computed in float32.

    Work is cut into *units* of samples that are drawn together. Their size depends on the pair
    alone, so that a unit's samples never depend on how it is computed. The model of a unit runs in
    *chunks* of `rows` rows (samples times data), chosen by memory and speed.

    Args:
        inspection: The pair, on some data that it is checked with.
        strategy: See `log_weights`.
        memory: MiB for the weights and activations of a chunk; the default is 64 on a CPU.

    Attributes:
        strategy: `"plate"`, `"tile"` or `"loop"`.
        structure: That of the pair.
        bound: Whether the pair only runs with as many data as it was checked with.
        usual_rows: Rows of a chunk if `memory` is not given.
        chunks: Runs the model in chunks.
    """

    def __init__(
        self, inspection: Inspection, *, strategy: Strategy = "auto", memory: float | None = None
    ) -> None:
        check_memory(memory)
        self._precision: Precision = "float32"
        self.model, self.guide = inspection.model, inspection.guide
        self.plate, self.dim = inspection.plate, inspection.dim
        self._checked, device = inspection.size, inspection.batch[0].device
        refuse_unbounded(inspection)
        refuse_other_measure(inspection.structure)
        refuse_unlisted(inspection.structure)
        for remark in inspection.structure.remarks:
            warnings.warn(remark, stacklevel=3)
        with (
            quiet(self.model, self.guide),
            backends_in("float32"),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            layout = lay_out(inspection, strategy)
            self.strategy, self.structure, self.bound = layout.how, layout.structure, layout.bound
            self.particles = self.particles_by(self.strategy)
            self._terms_numel = numel_of_terms(self.particles, layout.small)
            self._set_chunks(layout, device, memory)

    def particles_by(self, how: str) -> Particles:
        """Returns the `Particles` of the pair in a layout."""
        return Particles(self.model, self.guide, self.structure, self.dim, how)

    def __enter__(self) -> "Sampler":
        with contextlib.ExitStack() as entered:
            entered.enter_context(quiet(self.model, self.guide))
            entered.enter_context(backends_in("float32"))
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)

    @contextlib.contextmanager
    def lowered(self, precision: Precision) -> Iterator[None]:
        """Computes the model's products for `stream` in another precision, inside this context."""
        kept = self._model
        self._precision = precision
        self._model = ChunkedModel(self.particles, self.chunks, precision=precision)
        try:
            yield
        finally:
            self._model, self._precision = kept, "float32"

    @contextlib.contextmanager
    def tuned(
        self, batch: tuple[Tensor, ...], num_samples: int, *, compiled: bool
    ) -> Iterator[None]:
        """Uses the fastest chunk size for batches of one size, inside this context.

        A few sizes are timed on some samples; sizes that change the last digits are skipped. This
        pays from a million rows on, and compiling from ten million. Compiled chunks have other last
        digits, which do not depend on the size of a chunk. A loop is not compiled.

        Args:
            batch: B data to time.
            num_samples: Samples that will be drawn for each datum.
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
        most = min(self.unit(batch), num_samples)
        first = min(rows, self._cached_rows) if compiled else rows
        sizes = (min(rows, n) for n in (first, first // 2, 2 * first if compiled else first // 4))
        counts = [min(max(1, n // size), most) for n in sizes]
        with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
            num = min(most, 2 * max(counts))
            draws = self.particles.guide(batch, num)
        models = (
            ChunkedModel(
                self.particles, Chunks(count * size), most if compiled else 0, self._precision
            )
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
            seed: If given, each unit has its own seed, made of this one, its first datum and its
                first sample.
        """
        if set(self.structure.latent) <= set(self.structure.enumerated):
            # Nothing is sampled: all weights are equal, and exact.
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
        step = self.piece(size)
        for start in range(0, num_samples, step):
            num = min(step, num_samples - start)
            seed_unit(seed, first, start, purpose=1)
            trace = self.particles.prior(batch, num, enumerate=True)
            terms = self.particles.log_terms(trace, num, size)
            yield self.particles.sum_out(term for name, term in terms.items() if name in summed)

    def unit(self, batch: tuple[Tensor, ...]) -> int:
        """Returns how many samples for each datum of a batch are drawn together."""
        floats, most = (2**20, 2**15) if self._on_cpu else (2**25, 2**20)
        numel = max(self.latent_numel, self._terms_numel)
        return max(1, min(floats // numel, most) // len(batch[0]))

    def data_at_once(self, num_samples: int) -> int:
        """Returns how many data are evaluated together with K samples each.

        Few data with many samples need few encodings. A loop draws one sample of all data at a
        time, and needs many. The number depends on the device, but neither on the memory of a
        chunk nor on the processes.
        """
        data, weights = _HOST if self._on_cpu else _DEVICE
        most = max(data, 256) if self.strategy == "loop" else data
        return max(1, min(most, weights // num_samples))

    @property
    def latent_numel(self) -> int:
        """Number of latent values of one datum."""
        sites = latent_sites(self.structure.guide_trace) or latent_sites(self.structure.model_trace)
        numbers = [site["value"].numel() for site in sites.values()]
        return max(1, sum(numbers) // self._checked)

    def prior(self, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        """Draws the latents from p(z), as rows [num, B, *rest], except enumerated sites."""
        size = len(batch[0])
        step, parts = self.piece(size), []
        for start in range(0, num, step):
            n = min(step, num - start)
            parts.append(self.particles.rows_of(self.particles.prior(batch, n), n, size))
        return _joined(parts)

    def piece(self, size: int) -> int:
        """Returns how many samples of the prior are drawn at once for each of B data."""
        if self.strategy == "loop":
            return 1
        rows = min(_PIECE, self.usual_rows) if self._on_cpu else self.usual_rows
        return max(1, rows // size)

    def terms(
        self, batch: tuple[Tensor, ...], num: int, values: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the model's log density at given latents (rows), site by site."""
        if self.strategy == "loop" and num > 1:
            return _joined((self.terms(batch, 1, _sample(values, k)) for k in range(num)), -2)
        trace = self.particles.model(batch, num, values)
        return self.particles.log_terms(trace, num, len(batch[0]))

    def posterior(self, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        """Draws the latents from q(z|x), as rows [num, B, *rest], enumerated ones sampled too."""
        if self.strategy == "loop" and num > 1:
            return _joined(self.posterior(batch, 1) for _ in range(num))
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
            each = (_sample(values, k) for k in range(num))
            terms = (self.guide_terms(batch, 1, v, enumerate=enumerate) for v in each)
            return _joined(terms, -2)
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
        means = particles.means(guide_trace, num, size)
        return add_up(p, q, self.structure.enumerated, means, first, len(particles.inner))

    def _set_chunks(self, layout: Layout, device: torch.device, memory: float | None) -> None:
        self._small = layout.small
        # On a CPU 16 MiB for the largest site: larger chunks leave the cache and are several times
        # slower, in smaller ones Pyro's handlers dominate. On a GPU 256 MiB keep it busy.
        traces = (self.structure.guide_trace, self.structure.model_trace)
        sites = [s for t in traces for s in {**latent_sites(t), **observed_sites(t)}.values()]
        numel = max(1, max(site["value"].numel() for site in sites) // self._checked)
        self._on_cpu = on_cpu = device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        floats, self._most = (2**22, 2**13) if on_cpu else (2**26, 2**18)
        usual = min(max(floats // numel, 64), self._most)
        self._budget = MIB * (64 if on_cpu else 4096)
        if layout.most is None or self._budget // layout.most < usual:
            usual = max(1, min(usual, self._budget // self._bytes_per_row[0]))
        self.usual_rows = rows = usual
        if memory is not None:
            rows = max(1, min(self._most, int(memory * MIB) // self._bytes_per_row[0]))
        self.chunks = Chunks(rows)
        self._model = ChunkedModel(self.particles, self.chunks)
        # Compiled chunks have no handlers, so small ones pay: 4 MiB stay in the cache.
        self._cached_rows = max(2**20 // numel, 64) if on_cpu else self._most
        if on_cpu and not self._same_bits(layout.small, rows, usual):
            warnings.warn(
                "On this machine the last digits depend on the size of a chunk: with "
                f"memory={memory} they differ from those of the default.",
                stacklevel=4,
            )

    @functools.cached_property
    def _bytes_per_row(self) -> tuple[int, int]:
        with (
            quiet(self.model, self.guide),
            torch.random.fork_rng([] if self._on_cpu else [self._small[0].device]),
        ):
            return bytes_per_row(self.particles, self._small)

    @functools.cached_property
    def gradient_rows(self) -> int:
        """Rows of a chunk whose gradients are kept; `memory` does not change it.

        Gradients of convolutions are not the same bit for bit in chunks of another size.
        """
        return max(1, min(self._most, self._budget // self._bytes_per_row[1]))

    @functools.cached_property
    def gradient_chunks(self) -> Chunks:
        """Runs the model in chunks of `gradient_rows`."""
        return Chunks(self.gradient_rows)

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


def _sample(values: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    return {name: value[k : k + 1] for name, value in values.items()}


def _joined(parts: Iterable[dict[str, Tensor]], dim: int = 0) -> dict[str, Tensor]:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
