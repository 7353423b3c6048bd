"""Whether a pair, its data and the arguments of `fit` go together."""

import warnings

import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.importance import Particles, few, find_dependent, rows_at
from pvae.pair import (
    Inspection,
    Program,
    TensorSplit,
    check,
    memory_for_the_sum,
    plate_sizes,
    quiet,
)
from pvae.runtime import is_out_of_memory, own_random_state

__all__ = [
    "full_size",
    "nothing_to_learn",
    "share_to_weigh",
    "try_smallest",
    "try_the_sum",
    "without_effect",
]


def without_effect(
    epochs: int,
    batch_size: int,
    num_data: int,
    kl_warmup: float,
    patience: int | None,
    validated: bool,
) -> list[str]:
    """Returns a sentence for each argument of `fit` that has no effect or not the whole one.

    `patience` is None if it was not given; `validated` says whether there is a validation part.
    """
    said = []
    if batch_size > num_data:
        said.append(
            f"batch_size={batch_size} is larger than the number of training data, {num_data}: each "
            "epoch is one step on all of them."
        )
    if kl_warmup > epochs:
        said.append(
            f"kl_warmup={kl_warmup:g} is longer than the run of {epochs} epochs: β ends at "
            f"{epochs / kl_warmup:.2g}, so that the pair is not trained on the ELBO"
            + (", and never stops early." if validated else ".")
        )
    if patience is not None and not validated:
        said.append(
            f"patience={patience} has no effect: without a validation part training never stops "
            "early. Hold one out, as in pvae.data.load(name, validation=1000)."
        )
    return said


def nothing_to_learn(train: Split | TensorSplit, model: Program) -> list[str]:
    """Returns a sentence if masks or labels leave a part of the pair without data."""
    fields = {n: f for n, f in getattr(train, "fields", {}).items() if n in train.names}
    mask, y, said = fields.get("mask"), fields.get("y"), []
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.all():
        said.append(
            "mask is True for every value of the training data: nothing is missing, and a model of "
            "the missing values learns nothing. True is for known values."
        )
    elif isinstance(mask, Tensor) and mask.dtype == torch.bool and not mask.any():
        said.append(
            "mask is False for every value of the training data: nothing is known, and the pair "
            "learns p(x). True is for known values."
        )
    count = getattr(model, "num_classes", None)
    if isinstance(y, Tensor) and y.ndim == 1 and isinstance(count, int):
        known = y[y >= 0]  # unknown labels are -1 or NaN
        lacking = sorted(set(range(count)) - set(known.long().unique().tolist()))
        if lacking and len(known) < len(y):
            which = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
            said.append(
                f"The training data have no label of class {which}, so that the pair cannot learn "
                "what it is. Label one datum of each class, or more."
            )
    return said


def try_smallest(pair: Inspection, rest: int, num_data: int, batch_size: int) -> None:
    """Runs the pair with the smallest minibatch of an epoch, of `rest` data.

    With several processes, minibatches are the parts of one process.

    Raises:
        PvaeError: If it is too small, as one datum is for batch normalisation, or if a plate of
            the larger ones' size weights it differently in the two programs.
    """
    if 1 < rest == len(pair.batch[0]):
        return
    try:
        found = check(pair.model, pair.guide, *(t[:rest] for t in pair.batch))
        if not plate_sizes(pair.structure) and (faults := plate_sizes(found)):
            raise PvaeError(faults[0])
    except PvaeError as error:
        raise PvaeError(
            f"The pair cannot train on the last minibatch of an epoch: with {num_data} data and "
            f"batch_size={batch_size} it has {rest}. {error} Choose another batch_size."
        ) from error


def try_the_sum(elbo: ELBO, pair: Inspection) -> None:
    """Tries the sum over discrete sites of TraceEnum_ELBO, if the objective is one.

    Raises:
        PvaeError: If memory runs out, or if a density depends on a site's values at several indices
            of an inner plate, which Pyro's sum ignores. Other failures are left to the first step.
    """
    structure = pair.structure
    if not isinstance(elbo, TraceEnum_ELBO) or not structure.enumerated:
        return

    def dependent() -> str | None:
        single = Particles(pair.model, pair.guide, structure, pair.dim, "loop")
        return find_dependent(single, rows_at(pair.batch, few(pair.size)))

    def loss() -> None:
        elbo.loss(pair.model, pair.guide, *pair.batch)

    with quiet(pair.model, pair.guide), own_random_state(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first step says the same
        for attempt in (dependent, loss):
            fault = None
            try:
                with memory_for_the_sum(structure):
                    fault = attempt()
            except Exception as error:
                if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                    raise
            if fault is not None:
                raise PvaeError(fault)


def share_to_weigh(train: Split | TensorSplit) -> float | None:
    """Returns the share of labelled data, if minibatches hold another one."""
    if getattr(train, "labelled_share", None) is None:
        return None
    return float(train.known.double().mean())


def full_size(inspection: Inspection) -> int | None:
    """Returns the number of data that a subsampling plate scales its sites to, if it does."""
    try:
        name = inspection.plate
    except PvaeError:
        if inspection.wanted is not None:
            raise
        return None
    for site in inspection.structure.model_trace.nodes.values():
        for frame in site.get("cond_indep_stack", ()):
            if frame.name == name and frame.full_size not in (None, -1, inspection.size):
                return int(frame.full_size)
    return None
