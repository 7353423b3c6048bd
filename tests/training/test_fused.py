"""The fused step of Adam without torch's bookkeeping: the same numbers, and never unnoticed."""

import copy
import functools
import types
import warnings

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pvae.training.fused import step_adam

ADAM = functools.partial(torch.optim.Adam, fused=True)
ADAMW = functools.partial(torch.optim.AdamW, fused=True)


def parameters():
    draw = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (4,), (5,))
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


def with_groups(make, **options):
    def both(some):
        groups = [{"params": some[:1], "lr": 0.1}, {"params": some[1:], "weight_decay": 0.3}]
        return make(groups, **options)

    return both


def begun(make):
    """An optimiser after a step, and its parameters."""
    some = parameters()
    optimizer = make(some)
    for parameter in some:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return some, optimizer


@pytest.mark.parametrize(
    "make",
    [
        ADAM,
        ADAMW,
        functools.partial(ADAM, decoupled_weight_decay=True, weight_decay=0.1),
        functools.partial(ADAM, amsgrad=True, eps=0.1),
        functools.partial(ADAM, maximize=True, weight_decay=0.1, betas=(0.5, 0.7)),
        with_groups(ADAM),
        with_groups(ADAMW, lr=0.01),
        lambda some: ADAM([{"params": some, "betas": [0.8, 0.9]}]),
    ],
)
def test_its_numbers_are_torchs(make):
    (ours, mine), (theirs, reference) = begun(make), begun(make)
    draw = torch.Generator().manual_seed(1)
    for i in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        if i == 2:  # a parameter without a gradient does not move
            ours[1].grad = theirs[1].grad = None
        assert step_adam(mine)
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
    assert str(mine.state_dict()) == str(reference.state_dict())


def test_a_restored_state_is_that_of_the_next_step():
    (ours, mine), (theirs, reference) = begun(ADAM), begun(ADAM)
    saved = copy.deepcopy(reference.state_dict())
    for optimizer in (mine, reference):
        optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(saved))
    assert step_adam(mine)
    reference.step()
    assert all(map(torch.equal, ours, theirs))


def first_step():
    some = parameters()
    for parameter in some:
        parameter.grad = torch.ones_like(parameter)
    return ADAM(some)


def hooked():
    _, optimizer = begun(ADAM)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def hooked_after():
    _, optimizer = begun(ADAM)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def replaced():
    _, optimizer = begun(ADAM)
    optimizer.step = lambda: None
    return optimizer


def replaced_under_a_schedule():
    _, optimizer = begun(ADAM)
    optimizer.step = types.MethodType(lambda self: None, optimizer)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return optimizer


def replaced_over_a_schedule():
    _, optimizer = begun(ADAM)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step = functools.wraps(optimizer.step)(lambda: None)
    return optimizer


@pytest.mark.parametrize(
    "optimizer",
    [
        first_step,
        hooked,
        hooked_after,
        replaced,
        replaced_under_a_schedule,
        replaced_over_a_schedule,
        lambda: begun(torch.optim.Adam)[1],
        lambda: begun(functools.partial(ADAM, lr=torch.tensor(0.1)))[1],
        lambda: begun(functools.partial(torch.optim.SGD, lr=0.1, fused=True))[1],
        lambda: begun(functools.partial(type("Own", (torch.optim.Adam,), {}), fused=True))[1],
    ],
)
def test_other_steps_are_left_to_torch(optimizer):
    optimizer = optimizer()
    before = copy.deepcopy(optimizer.param_groups[0]["params"])
    assert not step_adam(optimizer)
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))


@pytest.mark.parametrize("how", ["class", "hook of all"])
def test_what_is_patched_in_torch_is_called(how, monkeypatch):
    _, optimizer = begun(ADAM)
    called = []
    if how == "class":
        monkeypatch.setattr(torch.optim.Adam, "step", lambda self: called.append(self))
        assert not step_adam(optimizer)
    else:
        handle = register_optimizer_step_post_hook(lambda *_: called.append(1))
        assert not step_adam(optimizer)
        handle.remove()
        assert step_adam(optimizer)


def test_a_scheduler_of_torch_is_no_hook():
    some, optimizer = begun(ADAM)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    assert step_adam(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of a schedule that steps before the optimiser
        schedule.step()
    before = some[0].clone()
    assert step_adam(optimizer)
    torch.testing.assert_close(before - some[0], torch.full_like(before, 5e-4), rtol=1e-3, atol=0)
