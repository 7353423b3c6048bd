"""The optimiser: learning rates of its own, and parameters that have no gradient in some steps."""

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import quick_fit, small_pair
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from pvae import SVI

X = torch.randint(0, 2, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


def decaying(**options):
    return pyro.optim.ClippedAdam({"lr": 1e-3, **options})


@pytest.mark.parametrize(
    ("optim", "rates"),
    [
        (lambda: decaying(lrd=0.5), [1e-3 * 0.5**4, 1e-3 * 0.5**8]),
        (lambda: lambda ps: pyro.optim.clipped_adam.ClippedAdam(ps, 1e-3, lrd=0.5),
         [1e-3 * 0.5**4, 1e-3 * 0.5**8]),
        (lambda: lambda ps: ExponentialLR(torch.optim.Adam(ps, lr=0.25), 0.5), [0.25, 0.125]),
        (lambda: lambda ps: with_hook(torch.optim.Adam(ps, lr=0.25)), [0.5**6, 0.5**10]),
    ],
    ids=["ClippedAdam", "in one group", "torch schedule", "hook"],
)  # fmt: skip
def test_an_optimiser_keeps_the_rate_that_it_gives_itself(optim, rates):
    fitted = quick_fit(small_pair(), X, epochs=2, batch_size=16, optim=optim(), schedule="constant")
    assert [row["learning_rate"] for row in fitted.history] == pytest.approx(rates, rel=1e-12)


def with_hook(optimizer):
    schedule = ExponentialLR(optimizer, 0.5)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def test_a_decay_is_multiplied_with_a_schedule_that_is_asked_for():
    options = {"epochs": 2, "batch_size": 16, "schedule": lambda share: 1 - share}
    fitted = quick_fit(small_pair(), X, optim=decaying(lrd=0.5), **options)
    rates = [1e-3 * 0.5**4 * (1 - 3 / 8), 1e-3 * 0.5**8 * (1 - 7 / 8)]
    assert [row["learning_rate"] for row in fitted.history] == pytest.approx(rates, rel=1e-12)


def test_an_optimiser_made_beforehand_starts_from_its_own_rate_and_gets_it_back():
    pair = small_pair()
    optim = torch.optim.Adam([*pair[0].parameters(), *pair[1].parameters()], lr=0.1)
    LambdaLR(optim, lambda epoch: 0.5)  # sets the rate to 0.05, and notes 0.1
    for rate in (0.05, 0.02):
        optim.param_groups[0]["lr"] = rate
        rows = quick_fit(pair, X, epochs=2, batch_size=64, optim=optim).history
        assert rows[0]["learning_rate"] == rate
        assert optim.param_groups[0]["lr"] == rate


class Sometimes(torch.nn.Module):
    """Networks without a gradient in some steps: for known labels, and by an `if`."""

    def __init__(self):
        super().__init__()
        sizes = {"y": (4, 1), "z": (5, 2), "x": (3, 4), "late": (2, 4), "never": (1, 1)}
        self.net = torch.nn.ModuleDict({n: torch.nn.Linear(*s) for n, s in sizes.items()})
        self.calls = 0

    def model(self, x, y=None, late=False):
        normal = pyro.distributions.Normal
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", normal(torch.zeros(len(x), 1), 1.0).to_event(1), obs=y)
            loc = self.net["x"](torch.cat([z, y], -1))
            loc = loc + self.net["late"](z) if late else loc
            pyro.sample("x", normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, y=None, late=False):
        normal = pyro.distributions.Normal
        shift = pyro.param("only_then", torch.ones(())) if late else 0.0
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", normal(self.net["y"](x), 1.0).to_event(1))
            pyro.sample("z", normal(shift + self.net["z"](torch.cat([x, y], -1)), 1.0).to_event(1))


@pytest.mark.parametrize(
    "optim",
    [
        lambda: pyro.optim.Adam({"lr": 0.01}),
        lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}),
        lambda: pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 1.0}),
        lambda: pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.8}),
        lambda: pyro.optim.SGD({"lr": 1e-3}, {"clip_norm": 0.1}),
        lambda: pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "gamma": 0.5}
        ),
        lambda: pyro.optim.LambdaLR(
            {
                "optimizer": torch.optim.Adam,
                "optim_args": {"lr": 1e-2},
                "lr_lambda": lambda epoch: 1 / (1 + epoch),
            }
        ),
    ],
)
def test_parameters_without_a_gradient_now_and_then_move_as_in_pyro(optim, uncompiled):
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    found = {}
    for how in ("pyro", "eager", "compiled"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        both, optimiser = Sometimes(), optim()
        if how == "pyro":
            svi = pyro.infer.SVI(both.model, both.guide, optimiser, Trace_ELBO())
        else:
            svi = SVI(both.model, both.guide, optimiser, Trace_ELBO(), mode=how)
        for i in range(12):
            svi.step(x, y) if i % 3 else svi.step(x, late=i % 6 == 3)
            if hasattr(optimiser, "step") and i % 4 == 3:
                optimiser.step()
        named = {**dict(both.named_parameters()), "only_then": pyro.param("only_then")}
        found[how] = {n: p.detach().clone() for n, p in named.items()}
    assert svi.compiled, svi.why_eager
    for name, expected in found["pyro"].items():
        # torch's fused step rounds elsewhere than the step that Pyro takes
        torch.testing.assert_close(found["eager"][name], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["compiled"][name], expected, rtol=1e-5, atol=1e-6)


def test_a_frozen_parameter_stays_where_it_is():
    """A PyroModule registers its own parameters though they are frozen."""
    model, guide = small_pair()
    guide.shift = torch.nn.Parameter(torch.zeros(4))
    encode = guide.encoder.forward
    guide.encoder.forward = lambda x: encode(x) + guide.shift
    svi = SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode="eager")
    x = torch.rand(4, 1, 8, 8).round()
    for frozen in (False, False, True, False):
        guide.shift.requires_grad_(not frozen)
        before = guide.shift.detach().clone()
        svi.step(x)
        assert torch.equal(guide.shift.detach(), before) == frozen


@pytest.mark.parametrize(
    "optim",
    [
        lambda: pyro.optim.Adam({"lr": 0.01, "weight_decay": 0.1}),
        lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
        lambda: pyro.optim.Adam(lambda name: {"lr": 0.01 if "model" in name else 0.02}),
        lambda: pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.AdamW, "optim_args": {"lr": 0.01}, "gamma": 0.5}
        ),
    ],
    ids=["Adam", "SGD", "options by name", "schedule"],
)
def test_an_optimiser_of_pyro_takes_torchs_fused_step(optim):
    svi = SVI(*small_pair(), optim(), Trace_ELBO(), mode="eager")
    svi.step(X[:4])
    assert all(group["fused"] for group in svi.optim.groups)
    assert svi.optim.can_mask


@pytest.mark.parametrize("chosen", ["foreach", "differentiable", "capturable"])
def test_a_step_that_the_user_chose_is_kept(chosen):
    svi = SVI(*small_pair(), pyro.optim.Adam({"lr": 0.01, chosen: False}), Trace_ELBO())
    svi.step(X[:4])
    assert not any(group["fused"] for group in svi.optim.groups)
