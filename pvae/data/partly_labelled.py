"""Data of which some labels are unknown: which are kept, and minibatches that mix both kinds."""

from dataclasses import replace

import torch

from pvae.data.split import Split
from pvae.errors import PvaeError
from pvae.runtime import whole

__all__ = ["keep_labels", "mix"]


def keep_labels(
    part: Split, labelled: int, balanced: bool, generator: torch.Generator, name: str
) -> Split:
    """Returns a part with the labels of some data only; the other labels become −1.

    Args:
        part: A part with labels.
        labelled: How many labels are kept, out of those that are known.
        balanced: Whether every class keeps as many, or one more where the number does not divide.
        generator: Draws the choice.
        name: The name of the data, for messages.

    Raises:
        PvaeError: There are fewer labels, or a class would be without a single one.
    """
    labelled = whole("labelled", labelled)
    y, how = part.y, f"labelled={labelled} is not valid"
    if y is None:
        raise PvaeError(
            f"{how}: {name} has no labels. Give (x, y), or arrays named y_train and y_test."
        )
    if y.ndim != 1 or y.is_floating_point():
        raise PvaeError(
            f"{how}: it needs classes, integers [N], and the labels of {name} are {y.dtype} "
            f"{list(y.shape)}. Give integers, with −1 for unknown labels."
        )
    order = torch.randperm(len(y), generator=generator, device="cpu").to(y.device)
    order = order[y[order] >= 0]
    if labelled > len(order):
        raise PvaeError(
            f"{how}: {name} has {len(order)} training data with a label. Give 1 to {len(order)}."
        )
    classes = y[order].unique()
    if balanced:
        if labelled < len(classes):
            raise PvaeError(
                f"{how}: {name} has {len(classes)} classes, and some would be without a single "
                f"label. Give {len(classes)} or more, or balanced=False."
            )
        kept = [order[y[order] == c] for c in classes]
        sizes = [(labelled - i - 1) // len(classes) + 1 for i in range(len(classes))]
        for c, found, size in zip(classes.tolist(), kept, sizes, strict=True):
            if len(found) < size:
                raise PvaeError(
                    f"{how}: class {c} of {name} has {len(found)} training data, and {size} labels "
                    "of each class are wanted. Give fewer, or balanced=False."
                )
        order = torch.cat([found[:size] for found, size in zip(kept, sizes, strict=True)])
    order = order[:labelled]
    if absent := sorted(set(classes.tolist()) - set(y[order].tolist())):
        raise PvaeError(
            f"{how}: with balanced=False, class {absent[0]} of {name} would be without a single "
            "label. Give more labels, another seed, or balanced=True."
        )
    unknown = torch.full_like(y, -1)
    unknown[order] = y[order]
    return replace(part, fields={**part.fields, "y": unknown})


def mix(part: Split, share: float, name: str) -> Split:
    """Returns a part whose shuffled minibatches hold a share of labelled data.

    Raises:
        PvaeError: The share is not between 0 and 1, or all labels are known, or none.
    """
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise PvaeError(
            f"labelled_share={share!r} is not valid: give the share of labelled data in a "
            "minibatch, between 0 and 1."
        )
    known = part.known
    if known is None or known.all() or not known.any():
        which = "no" if known is None or not known.any() else "only"
        raise PvaeError(
            f"labelled_share={share:g} is not valid: {name} has {which} training data with a "
            "label, so there is nothing to mix. Say how many labels are kept, as in labelled=100."
        )
    return replace(part, labelled_share=float(share))
