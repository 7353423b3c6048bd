"""Checks observed values: each has to lie in the support of its distribution."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Bernoulli, Categorical, Delta, Unit
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions.constraints import Constraint

from pvae.distributions import (
    Levels,
    inside,
    is_discrete,
    is_image,
    peeled,
    same_support,
    support_of,
)
from pvae.errors import PvaeError
from pvae.pair.measures import in_words, other_mask, other_measure
from pvae.pair.parameters import quiet
from pvae.pair.program import Program
from pvae.pair.structure import base_distribution, kind_of
from pvae.pair.together import trace_pair
from pvae.pair.traces import latent_sites, observed_sites

if TYPE_CHECKING:
    from pvae.data import Split
    from pvae.pair.tensors import TensorSplit

__all__ = [
    "bounded_sites",
    "check_data",
    "check_observed",
    "in_steps",
]

Sites = dict[str, dict[str, Any]]

_ROWS = 512  # data that are checked together
_AGAIN = 10  # calls with other latents, after which a support is taken not to depend on them


def bounded_sites(guide_trace: Trace, model_trace: Trace, batch: tuple[Tensor, ...]) -> set[str]:
    """Returns the sites whose values must be compared with their support at each call.

    These are latent sites whose supports differ in the two programs (except those of different
    measures), and observed sites with a support that may change, or with a value that is not an
    argument of the pair. `check_data` checks the other observed sites once.
    """
    found, in_model = set(), latent_sites(model_trace)
    for name, site in latent_sites(guide_trace).items():
        other = in_model.get(name)
        if other is None or other_measure(name, site, other):
            continue
        if not same_support(site["fn"], other["fn"]):
            found.add(name)
    given = {tensor.untyped_storage().data_ptr() for tensor in batch}
    for name, site in observed_sites(model_trace).items():
        fn, value = peeled(site["fn"]), site["value"]
        if isinstance(fn, Bernoulli):
            continue  # grey values are allowed, with a caveat
        support = support_of(fn)
        bounds = [] if support is None else [*vars(support).values()]
        moves = is_image(fn) or any(isinstance(bound, Tensor) for bound in bounds)
        if moves or value.untyped_storage().data_ptr() not in given:
            found.add(name)
    return found


def check_observed(
    name: str, site: dict[str, Any], sites_again: Callable[[], Sites], first: int = 0
) -> str | None:
    """Checks that observed values lie in the support of their distribution.

    Args:
        name: The site's name.
        site: The site in a call of the model.
        sites_again: Calls the model again, with other latents, and returns its observed sites.
        first: Number of the batch's first datum, for messages.

    Returns:
        Why the numbers are not a likelihood, if a Bernoulli observes grey values, else None.

    Raises:
        PvaeError: If values lie outside a support that does not depend on the latents.
    """
    found = _outside(site)
    if found is None or not found.any():
        return None
    fn, value = site["fn"], site["value"]
    value = value.expand(torch.broadcast_shapes(value.shape, fn.shape()))
    bad = value[found.expand(value.shape[: value.ndim - fn.event_dim])]
    flat = bad[bad.isfinite()] if bad.is_floating_point() else bad
    low, high = (float(flat.min()), float(flat.max())) if flat.numel() else (math.nan, math.nan)
    if isinstance(base_distribution(fn), Bernoulli) and low >= 0 and high <= 1:
        return (
            f"not a likelihood: site {name!r} has a Bernoulli distribution, and the data have grey "
            f"values between {low:g} and {high:g}, so the numbers are not log densities of any "
            "distribution of the data"
        )
    with torch.random.fork_rng([value.device] if value.is_cuda else []):
        for _ in range(_AGAIN):
            other = sites_again().get(name)
            if other is not None and not _same_question(site, other):
                return None  # the support depends on the latents: values outside have weight zero
    support = support_of(fn)
    each = support
    while hasattr(each, "base_constraint"):
        each = each.base_constraint
    at = _datum(found, site, first)
    if isinstance(each, Levels):
        raise PvaeError(
            f"Site {name!r}: {kind_of(fn)} has {each}, but there are observed values such as "
            f"{float(bad[~each.check(bad)][0]):g}, between {low:g} and {high:g}{at}. Give it the "
            "number of levels of the data (256 in 8-bit images, 17 in digits), and load the data "
            "unchanged, with observation='grey'."
        )
    advice = "Rescale or binarise the data, or choose a likelihood whose support contains them."
    counts = each.is_discrete and getattr(each, "lower_bound", None) == 0 and low >= 0
    if counts and (flat == flat.round()).all():
        advice = f"Give it {high + 1:g} values or more (levels={high + 1:g} of a head of pvae)."
    elif low == high == -1 and isinstance(base_distribution(fn), Categorical):
        advice = (
            "-1 marks an unknown label: keep the data whose label is known, as in "
            "part.take(part.known.nonzero()[:, 0]), or use a pair for labels that are known in "
            "part, such as pvae.models.M2."
        )
    raise PvaeError(
        f"Site {name!r}: observed values between {low:g} and {high:g} lie outside the support "
        f"({in_words(support)}) of {kind_of(fn)}{at}. {advice}"
    )


def check_data(
    model: Program,
    guide: Program,
    part: "Split | TensorSplit",
    device: torch.device,
    *,
    size: int,
    seen: int = 0,
) -> tuple[str | None, str | None]:
    """Checks the observed values and masks of all data, as `check` does for the first ones.

    Costs one call of the pair for each 512 data, without gradients. The random state is unchanged.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        part: N data.
        device: Where the pair is.
        size: B, a number of data with which the pair runs.
        seen: Number of data, from the first on, that have been checked already.

    Returns:
        A caveat (see `check_observed`) and the fault of a mask that differs in guide and model,
        each None if there is none.

    Raises:
        PvaeError: If an observed value lies outside its support. The message names datum and site.
    """
    caveat = fault = None
    devices = [device] if device.type == "cuda" else []
    with quiet(model, guide), torch.random.fork_rng(devices):
        where = part, device, size, seen
        for first, batch, (guide_trace, model_trace) in _calls(model, guide, *where):

            def again(batch: tuple[Tensor, ...] = batch) -> Sites:
                return observed_sites(trace_pair(model, guide, batch)[1])

            for name, site in observed_sites(model_trace).items():
                caveat = check_observed(name, site, again, first) or caveat
            in_model = latent_sites(model_trace)
            for name, site in latent_sites(guide_trace).items():
                if name in in_model and fault is None:
                    fault = other_mask(name, site, in_model[name])
                    fault = fault and f"In the data from number {first} on: {fault}"
    return caveat, fault


def _calls(
    model: Program,
    guide: Program,
    part: "Split | TensorSplit",
    device: torch.device,
    size: int,
    seen: int,
) -> Iterator[tuple[int, tuple[Tensor, ...], tuple[Trace, Trace]]]:
    """Runs a pair on all data not yet seen, in large batches if it can."""
    start, rows = seen, max(size, _ROWS)
    while start < len(part):
        stop = min(start + rows, len(part))
        first = start if rows > size else max(0, stop - size)
        batch = tuple(t.to(device) for t in part.observe(slice(first, stop)))
        try:
            yield first, batch, trace_pair(model, guide, batch)[:2]
        except PvaeError:
            if rows == size:
                raise
            rows = size  # the pair runs only with its own batch size
            continue
        start = stop


def in_steps(name: str, site: dict[str, Any]) -> str | None:
    """Returns a caveat if a continuous density is used for values in equal steps."""
    fn, value = site["fn"], site["value"]
    base = base_distribution(fn)
    if isinstance(base, Delta | Unit) or not value.is_floating_point() or is_discrete(fn):
        return None
    known = value[value.isfinite()].double()
    steps = known.unique()
    # Measured values hardly ever repeat; levels do, each of them many times.
    if not 2 <= len(steps) <= 256 or known.numel() < 8 * len(steps):
        return None
    low, step = steps[0], steps.diff().min()
    k = (steps - low) / step
    if not ((k - k.round()).abs() < 0.02).all() or k[-1] > 255.5:
        return None
    return (
        f"not a likelihood: site {name!r} has a {kind_of(fn)} density, which is for continuous "
        f"values, and the data take {len(steps)} values in steps of {float(step):.3g}; the numbers "
        "are log densities at these points, which grow without bound as the scale shrinks, and "
        "not log probabilities"
    )


def _outside(site: dict[str, Any]) -> Tensor | None:
    found = inside(site["fn"], site["value"], observed=True)
    if found is None:
        return None
    outside = ~found
    if site["mask"] is not None:
        outside = outside & torch.as_tensor(site["mask"], device=outside.device)
    return outside


def _datum(found: Tensor, site: dict[str, Any], first: int) -> str:
    """Names the first datum outside the support."""
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and found.ndim >= -frame.dim and found.shape[frame.dim] > 1:
            rows = found.movedim(frame.dim, 0).reshape(found.shape[frame.dim], -1).any(1)
            return f", first in datum {first + int(rows.nonzero()[0])}"
    return f", in datum {first}" if first else ""


def _same_question(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two calls compare the same values with the same bounds."""
    if not torch.equal(a["value"], b["value"]):
        return False
    return _same_bounds(support_of(a["fn"]), support_of(b["fn"]))


def _same_bounds(a: Any, b: Any) -> bool:
    pairs = [(value, vars(b).get(key)) for key, value in vars(a).items()]
    return all(
        _same_bounds(x, y) if isinstance(x, Constraint) and isinstance(y, Constraint)
        else not isinstance(x, Tensor) or (isinstance(y, Tensor) and torch.equal(x, y))
        for x, y in pairs
    )  # fmt: skip
