"""Computes the model's log densities for many samples in chunks, compiled if that is faster."""

import math
import time
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.compile import Graph, Replay, can_replay, in_words
from pvae.importance.particles import Particles
from pvae.runtime import (
    Chunks,
    LiveBytes,
    Precision,
    backends_in,
    in_precision,
    is_out_of_memory,
    rounding,
)

__all__ = ["TOLERANCE", "ChunkedModel", "CompiledModel", "bytes_per_row", "fastest"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, "tf32": 1e-3, "bf16": 1e-3}
"""Relative differences of compiled log densities that rounding explains, by precision."""


class ChunkedModel:
    """Runs a model on the draws of a guide, in chunks of samples.

    Args:
        particles: Runs the model with Pyro.
        chunks: Number of rows (samples times data) of a chunk.
        compiled: Largest number of samples of a compiled chunk, for batches of the first one's
            size; 0 does not compile.
        precision: Of the model's products.

    Attributes:
        chunks: As given.
        compiled: The graph for one size of batch, or None.
    """

    def __init__(
        self,
        particles: Particles,
        chunks: Chunks,
        compiled: int = 0,
        precision: Precision = "float32",
    ) -> None:
        self._particles, self.chunks, self._most = particles, chunks, compiled
        self._precision: Precision = precision
        self.compiled: CompiledModel | None = None

    def terms(self, draws: Trace, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        """Returns the log density of each site, [*enumerated, num, B], at a guide's draws."""
        size = len(batch[0])
        if self._most and self.compiled is None:
            self.compiled = CompiledModel(self._particles, size, self._most, self._precision)

        def run(start: int, stop: int) -> dict[str, Tensor]:
            if self.compiled is not None and size == self.compiled.size:
                found = self._by_graph(self.compiled, draws, batch, num, start, stop)
                if found is not None:
                    return found
            values = self._particles.cut(draws, start, stop, num, size)
            with in_precision(self._precision):
                model_trace = self._particles.model(batch, stop - start, values)
                return self._particles.log_terms(model_trace, stop - start, size)

        return self.chunks.run(num, size, run)

    def _by_graph(
        self,
        graph: "CompiledModel",
        draws: Trace,
        batch: tuple[Tensor, ...],
        num: int,
        start: int,
        stop: int,
    ) -> dict[str, Tensor] | None:
        # A graph has a fixed number of samples: the last chunk repeats some of the one before.
        count = min(max(1, self.chunks.rows // graph.size), graph.most)
        first = max(0, stop - count)
        if first + count > num:
            return None
        values = self._particles.cut(draws, first, first + count, num, graph.size)
        found = graph.terms(values, batch, count)
        return found and {n: t[..., start - first : stop - first, :] for n, t in found.items()}


def fastest(
    models: Iterable[ChunkedModel], draws: Trace, batch: tuple[Tensor, ...], num: int
) -> ChunkedModel:
    """Returns the model that is fastest on a guide's draws.

    Args:
        models: Chunks of several sizes. A model whose numbers differ from the first one's, even in
            the last digit, is not chosen.
        draws: Of the guide, `num` samples for each of B data.
        batch: B data.
        num: Number of samples.
    """
    best, expected, least = None, {}, math.inf
    for model in models:
        rows = model.chunks.rows
        terms = model.terms(draws, batch, num)  # compiles, and fills caches
        seconds = min(_seconds(model, draws, batch, num) for _ in range(3))
        expected = expected or terms
        same = all(torch.equal(term, expected[name]) for name, term in terms.items())
        if best is None or (same and seconds < least):
            best, least = model, seconds
        if model.chunks.rows < rows or (model.compiled and model.compiled.why_not):
            break  # memory is short, or the model cannot be compiled
    return best


def _seconds(model: ChunkedModel, draws: Trace, batch: tuple[Tensor, ...], num: int) -> float:
    start = time.perf_counter()
    term = next(iter(model.terms(draws, batch, num).values()))
    if term.is_cuda:
        torch.cuda.synchronize(term.device)
    return time.perf_counter() - start


class CompiledModel:
    """Runs a model compiled, for chunks of one number of samples and one size of batch.

    The caller runs other chunks, and models that cannot be recorded, eagerly. The compiler fuses a
    likelihood with the sum over its event, so that of [K, B, *event] values only the network's
    output is written to memory.

    Args:
        particles: Runs the model with Pyro.
        size: B, the size of the batches that are compiled.
        most: Largest number of samples of a chunk.
        precision: Of the model's products.
    """

    def __init__(
        self, particles: Particles, size: int, most: int, precision: Precision = "float32"
    ) -> None:
        self._particles, self.size, self.most = particles, size, most
        self._precision: Precision = precision
        self._graph: Graph | Replay | None = None
        self._key: Any = None
        self._names: list[str] = []
        self._first: tuple[Tensor, ...] | None = None
        self._products: set[str] = set()
        self.why_not: str | None = None

    def terms(self, values: Trace, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor] | None:
        """Returns the log density of each site, [*enumerated, num, B]; None if it cannot.

        Args:
            values: The guide's draws.
            batch: The data.
            num: Number of samples.
        """
        if self.why_not is not None:
            return None
        latent = self._particles.structure.latent
        if any(hasattr(values.nodes[name]["value"], "_unquantize") for name in latent):
            return self._give_up("a straight-through sample holds more than its value")
        inputs = [*(values.nodes[name]["value"] for name in latent), *batch]
        key = num, [(t.shape, t.stride(), t.dtype) for t in inputs]
        if key != self._key:  # the first chunk, or memory was short and chunks are smaller now
            self._key = key
            self._record(values, batch, num, inputs)
        if self._graph is None:
            return None
        # The graph itself holds what bfloat16 changes: a mode would change it again.
        with backends_in(self._precision):
            found = self._graph(inputs)
        if self._first is not None and not _equal(batch, self._first):
            self._first = None
            if (wrong := self._difference(found, self._run(values, batch, num))) is not None:
                return self._give_up(f"{wrong} for other data than those of the first batch")
        return dict(zip(self._names, found, strict=True))

    def _run(self, values: Trace, batch: tuple[Tensor, ...], num: int) -> dict[str, Tensor]:
        with in_precision(self._precision):
            model_trace = self._particles.model(batch, num, values)
            return self._particles.log_terms(model_trace, num, len(batch[0]))

    def _record(
        self, values: Trace, batch: tuple[Tensor, ...], num: int, inputs: list[Tensor]
    ) -> None:
        run = lambda: self._run(values, batch, num)  # noqa: E731
        self._graph, self._first, expected = None, batch, run()
        self._names = list(expected)
        try:
            with backends_in(self._precision):
                graph = Graph(lambda: [t.contiguous() for t in run().values()], inputs)
                self._products = graph.products
                if can_replay(graph.device):
                    graph = Replay(graph, inputs)
                found = graph(inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._give_up(in_words(error))
            return
        if (wrong := self._difference(found, expected)) is not None:
            self._give_up(wrong)
            return
        self._graph = graph

    def _difference(self, found: list[Tensor], expected: dict[str, Tensor]) -> str | None:
        for name, ours in zip(self._names, found, strict=True):
            kind: Any = self._precision
            if kind != "bf16":
                with backends_in(self._precision):
                    kind = rounding(ours.dtype, self._products, ours.device)
            tolerance = TOLERANCE.get(kind, 1e-2)
            if not torch.allclose(ours, expected[name], tolerance, 10 * tolerance, equal_nan=True):
                return f"compiled, log {name} differs"
        return None

    def _give_up(self, why: str) -> None:
        self.why_not, self._graph = why, None
        warnings.warn(f"The model is evaluated without compiling it: {why}.", stacklevel=6)


def _equal(batch: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(a is b or torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def bytes_per_row(particles: Particles, batch: tuple[Tensor, ...]) -> tuple[int, int]:
    """Measures (live, made) bytes for each row of a call of the model.

    The difference between four samples and one leaves out what does not grow with them.
    """
    size = len(batch[0])
    if particles.how == "loop":
        peak, total = _measure(particles, batch, 1)
        return peak // size + 1, total // size + 1
    (low, least), (high, most) = (_measure(particles, batch, num) for num in (1, 4))
    return max(1, (high - low) // (3 * size)), max(1, (most - least) // (3 * size))


def _measure(particles: Particles, batch: tuple[Tensor, ...], num: int) -> tuple[int, int]:
    guide_trace = particles.guide(batch, num)
    with LiveBytes() as bytes_:
        particles.log_terms(particles.model(batch, num, guide_trace), num, len(batch[0]))
    return bytes_.peak, bytes_.total
