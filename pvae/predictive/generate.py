"""Means of x given codes from the prior, from the guide or from the caller."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from torch import Tensor, nn

from pvae.errors import PvaeError, first_line
from pvae.pair import (
    Bounded,
    Program,
    alone,
    base_distribution,
    latent_sites,
    name_of,
    observed_sites,
    quiet,
    runs_together,
    trace_model,
    trace_of,
    trace_program,
    with_densities,
)
from pvae.predictive.at_means import AtMeans, given_to, place_of, trace_at_means
from pvae.runtime import is_out_of_memory, own_random_state

__all__ = ["decode", "generate", "prior_sites", "reconstruct"]


def prior_sites(model: Program, *batch: Any) -> list[str]:
    """Returns the sites of a model in the order in which it draws them, the data last."""
    with quiet(model, model), own_random_state(0):
        return list(_drawn(_run_without_data(model, 2, batch)))


@alone
def reconstruct(
    model: Program, guide: Program, *batch: Any, site: str | None = None, **kwargs: Any
) -> Tensor:
    """Returns the mean of p(x|z) with z at the code that `encode` gives.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: The data, tensors of leading size B, and what else the programs take, as for
            `pvae.check`.
        site: Whose mean; None is the observed site with the most values for each datum.
        **kwargs: Arguments of the programs by name.

    Returns:
        Tensor [B, *event].

    Raises:
        PvaeError: If a program fails, or the model has no such site.

    Example:
        >>> import torch
        >>> from pvae import guides, models, reconstruct
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> reconstruct(*pair, torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """
    with own_random_state(0):
        (model, guide), batch = given_to(batch, kwargs, model, guide)
        with quiet(model, guide):
            guide_trace = trace_at_means(guide, batch)
            with _one_label(model, batch):
                trace = trace_model(model, guide_trace, *batch)
            return _mean_of(model, trace, site)


@alone
def generate(
    model: Program,
    size: int,
    *batch: Any,
    site: str | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    """Draws latents from the prior and returns the means of p(x|z).

    A model that cannot be called as `model(size=n)` is called with the batch, and its
    observations are taken away, as `pyro.infer.Predictive` does. Of the batch there it takes
    what its programs read beside the observations: shapes, labels and other conditions.

    Args:
        model: Pyro program p(z) p(x|z).
        size: n, the number of samples.
        *batch: Arguments as the model is trained with, for a model without `size`; its rows are
            repeated, or left out, to n. A model that reads no more of its arguments than how
            many data they are needs none.
        site: Whose mean; None is the observed site with the most values for each datum.
        seed: Seed of the draws.
        **kwargs: Arguments of the model by name.

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: If the model needs a batch, has no such site, gives another number of data,
            or reads the very data that it observes, as an autoregressive decoder does.

    Example:
        >>> from pvae import generate, models
        >>> generate(models.VAE((1, 8, 8)), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    if size < 1:
        raise PvaeError(f"size={size}: at least one sample is needed.")
    with own_random_state(seed), quiet(model, model):
        return _mean_of(model, _run_without_data(model, size, batch, kwargs), site, size)


@alone
def decode(
    model: Program, latents: dict[str, Tensor], *batch: Any, site: str | None = None, **kwargs: Any
) -> Tensor:
    """Returns the means of p(x|z) for given latents.

    A latent site that is not given is at its prior mean, given those above it: in a hierarchy
    the top alone can be given.

    Args:
        model: Pyro program p(z) p(x|z).
        latents: For each latent site, its values [n, *event].
        *batch: As for `generate`.
        site: As for `generate`.
        **kwargs: As for `generate`.

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: As `generate`; or if the model has no site of such a name.

    Example:
        >>> import torch
        >>> from pvae import decode, models
        >>> model = models.VAE((1, 8, 8), latent_dim=2)
        >>> decode(model, {"z": torch.zeros(3, 2)}).shape
        torch.Size([3, 1, 8, 8])
    """
    if not isinstance(latents, Mapping) or not latents:
        raise PvaeError("latents: give a dict of tensors by site, as in {'z': z}.")
    size, place = len(next(iter(latents.values()))), place_of(model)
    latents = {name: value.to(place or value.device) for name, value in latents.items()}
    with quiet(model, model), own_random_state(0), AtMeans(), poutine.condition(data=latents):
        trace = _run_without_data(model, size, batch, kwargs)
    if unknown := [name for name in latents if name not in trace.nodes]:
        raise PvaeError(
            f"The model {name_of(model)} has no site {unknown[0]!r}; its sites are "
            f"{', '.join([*_drawn(trace), *observed_sites(trace)])}."
        )
    return _mean_of(model, trace, site, size, given=set(latents))


@contextlib.contextmanager
def _one_label(model: Program, batch: tuple[Tensor, ...]) -> Iterator[None]:
    """Explains why a model that only runs under enumeration has no mean."""
    try:
        yield
    except PvaeError as error:
        if _runs(model, batch) or not runs_together(model, batch):
            raise
        raise PvaeError(
            f"The model {name_of(model)} runs for all values of its discrete sites at once only, "
            "under enumeration, so that it has no mean for one of them. Let its networks take one "
            "label for each datum too (a repeat by the number of labels does not); evaluation and "
            f"training do without. With one label for each datum: {error}"
        ) from error


def _runs(model: Program, batch: tuple[Tensor, ...]) -> bool:
    try:
        trace_program("model", model, model, batch)
    except PvaeError:
        return False
    return True


def _run_without_data(
    model: Program, size: int, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Trace:
    """Runs a model on n data that it draws itself."""
    try:
        bounded = Bounded()(model)
        return with_densities(poutine.trace(bounded).get_trace(size=size, **(kwargs or {})))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        without = error
    if not args and not kwargs:
        return _run_on_stand_ins(model, size, without)
    (bound,), batch = given_to(args, kwargs or {}, model)
    rows = torch.arange(size, device=batch[0].device) % len(batch[0])
    batch = tuple(tensor[rows.to(tensor.device)] for tensor in batch)
    with _one_label(bound, batch):
        trace = trace_program("model", model, poutine.uncondition(bound), batch)
    _refuse_reading(model, bound, trace, batch)
    return trace


def _run_on_stand_ins(model: Program, size: int, without: Exception) -> Trace:
    """Runs a model without its observations, on arguments that only tell n."""
    forward = model.forward if isinstance(model, nn.Module) else model
    try:
        given = inspect.signature(forward).parameters.values()
        count = sum(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in given)
        stand_ins = [_StandIn.of(size) for _ in range(count)]
        bounded = Bounded()(poutine.uncondition(model))
        return poutine.trace(bounded).get_trace(*stand_ins)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise PvaeError(
            f"The model {name_of(model)} cannot generate: model(size=n) raised "
            f"{type(without).__name__}: {first_line(without)}. Hand in some data after the size, "
            "generate(model, n, x), to have its observations taken away; or give it x=None and "
            "size as arguments."
        ) from without


class _StandIn(Tensor):
    """A tensor that only tells its number of data; reading anything else fails."""

    @classmethod
    def of(cls, size: int) -> "_StandIn":
        return torch.full((size,), torch.nan).as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = Tensor.__len__, Tensor.shape.__get__, Tensor.device.__get__, Tensor.dtype.__get__
        first = func == Tensor.size and args[1:] in ((), (0,))
        if not first and func not in (*known, Tensor.new_zeros, Tensor.new_ones):
            raise PvaeError("the model reads its arguments")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return _Sizes(len(args[0])) if isinstance(found, torch.Size) else found


class _Sizes:
    """The shape of a stand-in: only its first size is known."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __getitem__(self, index: Any) -> int:
        if index != 0:
            raise PvaeError("the model reads the shape of its arguments")
        return self._first


def _refuse_reading(
    model: Program, bound: Program, trace: Trace, batch: tuple[Tensor, ...]
) -> None:
    """Raises a PvaeError if an observed site's density depends on the observed data.

    Data from a model that reads what it observes are drawn one value after the other; with the
    observation taken away it would still see the batch.
    """
    for name, site in _drawn(trace).items():
        old = site["infer"].get("obs")
        if not isinstance(old, Tensor) or not old.numel():
            continue
        other, value = list(batch), site["value"]
        for i, tensor in enumerate(batch):
            if tensor.numel() == old.numel() == value.numel() and torch.equal(
                tensor.reshape(old.shape).to(old.dtype), old
            ):
                other[i] = value.reshape(tensor.shape).to(tensor.dtype)
        if all(a is b for a, b in zip(other, batch, strict=True)):
            continue
        values = trace_of({n: s["value"] for n, s in _drawn(trace).items()})
        replayed = poutine.replay(poutine.uncondition(bound), trace=values)
        again = trace_program("model", model, replayed, tuple(other)).nodes[name]
        ours, theirs = (n["fn"].log_prob(value) for n in (site, again))
        if not torch.allclose(ours, theirs, 1e-3, 1e-3, equal_nan=True):
            raise PvaeError(
                f"The model {name_of(model)} cannot generate: the density of site {name!r} changes "
                "with the data that it observes, as that of an autoregressive decoder does. Give "
                "the model x=None and size as arguments, and let it draw one value after the other."
            )


def _drawn(trace: Trace) -> dict[str, dict[str, Any]]:
    """Returns the sites that a model drew, without `pyro.deterministic` ones."""
    sites = latent_sites(trace).items()
    return {name: site for name, site in sites if not site["infer"].get("_deterministic")}


def _mean_of(
    model: Program,
    trace: Trace,
    site: str | None,
    size: int | None = None,
    given: frozenset[str] | set[str] = frozenset(),
) -> Tensor:
    """Returns the mean of a site, or of the observed site with the most values."""
    sites = {**_drawn(trace), **observed_sites(trace)}
    sites = {n: s for n, s in sites.items() if not isinstance(base_distribution(s["fn"]), Unit)}
    if site is not None:
        if site not in sites:
            raise PvaeError(
                f"The model {name_of(model)} has no site {site!r}; its sites are "
                f"{', '.join(sites)}."
            )
        return _mean(sites[site])
    sites = {name: each for name, each in sites.items() if name not in given}
    if not sites:
        raise PvaeError(f"The model {name_of(model)} has no sample site to show.")
    shown = [s for s in sites.values() if s["is_observed"] or s["infer"].get("was_observed")]
    # A model that was called without data has drawn them last.
    chosen = max(shown, key=_numel) if shown else [*sites.values()][-1]
    rows = chosen["fn"].batch_shape
    if size is not None and rows and size not in rows:
        raise PvaeError(
            f"The model {name_of(model)} was asked for {size} data and gives {chosen['name']!r} "
            f"of batch shape {tuple(rows)}: it keeps a number of data of its own. Let its plate "
            'and its shapes follow its arguments, pyro.plate("data", len(x)), or ask for as '
            "many as it gives."
        )
    return _mean(chosen)


def _numel(site: dict[str, Any]) -> int:
    return site["value"].numel()


def _mean(site: dict[str, Any]) -> Tensor:
    try:
        return site["fn"].mean.expand_as(site["value"])
    except (NotImplementedError, AttributeError, RuntimeError):
        return site["value"]
