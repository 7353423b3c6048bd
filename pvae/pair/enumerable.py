"""Sites that are to be summed out: whether their values can be listed, and how many there are."""

import contextlib
import math
from typing import Any

from pvae.distributions import is_discrete, values_of
from pvae.errors import PvaeError
from pvae.pair.bounded import device_of, in_free_memory, too_large
from pvae.pair.structure import Structure, kind_of, listed

__all__ = ["memory_for_the_sum", "refuse_unlisted", "sample_instead"]

_SHOWN = 3  # sites in a message


def sample_instead(name: str) -> str:
    """Says how to train a discrete site that cannot be summed out."""
    return (
        f'Leave out infer={{"enumerate": "parallel"}} to sample {name}: pvae.objectives.IWAE_ELBO '
        "trains it with VIMCO's signal, and a relaxed guide, as pvae.guides.Categorical has one, "
        "by Gumbel-softmax."
    )


def refuse_unlisted(structure: Structure) -> None:
    """Raises a PvaeError if a site that is to be summed out has no list of values that fits.

    A list fits if the log probabilities of its values for all data, and the values themselves,
    take less than the free memory.
    """
    if not structure.together_only:
        for name in structure.enumerated:
            _refuse(name, _site(structure, name))


def _site(structure: Structure, name: str) -> dict[str, Any]:
    trace = structure.guide_trace if name in structure.latent else structure.model_trace
    return trace.nodes[name]


def _refuse(name: str, site: dict[str, Any]) -> None:
    fn, values = site["fn"], values_of(site["fn"])
    if not getattr(fn, "has_enumerate_support", True):
        where = f"Site {name!r} is to be summed out, and its {kind_of(fn)}"
        if not is_discrete(fn):
            raise PvaeError(f"{where} is continuous. Leave out its mark infer={{'enumerate': …}}.")
        if values is None:
            raise PvaeError(f"{where} has values without an end. {sample_instead('it')}")
        num = math.prod(values.shape)
        raise PvaeError(
            f"{where} has {num:,} elements in one event, of {len(values.numbers):,}^{num:,} values "
            "together. Give each element a site of its own, or put them in a plate, where each is "
            f"summed out by itself. {sample_instead('it')}"
        )
    if values is None:
        return
    rows = max(math.prod(fn.batch_shape), math.prod(fn.event_shape))
    if too_large(4 * len(values.numbers) * rows, device_of(fn)):
        raise PvaeError(
            f"Site {name!r} is to be summed out, and its {kind_of(fn)} has {len(values.numbers):,} "
            f"values, more than fit in the free memory. {sample_instead('it')}"
        )


def memory_for_the_sum(structure: Structure) -> contextlib.AbstractContextManager[None]:
    """Raises a PvaeError with the number of terms when memory runs out; see `in_free_memory`."""
    names, count = structure.enumerated, 1
    if not names:
        return contextlib.nullcontext()
    for name in names:
        values = values_of(_site(structure, name)["fn"])
        count *= len(values.numbers) if values is not None else 1
    shown = listed(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    return in_free_memory(
        f"the sum over the values of {shown}",
        f"There are {_number(count)} combinations of values, and what depends on several of these "
        "sites is computed for all combinations of theirs. Sum out fewer sites. "
        + sample_instead("the others"),
    )


def _number(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"about 10^{len(str(count)) - 1}"
