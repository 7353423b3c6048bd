"""Path gradients: what is held is found by the density, not by where a guide keeps it."""

import functools
import types
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from linear_pairs import (
    OneModel,
    TwoGuide,
    TwoModel,
    apply,
    copies,
    own,
    rand,
    same_mean,
)
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae.objectives import IWAE_ELBO, STL_ELBO, DReG_ELBO
from pvae.objectives.path import Cut, along


class Slot:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


HIDDEN = {
    "list": lambda net: [net].__getitem__(0),
    "lambda": lambda net: lambda x: net(x),
    "default": lambda net: lambda x, net=net: net(x),
    "partial": lambda net: functools.partial(net),
    "method": lambda net: net.forward,
    "slot": Slot,
    "weak": weakref.proxy,
    "object": lambda net: types.SimpleNamespace(nets={"a": [net]}),
    "plain tensors": lambda net: functools.partial(F.linear, weight=net.weight, bias=net.bias),
}


def _pair(hide):
    """A guide that shares the model's network h(x), and hides where it is."""
    torch.manual_seed(0)
    net, decoder = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()
    kept = (net, decoder, hide(net))
    encode = kept[2].nets["a"][0] if hasattr(kept[2], "nets") else kept[2]

    def model(x):
        with pyro.plate("data", len(x)):
            prior = 0.1 * net(torch.ones_like(x)).chunk(2, -1)[0]
            z = pyro.sample("z", dist.Normal(prior, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    class Guide:
        def __call__(self, x):
            loc, raw = encode(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, Guide(), [*net.parameters(), *decoder.parameters()], kept


def _gradient(objective, model, guide, parameters, x):
    torch.manual_seed(1)
    return torch.autograd.grad(objective.differentiable_loss(model, guide, x), parameters)


@pytest.mark.parametrize("objective", [STL_ELBO(3), DReG_ELBO(3)])
@pytest.mark.parametrize("how", HIDDEN)
def test_gradients_do_not_depend_on_where_a_network_is_kept(how, objective):
    model, guide, parameters, _kept = _pair(HIDDEN[how])
    x = rand(4, 3, seed=3)
    found = _gradient(objective, model, guide, parameters, x)

    # From the definition: φ in log q is a constant, φ in the path and in p is not.
    (weight, bias, w, b), num = parameters, 3
    torch.manual_seed(1)
    noise = torch.randn(num, 4, 2, dtype=torch.float64)
    loc, raw = F.linear(x, weight, bias).chunk(2, -1)
    z = loc + raw.exp() * noise
    prior = 0.1 * F.linear(torch.ones_like(x), weight, bias).chunk(2, -1)[0]
    log_p = dist.Normal(prior, 1.0).log_prob(z).sum(-1)
    log_p = log_p + dist.Normal(F.linear(z, w, b), 1.0).log_prob(x).sum(-1)
    at = z.detach().requires_grad_()
    log_q = dist.Normal(loc.detach(), raw.exp().detach()).log_prob(at).sum(-1)
    (slope,) = torch.autograd.grad(log_q.sum(), at)
    share = (log_p - log_q).detach().softmax(0)
    first = share if isinstance(objective, DReG_ELBO) else torch.full_like(share, 1 / num)
    second = share if isinstance(objective, DReG_ELBO) else torch.ones_like(share)
    # Model's parameters by the first factor, the path by both.
    at = z.detach().requires_grad_()
    direct = dist.Normal(prior, 1.0).log_prob(at).sum(-1)
    direct = direct + dist.Normal(F.linear(at, w, b), 1.0).log_prob(x).sum(-1)
    (pull,) = torch.autograd.grad(direct.sum(), at, retain_graph=True)
    path = ((first * second)[..., None] * (pull - slope) * z).sum()
    expected = torch.autograd.grad(-(first * direct).sum() - path, parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[0].abs().max() > 1e-3


def _small(name):
    if name == "SharedEncoder":
        model = pvae.models.VampPriorVAE((5,), 2, num_pseudo_inputs=3, hidden_dims=(4,)).double()
        return model, pvae.guides.SharedEncoder(model)
    model = pvae.models.HierarchicalVAE((5,), latent_dims=(2, 2), hidden_dims=((4,), (4,)))
    return model.double(), pvae.guides.Ladder((5,), model).double()


@pytest.mark.parametrize("name", ["SharedEncoder", "Ladder"])
@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_guides_that_share_the_models_networks(path, name):
    torch.manual_seed(0)
    model, guide = _small(name)
    x = torch.rand(2, 5, dtype=torch.float64).round()
    parameters = [*model.parameters(), *guide.parameters()]

    def rows(objective, repeat=150, calls=8):
        found = []
        for _ in range(calls):
            loss = objective.differentiable_loss(model, guide, x.repeat(repeat, 1))
            found.append(torch.autograd.grad(loss / repeat, parameters))
        return torch.stack([torch.cat([g.flatten() for g in each]) for each in found])

    ours, theirs = rows(path(3)), rows(IWAE_ELBO(3 if path is DReG_ELBO else 1))
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt().clamp(min=1e-12)
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 9


class Scaled(PyroModule):
    """Another scale, or a mask, for each latent site of a program."""

    def __init__(self, inner, scales=(1.0, 1.0), masks=(True, True)):
        super().__init__()
        self.inner, self.scales, self.masks = inner, scales, masks

    def forward(self, x):
        values = dict(zip(("z_1", "z_2"), zip(self.scales, self.masks, strict=True), strict=True))

        class PerSite(poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                if msg["name"] in values:
                    scale, mask = values[msg["name"]]
                    msg["scale"] = msg["scale"] * scale
                    msg["mask"] = mask if msg["mask"] is None else msg["mask"] & mask

        with PerSite():
            return self.inner(x)


def _rows(objective, size, seed, **options):
    pyro.clear_param_store()  # a parameter of TwoGuide has the size of the batch
    model, guide = (Scaled(part(size), **options) for part in (TwoModel, TwoGuide))
    x = copies(size)
    named = [*model.named_parameters(), *guide.named_parameters()]
    named = [(n, p) for n, p in named if "one.log_scale" not in n]
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(model, guide, x)
    return torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, [p for _, p in named])], -1)


@pytest.mark.parametrize("scales", [(0.2, 1.5), (torch.tensor(0.2), torch.tensor(1.5))])
def test_latent_sites_of_different_scales(scales):
    ours = _rows(DReG_ELBO(4), 5_000, 1, scales=scales)
    theirs = _rows(IWAE_ELBO(4), 10_000, 2, scales=scales)
    assert same_mean(ours, theirs)


def test_a_latent_site_that_is_masked():
    # Its density does not count, so that its score needs no second factor.
    masks = True, torch.tensor(False)
    ours = _rows(DReG_ELBO(4), 5_000, 1, masks=masks)
    theirs = _rows(IWAE_ELBO(4), 10_000, 2, masks=masks)
    assert same_mean(ours, theirs)


class Dropping(PyroModule):
    """q(z|x) with dropout and batch normalisation."""

    def __init__(self, size):
        super().__init__()
        self.gain, self.loc = own(size, rand(2, 3, seed=8)), own(size, rand(2, seed=9))
        self.norm = nn.BatchNorm1d(3, affine=False).double()

    def forward(self, x):
        self.norm(x)
        with pyro.plate("data", len(x)):
            loc = apply(self.gain, F.dropout(x, 0.5, self.training)) + self.loc
            pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))


