"""What one does with a trained pair: encode, reconstruct, generate, decode."""

import contextlib
from collections.abc import Iterator

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
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
)

__all__ = ["decode", "encode", "generate", "reconstruct"]


def encode(guide: Program, *batch: Tensor) -> dict[str, Tensor]:
    """Returns E[z] under q(z|x) for every latent site of a guide.

    A site whose distribution has no mean in closed form gives a draw instead.

    Args:
        guide: Pyro program q(z|x).
        *batch: The data, tensors of leading size B.

    Returns:
        For each site, a tensor [B, *event].

    Example:
        >>> import torch
        >>> from pvae import encode, guides
        >>> encode(guides.MeanField((1, 8, 8)), torch.zeros(5, 1, 8, 8))["z"].shape
        torch.Size([5, 20])
    """
    with _quiet(guide, guide):
        trace = trace_guide(guide, *_beside(guide, batch))
        return {name: _mean(site) for name, site in latent_sites(trace).items()}


def reconstruct(model: Program, guide: Program, *batch: Tensor) -> Tensor:
    """Returns the mean of p(x|z) with z at the mean of q(z|x).

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
    with _quiet(model, guide):
        guide_trace = trace_guide(guide, *batch)
        for site in latent_sites(guide_trace).values():
            site["value"] = _mean(site)
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

    Args:
        model: Pyro program that generates when called as `model(size=n)`.
        latents: For each latent site, its values [n, *event].

    Returns:
        Tensor [n, *event].

    Raises:
        PvaeError: If the model cannot be called without data.
    """
    size = len(next(iter(latents.values())))
    latents = dict(zip(latents, _beside(model, tuple(latents.values())), strict=True))
    with _quiet(model, model), poutine.condition(data=latents):
        return _observed_mean(model, _run_without_data(model, size), given=set(latents))


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


def _mean(site: dict) -> Tensor:
    try:
        return site["fn"].mean.expand_as(site["value"])
    except (NotImplementedError, AttributeError, RuntimeError):
        return site["value"]
