"""What one does with a trained pair: encode, reconstruct, generate, decode."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.environment import own_random_state
from pvae.errors import PvaeError, first_line
from pvae.pair import (
    OwnParameters,
    Program,
    evaluating,
    latent_sites,
    modules,
    name_of,
    observed_sites,
    trace_guide,
    trace_model,
    trace_program,
)

if TYPE_CHECKING:
    from pvae.data import Data, Part

__all__ = ["Codes", "decode", "encode", "generate", "reconstruct"]

_BATCH = 1000


class Codes(dict[str, NDArray[Any]]):
    """The codes of a part of data: for each latent site, an array [N, *event].

    Attributes:
        y: Labels [N], or None where the data have none.
    """

    def __init__(self, sites: dict[str, NDArray[Any]], y: NDArray[Any] | None = None) -> None:
        super().__init__(sites)
        self.y = y

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {list(code.shape)}" for name, code in self.items())
        return f"Codes({shapes}; {'no labels' if self.y is None else 'labels in .y'})"


@overload
def encode(guide: Program, data: "Data | Part", /) -> Codes: ...
@overload
def encode(guide: Program, *batch: Tensor) -> dict[str, Tensor]: ...
def encode(guide: Program, *batch: Any) -> Codes | dict[str, Tensor]:
    """Returns E[z] under q(z|x) for every latent site of a guide: the codes of the data.

    The code of a discrete site is its most probable value. Where no mean is known in closed form,
    the code is the mode, or the mean of the base carried through the transforms (of a flow), or
    else a draw. In a hierarchy each layer is encoded given the codes of those before it. A part
    that is drawn anew for each minibatch is drawn once. Every call gives the same codes.

    Args:
        guide: Pyro program q(z|x); one that gives a point (a Delta) has that point as its code.
        *batch: One batch, tensors of leading size B; or a part of data, such as
            `data.train`, which is encoded in minibatches. Of a `pvae.data.Data` the test part.

    Returns:
        For a batch, a dict with a tensor [B, *event] for each site. For a part, one with NumPy
        arrays [N, *event], which has the labels, where there are any, as `.y`.

    Raises:
        PvaeError: If the guide fails, or a latent site of it is not one for each datum.

    Example:
        >>> import torch
        >>> import pvae
        >>> guide = pvae.guides.MeanField((1, 8, 8))
        >>> pvae.encode(guide, torch.zeros(5, 1, 8, 8))["z"].shape
        torch.Size([5, 20])
        >>> digits = pvae.data.load("digits")
        >>> codes = pvae.encode(guide, digits.test)
        >>> codes["z"].shape, codes.y.shape
        ((297, 20), (297,))
    """
    if len(batch) == 1 and not isinstance(batch[0], Tensor):
        part = getattr(batch[0], "test", batch[0])
        if not hasattr(part, "batches"):
            raise PvaeError(
                f"encode takes tensors or a part of data, not {type(part).__name__}. Hand in "
                "what the guide is called with, or data.train or data.test."
            )
        with own_random_state(0):
            found = [_codes_of_data(guide, minibatch) for minibatch in part.batches(_BATCH)]
        sites = {name: np.concatenate([codes[name] for codes in found]) for name in found[0]}
        y = getattr(part, "y", None)
        return Codes(sites, None if y is None else y.cpu().numpy())
    with own_random_state(0):
        return _codes(guide, batch)


def _codes(guide: Program, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with _quiet(guide, guide):
        sites = latent_sites(_trace_at_means(guide, _beside(guide, batch)))
        return {name: site["value"] for name, site in sites.items()}


def _codes_of_data(guide: Program, batch: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    codes = _codes(guide, batch)
    for name, code in codes.items():
        if not code.ndim or len(code) != len(batch[0]):
            raise PvaeError(
                f"Site {name!r} of the guide {name_of(guide)} has shape {tuple(code.shape)} for "
                f"{len(batch[0])} data: it is not a code of each datum. Encode a batch of "
                "tensors to see it."
            )
    return {name: code.cpu().numpy() for name, code in codes.items()}


def draw_codes(guide: Program, part: "Part") -> dict[str, NDArray[Any]]:
    """Returns a draw from q(z|x) for each datum of a part: for each site, an array [N, *event]."""
    found = []
    with own_random_state(0):
        for batch in part.batches(_BATCH):
            with _quiet(guide, guide):
                sites = latent_sites(trace_guide(guide, *_beside(guide, batch)))
            found.append({name: site["value"].cpu().numpy() for name, site in sites.items()})
    return {name: np.concatenate([draws[name] for draws in found]) for name in found[0]}


def prior_sites(model: Program) -> list[str]:
    """Returns the sites of a model in the order that it draws them, the data's the last."""
    with _quiet(model, model), own_random_state(0):
        return list(latent_sites(_run_without_data(model, 2)))


