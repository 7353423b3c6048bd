"""The fused step of torch's optimisers: one kernel for all parameters of a group."""

import inspect
from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as hooks

__all__ = ["fused", "step_adam"]

_OPTIONS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")


def fused(make: Any, parameters: Iterable[Tensor], given: Container[str] = ()) -> dict[str, bool]:
    """Returns `{"fused": True}` if an optimiser takes it for these parameters.

    Args:
        make: Class of the optimiser.
        parameters: Its parameters.
        given: Names of options that the user chose. A choice of `foreach`, `fused`, `capturable`
            or `differentiable` is kept.
    """
    if any(name in given for name in ("foreach", "fused", "capturable", "differentiable")):
        return {}
    able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if able and "fused" in inspect.signature(make).parameters else {}


def step_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Takes a step of a fused Adam or AdamW on the CPU; False, with nothing done, if it is none.

    It calls torch's kernel on the optimiser's own state, so that the numbers are those of
    `optimizer.step()`, without the checks that torch repeats in every step: for a pair of 0.7
    million parameters these take as long as the kernel. Groups of equal options share a call.
    The first step, and one with hooks or with a method of the user's, is torch's.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or _watched(optimizer):
        return False
    calls: dict[Any, tuple[list[Tensor], ...]] = {}
    for group in optimizer.param_groups:
        options = [tuple(v) if isinstance(v, list) else v for v in map(group.get, _OPTIONS)]
        lr, betas, *_ = options
        if not group["fused"] or any(isinstance(value, Tensor) for value in (lr, *betas)):
            return False
        decoupled = group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            state = optimizer.state.get(parameter)
            if not state or parameter.device.type != "cpu" or gradient.layout != torch.strided:
                return False
            key = decoupled, parameter.dtype, *options
            lists = calls.setdefault(key, tuple([] for _ in range(6)))
            averages = state["exp_avg"], state["exp_avg_sq"]
            largest = [state["max_exp_avg_sq"]] if group["amsgrad"] else []
            for each, value in zip(lists, (parameter, gradient, *averages), strict=False):
                each.append(value)
            lists[4].extend(largest)
            lists[5].append(state["step"])
    with torch.no_grad():
        for key, lists in calls.items():
            decoupled, _, lr, (beta1, beta2), eps, decay, amsgrad, maximize = key
            torch._foreach_add_(lists[5], 1)
            kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
            kernel(
                *lists, lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps,
                amsgrad=amsgrad, maximize=maximize,
            )  # fmt: skip
    optimizer._opt_called = True  # as a scheduler wants to know
    return True


def _inner(step: Any) -> Any:
    """Returns the step inside of what torch wraps it in when an optimiser is first made."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step


_STEP = _inner(torch.optim.Adam.step)  # as AdamW's


def _watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody acts on the steps: a hook, or another `step` (but a scheduler's)."""
    step, own = type(optimizer).step, vars(optimizer).get("step")
    scheduled = hasattr(own, "_wrapped_by_lr_sched") and own.__wrapped__ is step
    return bool(
        hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _inner(step) is not _STEP
        or (own is not None and not scheduled)
    )
