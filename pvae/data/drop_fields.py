"""drop_fields(): training data that lack some of their fields, drawn for each minibatch."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pvae.data import storage
from pvae.data.dataset import Data
from pvae.data.split import Split
from pvae.errors import PvaeError

__all__ = ["drop_fields"]


def drop_fields(data: Data, names: Sequence[str]) -> Data:
    """Adds a field `seen`, booleans [M], which say which of M fields a datum has.

    In training it is drawn again for each minibatch: every part of the fields, except nothing, has
    the same probability. In validation and test all fields are seen. The fields are dropped by the
    pair, as `pvae.models.MVAE` does.

    Args:
        data: A dataset.
        names: The M fields, in the order of the model.

    Raises:
        PvaeError: If batches of the data do not hold one of the fields, or hold `seen`.

    Source: Wu & Goodman 2018, *Multimodal Generative Models for Scalable Weakly-Supervised
    Learning* (arXiv:1802.05335), whose objective adds up some parts.

    Example:
        >>> from pvae.data import load
        >>> data = drop_fields(load("digits", labels=True), ["x", "y"])
        >>> x, y, seen = next(data.train.batches(4))
        >>> seen.shape, bool(seen.any(1).all()), bool(data.test.tensors()[2].all())
        (torch.Size([4, 2]), True, True)
    """
    held = data.train.names
    if missing := [name for name in names if name not in held]:
        raise PvaeError(
            f"Batches of {data.name} do not hold {missing[0]!r}; they hold {', '.join(held)}. Load "
            "the data with labels=True for y and captions."
        )
    if not names or "seen" in held:
        why = "there are none" if not names else f"{data.name} has a field seen"
        raise PvaeError(f"names={list(names)} is not valid: {why}. Name the fields that may lack.")

    def added(part: Split | None, column: storage.Column | None) -> Split | None:
        if part is None:
            return None
        column = torch.ones(len(part), len(names), dtype=torch.bool) if column is None else column
        return replace(part, fields={**part.fields, "seen": column}, names=(*part.names, "seen"))

    num = len(names)
    draw = functools.partial(_parts, num)
    fresh = storage.Drawn(draw, f"parts of {', '.join(names)}", (num,), len(data.train))
    return replace(
        data,
        train=added(data.train, fresh),
        validation=added(data.validation, None),
        test=added(data.test, None),
    )


def _parts(num: int, size: int) -> Tensor:
    """Draws parts of M fields that are not empty, booleans [size, M]."""
    part = torch.randint(1, 2**num, (size, 1), device="cpu")
    return (part >> torch.arange(num, device="cpu")) % 2 == 1