def reconstruct(model: Program, guide: Program, *batch: Tensor) -> Tensor:
    """Returns the mean of p(x|z) with z at the code that `encode` gives.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: The data, tensors of leading size B.

    Returns:
        Tensor [B, *event], the mean of the first observed site.

    Raises:
        PvaeError: If a program fails.

    Example:
        >>> import torch
        >>> from pvae import guides, models, reconstruct
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> reconstruct(*pair, torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """
    batch = _beside(guide, batch)
    with _quiet(model, guide), own_random_state(0):
        guide_trace = _trace_at_means(guide, batch)
        return _observed_mean(model, trace_model(model, guide_trace, *batch))


def generate(model: Program, size: int, *, seed: int = 0) -> Tensor:
    """Draws latents from the prior and returns the means of p(x|z).

    Args:
        model: Pyro program that generates when called as `model(size=n)`.
        size: n, the number of samples.
        seed: Seed of the draws.

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: If the model cannot be called without data.

    Example:
        >>> from pvae import generate, models
        >>> generate(models.VAE((1, 8, 8)), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    with _quiet(model, model), own_random_state(seed):
        return _observed_mean(model, _run_without_data(model, size))


def decode(model: Program, latents: dict[str, Tensor]) -> Tensor:
    """Returns the means of p(x|z) for given latents.

    A latent site that is not given is at its prior mean, given those above it: in a hierarchy
    the top alone can be given.

    Args:
        model: Pyro program that generates when called as `model(size=n)`.
        latents: For each latent site, its values [n, *event].

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: If the model cannot be called without data, or has no site of such a name.
    """
    size = len(next(iter(latents.values())))
    latents = dict(zip(latents, _beside(model, tuple(latents.values())), strict=True))
    with _quiet(model, model), own_random_state(0), _AtMeans(), poutine.condition(data=latents):
        trace = _run_without_data(model, size)
    if unknown := [name for name in latents if name not in trace.nodes]:
        raise PvaeError(
            f"The model {name_of(model)} has no site {unknown[0]!r}; its sites are "
            f"{', '.join([*latent_sites(trace), *observed_sites(trace)])}."
        )
    return _observed_mean(model, trace, given=set(latents))


def _beside(program: Program, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Moves a batch to the device of a program's parameters, where `fit` may have put them."""
    for module in modules(program, program).values():
        for parameter in module.parameters():
            return tuple(tensor.to(parameter.device) for tensor in batch)
    return batch


@contextlib.contextmanager
def _quiet(model: Program, guide: Program) -> Iterator[None]:
    with (
        evaluating(model, guide),
        OwnParameters(model, guide),
        pyro.validation_enabled(False),
        torch.no_grad(),
    ):
        yield


def _run_without_data(model: Program, size: int) -> Trace:
    try:
        return poutine.trace(model).get_trace(size=size)
    except Exception as error:
        raise PvaeError(
            f"The model {name_of(model)} cannot generate: model(size=n) raised "
            f"{type(error).__name__}: {first_line(error)}. Give it "
            "x=None and size as arguments to see samples."
        ) from error


def _observed_mean(model: Program, trace: Trace, given: frozenset[str] | set[str] = frozenset()):
    sites = observed_sites(trace)
    known = [name for name in sites if name not in given]
    if not known:  # generating, the data's site is the last one that was drawn
        drawn = list(latent_sites(trace))
        if not drawn:
            raise PvaeError(f"The model {name_of(model)} has no sample site to show.")
        return _mean(trace.nodes[drawn[-1]])
    return _mean(sites[known[0]])


def _mean(site: dict[str, Any]) -> Tensor:
    try:
        return site["fn"].mean.expand_as(site["value"])
    except (NotImplementedError, AttributeError, RuntimeError):
        return site["value"]


class _AtMeans(Messenger):
    """Puts every latent site at its mean, as the program runs: what comes later depends on it."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"] = _centre(msg["fn"])


def _centre(fn: Any) -> Tensor | None:
    """Returns the mean of a distribution, else its mode, else what its base's centre becomes.

    Of a discrete one the mode comes first: the mean is not one of its values.
    """
    discrete, shape = _is_discrete(fn), fn.batch_shape + fn.event_shape
    for name in ("mode", "mean") if discrete else ("mean", "mode"):
        with contextlib.suppress(NotImplementedError, AttributeError, RuntimeError):
            value = getattr(fn, name).expand(shape)
            if discrete and name == "mode":
                value = value.nan_to_num()  # torch has NaN where 0 and 1 are as probable
            if not value.isnan().any():
                return value
    value = _centre(fn.base_dist) if hasattr(fn, "base_dist") else None
    if value is not None:
        for transform in getattr(fn, "transforms", ()):
            value = transform(value)
        return value.expand(shape)
    return None


def _is_discrete(fn: Any) -> bool:
    with contextlib.suppress(NotImplementedError, AttributeError):
        return fn.support.is_discrete
    return False


def _trace_at_means(guide: Program, batch: tuple[Tensor, ...]) -> Trace:
    with _AtMeans():
        return trace_program("guide", guide, guide, batch)
