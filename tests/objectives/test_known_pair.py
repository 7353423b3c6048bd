"""The layout of an objective's particles is compared again after the first call."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from pyro.nn import PyroModule
from torch import nn

from pvae import SVI, PvaeError, log_weights
from pvae.objectives import IWAE_ELBO, Beta_ELBO

X = 1 + torch.linspace(-2, 2, 21).reshape(7, 3).sin()


class Gated(PyroModule):
    """x ~ N(z + a h(z), 0.5²), z ~ N(0, I), with a gate a that starts at zero."""

    def __init__(self, branch):
        super().__init__()
        self.net, self.gate, self.branch = nn.Linear(3, 3), nn.Parameter(torch.zeros(())), branch

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            loc = z + self.gate * self.branch(self.net(z))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def over_columns(h):  # dimension 1 of [B, 3], and the batch of [K, B, 3]
    return torch.softmax(h, dim=1)


def gated(branch=over_columns):
    torch.manual_seed(0)
    return Gated(branch), Guide()


def repeat(times, function, *args):
    for _ in range(times):
        function(*args)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("lr", [0.05, 2e-4], ids=["at once", "slowly"])
@pytest.mark.filterwarnings("ignore:log_weights uses a tile")
def test_a_gate_that_opens_in_training_changes_the_layout(mode, lr, uncompiled):
    pair, objective = gated(), IWAE_ELBO(5)
    svi = SVI(*pair, lambda parameters: torch.optim.Adam(parameters, lr), objective, mode=mode)
    said = r"IWAE_ELBO uses a tile from call (\d+) on: .* changes log p\(x\)\. At call [13] it did"
    with pytest.warns(match=said) as found:
        repeat(20, svi.step, X)
    assert len(found) == 1
    assert svi.compiled is (mode == "compiled")
    with torch.no_grad():
        pair[0].gate.fill_(1.5)
    for loss in (objective.loss, lambda *call: svi.step(call[2])):
        torch.manual_seed(1)
        log_w = log_weights(*pair, X, num_samples=5)
        torch.manual_seed(1)
        bound = (log_w.logsumexp(0) - math.log(5)).sum().item()
        assert loss(*pair, X) == pytest.approx(-bound, rel=1e-4)


def test_a_graph_of_the_old_layout_is_dropped(uncompiled):
    pair, objective = gated(), IWAE_ELBO(5)
    svi = SVI(*pair, lambda p: torch.optim.SGD(p, 0.0), objective, mode="compiled")
    repeat(5, svi.step, X)
    with torch.no_grad():
        pair[0].gate.fill_(1.5)
    with pytest.warns(match=r"uses a tile from call 9 on"):  # the calls of the graph not counted
        repeat(6, objective.loss, *pair, X)
    torch.manual_seed(1)
    expected = objective.loss(*pair, X)
    torch.manual_seed(1)
    assert svi.step(X) == pytest.approx(expected, rel=1e-4)
    torch.manual_seed(1)
    assert svi.step(X) == pytest.approx(expected, rel=1e-4)
    assert svi.compiled


def test_a_gate_that_mixes_particles_ends_the_training():
    (model, guide), objective = gated(torch.mean), Beta_ELBO(2)
    objective.loss(model, guide, X)
    with torch.no_grad():
        model.gate.fill_(1.0)
    with pytest.raises(PvaeError, match=r"cannot compute .* plate changes .* repeats"):
        objective.loss(model, guide, X)


def test_a_right_layout_is_compared_a_few_times_and_changes_no_number():
    model, guide, x, _ = linear_gaussian()
    calls, often, losses = [], [], {}

    def counted(x):
        calls.append(len(x))
        model(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for program in (model, counted):
            objective = IWAE_ELBO(3)
            objective.loss(program, guide, x)
            (known,) = objective._known.values()
            torch.manual_seed(0)
            losses[program] = []
            for call in range(2, 101):
                known.due = 10**6 if program is model else known.due
                calls.clear()
                losses[program].append(objective.loss(program, guide, x))
                if len(calls) > 1:
                    often.append(call)
                    assert max(calls[:-1]) <= 6
    assert often == [2, 3, 9, 27, 81]
    assert losses[model] == losses[counted]