@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_dropout_and_batch_normalisation_in_the_guide(path):
    """The guide runs once, so that draws and density have one mask, and statistics one update."""
    found = []
    for objective, size in ((path(3), 5_000), (IWAE_ELBO(3 if path is DReG_ELBO else 1), 10_000)):
        model, guide = OneModel(size), Dropping(size)
        torch.manual_seed(size)
        loss = objective.differentiable_loss(model, guide, copies(size))
        grads = torch.autograd.grad(loss, [guide.gain, guide.loc, model.weight])
        found.append(torch.cat([g.flatten(1) for g in grads], -1))
        assert guide.norm.num_batches_tracked == 1
    assert same_mean(*found)


@pytest.mark.parametrize("objective", [DReG_ELBO(2), STL_ELBO(2)])
def test_a_factor_of_the_guide_is_differentiated_through_its_draws(objective):
    parameter = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def guide(x, strength):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(parameter, 0.5).to_event(1))
            z_2 = pyro.sample("z_2", dist.Normal(2 * z, 0.5).to_event(1))
            pyro.factor("f", strength * (parameter * z_2).sum(-1), has_rsample=True)

    def model(x, strength):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("z_2", dist.Normal(z, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x, found = rand(5, 2, seed=1), []
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        loss = objective.differentiable_loss(model, guide, x, strength)
        found.append(torch.autograd.grad(loss, parameter)[0])
    torch.manual_seed(0)
    first = parameter + 0.5 * torch.randn(2, 5, 2, dtype=torch.float64)
    second = 2 * first + 0.5 * torch.randn(2, 5, 2, dtype=torch.float64)
    expected = torch.autograd.grad((parameter * second).sum() / 2, parameter)[0]
    torch.testing.assert_close(found[1] - found[0], expected)


def test_a_function_of_another_draw_has_no_score_to_leave_out():
    """The slope a of a Delta in both programs gets the bound's gradient on the same draws."""
    a, x = torch.tensor(0.5, requires_grad=True), torch.tensor([0.3, -0.5, 1.2]).repeat(50)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            c = pyro.sample("c", dist.Delta(a * z))
            pyro.sample("x", dist.Normal(c, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 0.8))
            pyro.sample("c", dist.Delta(a * z))

    found = []
    for objective in (IWAE_ELBO(4), DReG_ELBO(4)):
        torch.manual_seed(0)
        found += torch.autograd.grad(objective.differentiable_loss(model, guide, x), a)
    assert abs(found[0]) > 1
    assert torch.allclose(*found)


def test_along_by_hand():
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def program():
        z_1 = pyro.sample("z_1", dist.Normal(a, 1.0))
        return pyro.sample("z_2", dist.Normal(a * z_1, 1.0)), a

    with Cut() as cut:
        program()
    z_1, z_2 = cut.points.values()
    value, draws = along(a * z_1 * z_2, cut)
    assert value == a * z_1 * z_2
    assert torch.equal(draws["z_2"], z_2)
    # dz_1/da = 1, dz_2/da = z_1 + a dz_1/da; the factor a is held.
    expected = a * z_2 + a * z_1 * (z_1 + a)
    torch.testing.assert_close(torch.autograd.grad(value, a)[0], expected.detach())
