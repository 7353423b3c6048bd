"""The identity of an evaluation: its numbers of samples, its data and its pair."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
from torch import Tensor

from pvae.data import BINARY, Data, Split
from pvae.distributions import is_discrete
from pvae.errors import PvaeError
from pvae.evaluation.work import fingerprint
from pvae.importance import Sampler, seed_unit
from pvae.pair import Structure, TensorSplit, mask_of, modules
from pvae.runtime import whole

__all__ = ["check_counts", "choose", "describe", "discretised", "fingerprint_of"]

_BOUNDS = (1, 5, 50, 500, 5000)


def check_counts(num_samples: int | Sequence[int], num_data: int | None = None) -> list[int]:
    """Checks the numbers of samples and data, and returns the K of the bounds, increasing.

    Raises:
        PvaeError: If one is not an integer or is too small, or if the K do not increase.
    """
    if num_data is not None:
        whole("num_data", num_data)
    if not isinstance(num_samples, Sequence) or isinstance(num_samples, str):
        num_samples = whole("num_samples", num_samples)
        return [k for k in _BOUNDS if k < num_samples] + [num_samples]
    why = "the numbers of samples K must be at least 1 and increase, as in [1, 10, 100]"
    ks = [whole("num_samples", k, why=why) for k in num_samples]
    if not ks or any(a >= b for a, b in itertools.pairwise(ks)):
        raise PvaeError(f"num_samples={ks}: {why}.")
    return ks


def choose(size: int, num_data: int | None) -> np.ndarray | None:
    """Returns the rows to evaluate, sorted, the same for every seed; None for all.

    A smaller choice is a subset of a larger one.
    """
    if num_data is None or num_data >= size:
        return None
    return np.sort(np.random.default_rng(0).permutation(size)[:num_data])


def describe(data: Any, part: Split | TensorSplit) -> dict[str, Any]:
    """Returns name, observation and hash of the data."""
    described: dict[str, Any] = {"name": "tensor", "observation": "as given", "hash": part.hash}
    if isinstance(data, Data):
        described |= {"name": data.name, "observation": data.observation}
    return described


def discretised(data: Any, structure: Structure, size: int) -> tuple[dict[str, int], str | None]:
    """Returns the dimensions and levels that turn log p(x) into bits, or why they would mislead.

    Both are empty if x has no levels. Discrete x needs a discrete likelihood, dequantised x a
    density.

    Args:
        data: What is evaluated.
        structure: The structure of the pair.
        size: B, the data of the structure's traces.
    """
    if not isinstance(data, Data) or len(structure.observed) != 1:
        return {}, None
    (name,) = structure.observed
    site = structure.model_trace.nodes[name]
    levels = 2 if data.observation in BINARY else data.levels
    if levels is None or is_discrete(site["fn"]) == (data.observation == "dequantize"):
        return {}, None
    dims, seen, mask = math.prod(data.event_shape), site["value"].numel() // size, mask_of(site)
    if mask is not None and not (mask.numel() == 1 and mask.all()):
        return {}, (
            f"Site {name!r} has a mask, so log p(x) may not be of all {dims} dimensions of x, and "
            "bits per dimension would look too few."
        )
    if seen != dims:
        return {}, (
            f"Site {name!r} has {seen} values for each datum, and x has {dims} dimensions, so bits "
            "per dimension would be wrong."
        )
    return {"dims": dims, "levels": levels}, None


def fingerprint_of(sampler: Sampler, batch: tuple[Tensor, ...]) -> list[Any]:
    """Returns a hash of a pair's parameters and buffers, and its log weights of some data.

    The log weights also depend on constants that are not parameters. They are rounded, because
    their last digits depend on the number of threads.
    """
    programs, structure = (sampler.model, sampler.guide), sampler.structure
    own = [t for m in modules(*programs).values() for t in m.state_dict().values()]
    store = pyro.get_param_store()
    traces = (structure.guide_trace, structure.model_trace)
    named = {n for t in traces for n, node in t.nodes.items() if node["type"] == "param"}
    stored = [store[name] for name in sorted(named & set(store.keys()))]
    with sampler:
        seed_unit(0, 0, purpose=9)
        draws = next(sampler.stream(batch, 1))
    sums = [draws.log_w, draws.rate, *draws.kl.values()]
    return [fingerprint([*own, *stored]), *(f"{float(t.double().sum()):.5g}" for t in sums)]
