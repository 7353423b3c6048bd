"""inspect(): runs a pair once, for everything that needs to know its sites and plates."""

from typing import Any

from pvae.pair.alone import alone
from pvae.pair.arguments import Arguments
from pvae.pair.check import look
from pvae.pair.fields import opened
from pvae.pair.parameters import quiet
from pvae.pair.program import Program
from pvae.pair.structure import Inspection

__all__ = ["inspect"]


@alone
def inspect(
    model: Program, guide: Program, *batch: Any, plate: str | None = None, **kwargs: Any
) -> Inspection:
    """Runs a pair once, in eval mode, and finds its sites, its structure and its batch plate.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: Some data: tensors of leading size B, and any other arguments of the programs, as
            for `pvae.check`.
        plate: Name of the batch plate, if it is ambiguous.
        **kwargs: Arguments of the programs by name.

    Raises:
        PvaeError: As `pvae.check`. A missing batch plate raises only when `plate` or `dim` of the
            result is read.

    Example:
        >>> import torch
        >>> from pvae import guides, inspect, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> found = inspect(model, guide, torch.zeros(4, 1, 8, 8))
        >>> found.plate, found.dim, found.structure.latent
        ('data', -1, ('z',))
    """
    batch, kwargs, (model, guide) = opened(batch, kwargs, model, guide)
    arguments = Arguments(batch, kwargs)
    with quiet(model, guide):
        model, guide = arguments.bind(model, guide)
        structure = look(model, guide, *arguments.batch)
    return Inspection(model, guide, arguments.batch, structure, plate)
