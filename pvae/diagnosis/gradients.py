"""check_gradients(): finds parameters that an objective does not train."""

import math
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError, first_line
from pvae.pair import Program, modules
from pvae.runtime import is_out_of_memory
from pvae.training import SVI, what_is_not_finite

__all__ = ["check_gradients"]


def check_gradients(
    model: Program, guide: Program, elbo: ELBO, batch: tuple[Tensor, ...]
) -> tuple[list[str], list[str], list[str]]:
    """Computes the gradient once, and names the parameters that it does not reach.

    Args:
        model: Pyro program.
        guide: Pyro program.
        elbo: The objective that is to train them.
        batch: About 64 data.

    Returns:
        Facts, notes and faults. Parameters and their gradients are unchanged.

    Raises:
        PvaeError: If the objective fails, or its value or gradient is not finite.
    """
    svi = SVI(model, guide, None, elbo, mode="eager")
    reached = [
        (f"{path}.{name}", parameter)
        for path, module in modules(model, guide).items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not is_lazy(parameter) and parameter.numel()
    ]
    kept = {id(p): (p, p.grad) for _, p in reached}
    try:
        for _, parameter in reached:
            parameter.grad = None
        with svi.own, pyro.validation_enabled(False), _Calls() as calls:
            value = elbo.loss_and_grads(model, guide, *batch)
        used = svi.own.parameters
        kept |= {id(p): (p, None) for p in used.values() if id(p) not in kept}
        slopes = {n: p.grad for n, p in used.items() if p.requires_grad and p.numel()}
        known = {id(p) for p in used.values()}
        rest = {name: p for name, p in reached if id(p) not in known}
        strays = [n for n, p in rest.items() if p.grad is not None or id(p) in calls.differentiated]
    except PvaeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise PvaeError(
            f"The objective {type(elbo).__name__} fails: {type(error).__name__}: "
            f"{first_line(error)[:300]}. Use loss='auto', or change what it cannot do."
        ) from error
    finally:
        for parameter, grad in kept.values():
            parameter.grad = grad
    total = sum(p.numel() for p in used.values())
    facts = [f"parameters: {total:,} numbers in {len(used)} tensors"]
    if not math.isfinite(float(value)):
        why = _what_is_not_finite(svi, float(value), batch)
        raise PvaeError(f"The loss is {float(value)}. {why}")
    for name, gradient in slopes.items():
        if gradient is not None and not gradient.isfinite().all():
            why = _what_is_not_finite(svi, 0.0, batch)
            raise PvaeError(f"The gradient of {name} is not finite. {why}")
    notes, faults = [], []
    idle = [name for name, g in slopes.items() if g is None or not g.any()]
    idle = _idle_elsewhere(svi, batch, idle) if idle else []
    if not used and not strays:
        notes.append(
            "The pair has no parameters to train. If it should have some, make the programs "
            "PyroModules, call pyro.module(name, network) in them, or use pyro.param."
        )
    lost = [name for name in idle if id(used[name]) in calls.differentiated]
    for side in ("model", "guide"):
        own = [name for name in slopes if str(name).partition(".")[0] == side]
        if own and set(own) <= set(idle) and set(own) & set(lost):
            # No parameter of this side is trained, though its networks ran with gradients enabled.
            faults.append(
                f"Parameter {own[0]}{_and_more(own)} gets no gradient: the loss does not depend "
                f"on any parameter of the {side}. Look for .detach(), .item(), .data, rounding or "
                "a comparison between it and the loss."
            )
            idle = [name for name in idle if name not in own]
    if quiet := [*idle, *(name for name in rest if name not in strays)]:
        notes.append(
            f"Parameter {quiet[0]}{_and_more(quiet)} gets no gradient from this minibatch. This is "
            "right if its network is frozen, or used only by other minibatches. If not, look for "
            ".detach(), .item(), .data, torch.no_grad(), rounding or a comparison between it and "
            "the loss, or for a network that is not called."
        )
    if strays:
        faults.append(
            f"Parameter {strays[0]}{_and_more(strays)} is not trained: no program registers it. "
            "Call pyro.module(name, network) in the program, or make the program a PyroModule that "
            "has the network as an attribute."
        )
    return facts, notes, faults


class _Calls:
    """Records `differentiated`: ids of the parameters of modules called with gradients enabled."""

    def __init__(self) -> None:
        self.differentiated: set[int] = set()

    def __enter__(self) -> "_Calls":
        self._hook = register_module_forward_pre_hook(self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()

    def _note(self, module: nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled():
            self.differentiated |= {id(p) for p in module.parameters(recurse=False)}


def _idle_elsewhere(svi: SVI, batch: tuple[Tensor, ...], idle: list[str]) -> list[str]:
    """Returns the parameters that have no gradient after a small perturbation either.

    At the start, layers before a last layer of zeros have none.
    """
    used = svi.own.parameters
    kept = {name: (p, p.detach().clone(), p.grad) for name, p in used.items()}
    try:
        with torch.no_grad():
            for p in used.values():
                p.add_(0.02 * torch.randn_like(p))
                p.grad = None
        with svi.own, pyro.validation_enabled(False):
            svi.loss.loss_and_grads(svi.model, svi.guide, *batch)
        return [n for n in idle if used[n].grad is None or not used[n].grad.any()]
    finally:
        with torch.no_grad():
            for p, value, grad in kept.values():
                p.copy_(value)
                p.grad = grad


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _what_is_not_finite(svi: SVI, value: float, batch: tuple[Tensor, ...]) -> str:
    svi.optim.add(svi.own.parameters)
    text = what_is_not_finite(svi.model, svi.guide, svi.own, svi.optim, value, batch, {})
    text = text.partition(": ")[2]
    return (
        f"{text[0].upper()}{text[1:]} Keep probabilities off 0 and 1 (logits=…), and scales "
        "positive (softplus(…) + 1e-6)."
    )
