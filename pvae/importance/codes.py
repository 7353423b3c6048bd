"""Discrete latents as coordinates: the position of each value in the list of a site's values."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.distributions import is_discrete, values_of
from pvae.errors import PvaeError
from pvae.pair import Structure, kind_of, latent_sites

__all__ = ["Codes", "codes_of", "sweep_size"]


@dataclass(frozen=True)
class Codes:
    """The values of a discrete site.

    Attributes:
        values: All values of one element, [n], or [n, n] in one-hot form.
        shape: Shape of the elements of one datum: inner plates and event.
    """

    values: Tensor
    shape: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """n, once for each element."""
        return (len(self.values),) * math.prod(self.shape)

    def index(self, value: Tensor) -> Tensor:
        """Returns positions [C, B, elements] of rows [C, B, *rest]; NaN outside the support."""
        elements = value.reshape(*value.shape[:2], -1, *self.values.shape[1:])
        one_hot = self.values.ndim > 1
        index = elements.argmax(-1) if one_hot else (elements - self.values[0]).long()
        index = index.clamp(0, len(self.values) - 1)
        same = self.values[index] == elements
        same = same.all(-1) if one_hot else same
        return torch.where(same, index.to(torch.get_default_dtype()), math.nan)

    def value(self, index: Tensor) -> Tensor:
        """Returns rows [C, B, *rest] at positions [C, B, elements]."""
        rows = self.values[index.long()]
        return rows.reshape(*index.shape[:2], *self.shape, *self.values.shape[1:])


def codes_of(name: str, site: dict[str, Any], shape: Sequence[int]) -> Codes | None:
    """Returns the values of a latent site; None if it is continuous.

    Args:
        name: The site's name.
        site: The site in a call of the model.
        shape: Shape of its value for one datum.

    Raises:
        PvaeError: If there are infinitely many values, or no list of them.
    """
    if not is_discrete(site["fn"]):
        return None
    found = values_of(site["fn"])
    if found is None:
        raise PvaeError(
            f"Latent site {name!r} is discrete, and there is no finite list of the values of its "
            f"{kind_of(site['fn'])}, which Gibbs sampling needs. Use a Categorical, "
            "OneHotCategorical, Bernoulli or Binomial, or the bounds from samples of the guide "
            "(num_samples)."
        )
    if found.one_hot:
        return Codes(torch.eye(len(found.numbers)).to(site["value"]), tuple(shape[:-1]))
    return Codes(torch.tensor(found.numbers).to(site["value"]), tuple(shape))


def sweep_size(structure: Structure, dim: int) -> int:
    """Returns the evaluations of one Gibbs sweep of a chain; 0 if nothing is discrete.

    That is the number of values of each element of the discrete sites that are not summed out,
    added up. A site whose values cannot be listed counts 0. `dim` is the batch plate's dimension.
    """
    total = 0
    for name, site in latent_sites(structure.model_trace).items():
        if name in structure.enumerated or not is_discrete(site["fn"]):
            continue
        plates = list(site["fn"].batch_shape)
        del plates[len(plates) + dim]
        with contextlib.suppress(PvaeError):
            total += sum(codes_of(name, site, (*plates, *site["fn"].event_shape)).counts)
    return total
