"""check_gradients(): which parameters an objective trains, and which it does not reach."""

import math

import pyro
import torch
from pyro.infer import ELBO
from pyro.nn import PyroModule
from torch import Tensor

from pvae.blame import what_is_not_finite
from pvae.environment import is_out_of_memory
from pvae.errors import PvaeError, first_line
from pvae.pair import Program, modules
from pvae.svi import SVI

__all__ = ["check_gradients"]


def check_gradients(
    model: Program, guide: Program, elbo: ELBO, batch: tuple[Tensor, ...]
) -> tuple[list[str], list[str], list[str]]:
    """Takes the gradient once, and names the parameters that it does not reach.

    Args:
        model: Pyro program.
        guide: Pyro program.
        elbo: What is to train them.
        batch: Some 64 data.

    Returns:
        Facts, notes and faults. Parameters and their gradients stay as they are.
    """
    svi = SVI(model, guide, None, elbo, mode="eager")
    reached = [
        (f"{path}.{name}", parameter)
        for path, module in modules(model, guide).items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    kept = {id(p): (p, p.grad) for _, p in reached}
    try:
        for _, parameter in reached:
            parameter.grad = None
        with svi.own, pyro.validation_enabled(False):
            value = elbo.loss_and_grads(model, guide, *batch)
        used = svi.own.parameters
        kept |= {id(p): (p, None) for p in used.values() if id(p) not in kept}
        slopes = {name: p.grad for name, p in used.items() if p.requires_grad}
    except PvaeError as error:
        return [], [], [str(error)]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        fault = (
            f"The objective {type(elbo).__name__} fails: {type(error).__name__}: "
            f"{first_line(error)[:300]}. Use loss='auto', or change what it cannot do."
        )
        return [], [], [fault]
    finally:
        for parameter, grad in kept.values():
            parameter.grad = grad
    total = sum(p.numel() for p in used.values())
    facts = [f"parameters: {total:,} numbers in {len(used)} tensors"]
    if not math.isfinite(float(value)):
        why = _what_is_not_finite(svi, float(value), batch)
        return facts, [], [f"The loss is {float(value)}. {why}"]
    sick = [name for name, g in slopes.items() if g is not None and not g.isfinite().all()]
    if sick:
        why = _what_is_not_finite(svi, 0.0, batch)
        return facts, [], [f"The gradient of {sick[0]} is not finite. {why}"]
    notes, faults = [], []
    idle = [name for name, g in slopes.items() if g is None or not g.any()]
    idle = _idle_elsewhere(svi, batch, idle) if idle else []
    known = {id(p) for p in used.values()}
    rest = [name for name, p in reached if id(p) not in known]
    owners = modules(model, guide)
    # A PyroModule registers what it uses: what it does not use is not called.
    called = {path for path, module in owners.items() if isinstance(module, PyroModule)}
    idle += [name for name in rest if name.partition(".")[0] in called]
    strays = [name for name in rest if name.partition(".")[0] not in called]
    if not used and not strays:
        notes.append(
            "The pair has no parameters to train. If it should have some, make the programs "
            "PyroModules, call pyro.module(name, network) in them, or use pyro.param."
        )
    if idle:
        faults.append(
            f"Parameter {idle[0]}{_and_more(idle)} gets no gradient: the loss does not depend on "
            "it. Look for .detach(), .item(), .data, torch.no_grad(), rounding or a comparison "
            "between it and the loss, or for a network that is not called."
        )
    if strays:
        faults.append(
            f"Parameter {strays[0]}{_and_more(strays)} is not trained: no program registers it. "
            "Call pyro.module(name, network) in the program, or make it a PyroModule that has the "
            "network as an attribute."
        )
    return facts, notes, faults


def _idle_elsewhere(svi: SVI, batch: tuple[Tensor, ...], idle: list[str]) -> list[str]:
    """Of parameters without a gradient, those that have none a little away from here either.

    Layers behind a last one that starts at zero have none at the start.
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
