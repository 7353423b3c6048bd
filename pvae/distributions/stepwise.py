"""What the autoregressive distribution needs to draw step by step."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pvae.distributions.head import Head
from pvae.errors import PvaeError
from pvae.nn import Steps

__all__ = ["draw_steps", "known_values", "num_known", "once", "steps_of", "zeros_of"]

_DONE: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def once(function: Callable[..., Any], owner: nn.Module, key: Any, *args: Any) -> Any:
    """Calls a function once for each owner and key, and returns what it returned then."""
    done = _DONE.setdefault(owner, {})
    if (function, key) not in done:
        done[function, key] = function(*args)
    return done[function, key]


@torch.no_grad()
def draw_steps(
    x: Tensor, f: Tensor, head: Head, steps: Steps, step: Callable[[int], Tensor], first: int = 0
) -> None:
    """Draws the values of x in place, from a step on.

    Args:
        x: [N, *event_shape], with the values of the steps before the first.
        f: Room for the network's outputs, [N, *out_shape].
        head: The head.
        steps: Where the steps lie.
        step: A network's stepper for x.
        first: The first step that is drawn.
    """
    local = once(_local, head, steps.num, head, steps, f[:1])
    flat, places = x.view(len(x), -1), steps.x_index.to(x.device)
    flat_f, places_f = f.flatten(-steps.f_order.ndim), steps.f_index.to(x.device)
    for t in range(steps.num):
        f_t = step(t)
        if not local:
            flat_f[..., places_f[t]] = f_t
        if t < first:
            continue
        if local:
            flat[:, places[t]] = _at(head, steps, f_t).sample().reshape(len(x), -1)
        else:
            whole = head(f).sample().reshape(len(x), -1)
            flat[:, places[t]] = whole[:, places[t]]


def known_values(known: Tensor, event_shape: torch.Size) -> Tensor:
    """Returns which values of an event are known, booleans [*event_shape].

    Args:
        known: Booleans [*event_shape], or of its first dimensions.
        event_shape: Shape of an event.

    Raises:
        PvaeError: If they have another type or shape.

    Example:
        >>> known_values(torch.tensor([True, False]), torch.Size([2, 3]))
        tensor([[ True,  True,  True],
                [False, False, False]])
    """
    known = torch.as_tensor(known)
    if known.dtype != torch.bool or known.shape != event_shape[: known.ndim]:
        raise PvaeError(
            f"known={known.dtype} of shape {tuple(known.shape)} is not valid: give booleans of "
            f"shape {tuple(event_shape)}, or of its first dimensions."
        )
    missing = len(event_shape) - known.ndim
    return known.view(*known.shape, *[1] * missing).expand(event_shape)


def num_known(steps: Steps, known: Tensor) -> int:
    """Returns how many steps are known: the first ones, and no others.

    Raises:
        PvaeError: If a value is known and one that is drawn before it is not.
    """
    known = known.cpu()
    first = int(steps.order[~known].min()) if not known.all() else steps.num
    late, earliest = known & (steps.order >= first), ~known & (steps.order == first)
    if late.any():
        places = [[int(i) for i in which.nonzero()[0]] for which in (late, earliest)]
        raise PvaeError(
            f"known is not valid: {int(late.sum())} known values, such as the one at {places[0]}, "
            "are drawn after unknown ones, or together with them, such as the one at "
            f"{places[1]}. A value that is drawn first cannot depend on those that follow. Give a "
            "first part of the network's order as known, such as the upper rows of an image."
        )
    return first


def steps_of(network: nn.Module, head: Head) -> Steps:
    return Steps(head.event_shape, head.out_shape, getattr(network, "order", None))


def zeros_of(network: nn.Module, head: Head, context: Tensor | None, num: int) -> Tensor:
    """Returns f of zeros [num, *out_shape] where the network's parameters are."""
    some = [context, *network.parameters(), *head.parameters(), *network.buffers()]
    like = next((t for t in some if t is not None and t.is_floating_point()), torch.empty(()))
    return torch.zeros(num, *head.out_shape, dtype=like.dtype, device=like.device)


def _at(head: Head, steps: Steps, f: Tensor) -> TorchDistribution:
    """Returns the head's distribution of one step, of events of k values, at f [..., *lead, n]."""
    ones = (1,) * (len(head.event_shape) - 1)
    small = copy.copy(head)
    small.event_shape = (steps.x_index.shape[1], *ones)
    shape = (1,) * steps.f_order.ndim if steps.jointly else small.event_shape
    return small(f.reshape(*f.shape[: f.ndim - 1], *shape))


@torch.no_grad()
def _local(head: Head, steps: Steps, f: Tensor) -> bool:
    """Whether a head may be applied to single steps: whether their log densities sum to log p."""
    with torch.random.fork_rng([f.device] if f.device.type == "cuda" else []):
        f = torch.randn_like(f)
        x = head(f).sample()
    whole = head(f).log_prob(x)
    each_f = f[0].flatten(-steps.f_order.ndim)[..., steps.f_index.to(f.device)].movedim(-2, 0)
    each_x = x[0].flatten()[steps.x_index.to(f.device)]
    try:
        p = _at(head, steps, each_f)
        log_p = p.log_prob(each_x.view(-1, *p.event_shape))
    except (RuntimeError, ValueError):  # its parameters have the shape of whole data
        return False
    shape = (steps.num,)
    return log_p.shape == shape and torch.allclose(log_p.double().sum(), whole.double(), rtol=1e-4)
