"""The settings by which a resumed run is recognised."""

from typing import Any

import numpy as np
from pyro.infer import ELBO
from torch import Tensor

from pvae.data import Split
from pvae.pair import (
    Structure,
    TensorSplit,
    kind_of,
    latent_sites,
    observed_sites,
)

__all__ = ["of_data", "of_loss", "of_sites"]


def of_data(train: Split | TensorSplit, validation: Split | None) -> dict[str, Any]:
    """Returns the hashes of the data, and the share of labelled ones in a minibatch."""
    held_out = None if validation is None else validation.hash[:16]
    share = getattr(train, "labelled_share", None)
    return {
        "data (hash)": train.hash[:16],
        "validation data (hash)": held_out,
        **({} if share is None else {"labelled_share": share}),
    }


def of_loss(loss: ELBO) -> dict[str, Any]:
    """Returns an objective's class and the numbers in its attributes."""
    how = {"max_plate_nesting", "strict_enumeration_warning", "retain_graph", "ignore_jit_warnings"}
    options = {
        f"loss.{name}": value.item() if isinstance(value, Tensor) else value
        for name, value in vars(loss).items()
        if not name.startswith("_") and name not in how
        if isinstance(value, int | float | str | np.generic | None)
        or (isinstance(value, Tensor) and value.numel() == 1)
    }
    return {"loss": type(loss).__name__} | options


def of_sites(structure: Structure) -> dict[str, str]:
    """Returns the distribution of each site."""
    return {
        f"{role}'s {name}": kind_of(site["fn"])
        for role, trace in (("model", structure.model_trace), ("guide", structure.guide_trace))
        for name, site in {**latent_sites(trace), **observed_sites(trace)}.items()
    }
