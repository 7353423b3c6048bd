"""Calls at once in threads, and calls that end at any moment."""

import inspect
import sys
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.runtime import _DIM_ALLOCATOR, _ENUM_ALLOCATOR, _PYRO_STACK
from torch.distributions import constraints

import pvae
from pvae import PvaeError
from pvae.pair.alone import alone

X = torch.randn(20, generator=torch.Generator().manual_seed(0))


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.weight = PyroParam(torch.tensor(0.5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.weight * z + y, self.scale), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * x, 0.9))


def weights(model, seed=0):
    pyro.set_rng_seed(seed)
    return pvae.log_weights(model, guide, X, num_samples=3)


def interrupted(call, moment):
    """Ends a call by an interrupt at its n-th way in or out of a handler, a plate or a module."""
    seen = 0

    def profile(frame, event, _):
        nonlocal seen
        names = ("__enter__", "__exit__", "allocate", "free", "_reset", "set_first_available_dim")
        if event == "call" and frame.f_code.co_name in names:
            path = frame.f_code.co_filename
            if "/pyro/" in path or path.endswith("pair.py"):
                seen += 1
                if seen == moment:
                    raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("what", ["log_weights", "check", "step", "evaluate"])
def test_an_interrupt_at_any_moment_leaves_pyro_clean(what):
    pyro.clear_param_store()
    model = Model()
    svi = pvae.SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), pyro.infer.TraceEnum_ELBO())
    calls = {
        "log_weights": lambda: weights(model),
        "check": lambda: pvae.check(model, guide, X),
        "step": lambda: svi.step(X),
        "evaluate": lambda: evaluate(
            model, guide, X, num_samples=4, prior_samples=0, surgery=False, progress=False
        ),
    }
    expected = weights(model)
    calls[what]()
    stride = 3 if what in ("check", "step") else 11
    moment, names = 1, {name for name, _ in model.named_parameters()}
    validation = pyro.infer.is_validation_enabled(), dist.is_validation_enabled()
    while interrupted(calls[what], moment):
        assert [type(handler).__name__ for handler in _PYRO_STACK] == []
        assert _DIM_ALLOCATOR._stack == []
        assert model._pyro_context.active == 0
        assert torch.is_grad_enabled()
        assert validation == (pyro.infer.is_validation_enabled(), dist.is_validation_enabled())
        moment += stride
    assert moment > 20, "it was not interrupted often"
    assert {name for name, _ in model.named_parameters()} == names
    assert torch.equal(weights(model), expected)
    with torch.no_grad():  # no old value is remembered
        model.weight_unconstrained = torch.nn.Parameter(torch.tensor(0.9))
        fresh = Model()
        fresh.weight_unconstrained = torch.nn.Parameter(torch.tensor(0.9))
    assert torch.equal(weights(model), weights(fresh))


def test_what_was_left_by_a_call_of_pyro_itself_blames_no_pair():
    model = Model()
    expected = weights(model)
    _DIM_ALLOCATOR.allocate("data", -1)
    assert torch.equal(weights(model), expected)
    assert _DIM_ALLOCATOR._stack == []


def test_handlers_around_a_call_stay_where_they_are():
    def wrong(x):
        raise ValueError("wrong")

    with poutine.block() as outer, pyro.plate("of the caller", 2, dim=-3):
        with pytest.raises(PvaeError, match="wrong"):
            pvae.check(Model(), wrong, X)
        assert _PYRO_STACK[0] is outer
        assert [type(handler) for handler in _PYRO_STACK[1:]] == [pyro.plate]
        assert _DIM_ALLOCATOR._stack[2] == "of the caller"
    assert _PYRO_STACK == []
    assert _DIM_ALLOCATOR._stack == []


@pytest.mark.parametrize("validate", [True, False])
def test_whatever_a_call_had_changed_is_put_back_where_it_fails(validate):
    @alone
    def fails():
        for module in (dist, pyro.infer, poutine):
            module.enable_validation(not validate)
        torch.set_grad_enabled(False)
        _ENUM_ALLOCATOR.set_first_available_dim(-5)
        _ENUM_ALLOCATOR.allocate()
        raise KeyboardInterrupt

    _ENUM_ALLOCATOR.set_first_available_dim(-1)
    before = {**vars(_ENUM_ALLOCATOR), "dim_to_id": {}}
    with pyro.validation_enabled(validate):
        with pytest.raises(KeyboardInterrupt):
            fails()
        found = [module.is_validation_enabled() for module in (dist, pyro.infer, poutine)]
        assert found == [validate] * 3
    assert torch.is_grad_enabled()
    assert vars(_ENUM_ALLOCATOR) == before


def test_an_error_in_a_thread_is_cleaned_up_there_too():
    failed = []

    def work():
        failed.append(interrupted(lambda: pvae.check(Model(), guide, X), 10))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == [True]
    assert _PYRO_STACK == []
    pvae.check(Model(), guide, X)


@pytest.mark.filterwarnings("ignore:.*waits for another thread")
def test_threads_get_the_numbers_that_they_get_alone():
    def make(shift):
        model = Model()
        model.weight_unconstrained = torch.nn.Parameter(torch.tensor(shift))
        return model

    def work(shift):
        model, rows = make(shift), []
        options = {"progress": False, "batch_size": 10, "epochs": 2, "seed": 1}
        fitted = pvae.fit(model, guide, X, loss=pyro.infer.TraceEnum_ELBO(), **options)
        rows += [row["elbo"] for row in fitted.history]
        options = {"num_samples": 6, "prior_samples": 3, "surgery": False, "progress": False}
        for _ in range(3):
            rows += evaluate(model, guide, X, **options).log_px.tolist()
        return rows

    shifts = (0.1, 0.5, 0.9)
    expected, found = {shift: work(shift) for shift in shifts}, {}
    threads = [
        threading.Thread(target=lambda shift=shift: found.update({shift: work(shift)}))
        for shift in shifts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_thread_that_waits_says_so():
    entered, leave, order = threading.Event(), threading.Event(), []

    @alone
    def first():
        entered.set()
        leave.wait()
        order.append("first")

    @alone
    def second(again=True):
        order.append("second")
        return second(False) if again else 3

    assert second() == 3  # calls may be nested
    order.clear()
    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    threading.Timer(0.05, leave.set).start()
    with pytest.warns(UserWarning, match=r"second\(\) waits for another thread's call"):
        second()
    thread.join()
    assert order == ["first", "second", "second"]


def test_signatures_and_docstrings_are_kept():
    assert "num_samples" in inspect.signature(pvae.evaluate).parameters
    assert pvae.evaluate.__doc__.startswith("Bounds log p(x)")
