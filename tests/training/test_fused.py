"""The fused step of Adam without torch's bookkeeping: the same numbers, and never unnoticed."""

import copy
import functools

import pytest
import torch

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


def replaced():
    _, optimizer = begun(ADAM)
    optimizer.step = lambda: None
    return optimizer


@pytest.mark.parametrize(
    "optimizer",
    [
        first_step,
        hooked,
        replaced,
        lambda: begun(torch.optim.Adam)[1],
        lambda: begun(functools.partial(ADAM, lr=torch.tensor(0.1)))[1],
        lambda: begun(functools.partial(torch.optim.SGD, lr=0.1, fused=True))[1],
        lambda: begun(type("Own", (torch.optim.Adam,), {}))[1],
    ],
)
def test_other_steps_are_left_to_torch(optimizer):
    optimizer = optimizer()
    before = copy.deepcopy(optimizer.param_groups[0]["params"])
    assert not step_adam(optimizer)
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))


def test_a_scheduler_of_torch_is_no_hook():
    some, optimizer = begun(ADAM)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5).step()
    before = some[0].clone()
    assert step_adam(optimizer)
    torch.testing.assert_close(before - some[0], torch.full_like(before, 5e-4), rtol=1e-3, atol=0)
