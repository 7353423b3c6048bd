"""Codes of data: posterior means, or draws, of a guide."""

from collections.abc import Callable
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.pair import (
    Program,
    TensorSplit,
    alone,
    given,
    latent_sites,
    name_of,
    quiet,
    trace_guide,
)
from pvae.predictive.at_means import given_to, trace_at_means
from pvae.runtime import own_random_state

__all__ = ["Codes", "draw_codes", "encode", "encode_split"]

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
def encode(guide: Program, data: Data | Split, /, **kwargs: Any) -> Codes: ...
@overload
def encode(guide: Program, *batch: Any, **kwargs: Any) -> dict[str, Tensor]: ...
@alone
def encode(guide: Program, *batch: Any, **kwargs: Any) -> Codes | dict[str, Tensor]:
    """Returns E[z] under q(z|x) for every latent site of a guide: the codes of the data.

    The code of a discrete site is its most probable value. If no mean is known in closed form,
    the code is the mode, or the mean of the base carried through the transforms (of a flow), or
    else a draw. In a hierarchy each layer is encoded given the codes of those before it. A part
    that is drawn again for each minibatch is drawn once. Every call gives the same codes.

    Args:
        guide: Pyro program q(z|x); one that gives a point (a Delta) has that point as its code.
        *batch: One batch, tensors of leading size B and what else the guide takes, as for
            `pvae.check`; or a part of data, such as `data.train`, which is encoded in
            minibatches. Of a `pvae.data.Data` the test part.
        **kwargs: Arguments of the guide by name.

    Returns:
        For a batch, a dict with a tensor [B, *event] for each site. For a part, one with NumPy
        arrays [N, *event], whose attribute `y` has the labels, if there are any.

    Raises:
        PvaeError: If the guide fails, or a latent site does not have one value for each datum.

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
    if len(batch) == 1 and isinstance(batch[0], Data | Split | TensorSplit):
        part, (guide,) = given(batch[0], kwargs, None, guide)
        return encode_split(guide, part)
    with own_random_state(0):
        (guide,), batch = given_to(batch, kwargs, guide)
        return _codes(guide, batch)


def encode_split(guide: Program, part: Split | TensorSplit) -> Codes:
    """Returns the codes of a split whose minibatches are enough for the guide."""
    with own_random_state(0):
        found = [_codes_of_data(guide, minibatch) for minibatch in part.batches(_BATCH)]
    sites = {name: np.concatenate([codes[name] for codes in found]) for name in found[0]}
    y = getattr(part, "y", None)
    return Codes(sites, None if y is None else y.cpu().numpy())


def _codes(guide: Program, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with quiet(guide, guide):
        sites = latent_sites(trace_at_means(guide, batch))
        return {name: site["value"] for name, site in sites.items()}


def _codes_of_data(guide: Program, batch: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    (guide,), batch = given_to(batch, {}, guide)
    codes = _codes(guide, batch)
    for name, code in codes.items():
        if not code.ndim or len(code) != len(batch[0]):
            raise PvaeError(
                f"Site {name!r} of the guide {name_of(guide)} has shape {tuple(code.shape)} for "
                f"{len(batch[0])} data: it is not a code of each datum. Encode a batch of "
                "tensors to see it."
            )
    return {name: code.cpu().numpy() for name, code in codes.items()}


def draw_codes(
    guide: Program,
    part: Split | TensorSplit,
    seed: int = 0,
    kept: Callable[[str, Tensor], Tensor] | None = None,
) -> dict[str, NDArray[Any]]:
    """Returns a draw from q(z|x) for each datum of a part: for each site, an array [N, *event].

    Args:
        guide: Pyro program q(z|x).
        part: A part of data.
        seed: Seed of the draws.
        kept: Returns what is kept of a site's draws in a minibatch; None for all of it.
    """
    found = []
    with own_random_state(seed):
        for batch in part.batches(_BATCH):
            (bound,), batch = given_to(batch, {}, guide)
            with quiet(guide, guide):
                sites = latent_sites(trace_guide(bound, *batch))
            values = {name: site["value"] for name, site in sites.items()}
            if kept is not None:
                values = {name: kept(name, value) for name, value in values.items()}
            found.append({name: value.cpu().numpy() for name, value in values.items()})
    return {name: np.concatenate([draws[name] for draws in found]) for name in found[0]}
