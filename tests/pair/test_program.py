"""What a pair can reach, and that its parameters stay its own."""

import functools
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoMultivariateNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pvae
from pvae.pair.arguments import Arguments
from pvae.pair.parameters import OwnParameters
from pvae.pair.program import evaluating, name_of
from pvae.pair.reach import modules

GLOBAL_NET = nn.Linear(1, 1)


def _uses_a_global(x):
    return GLOBAL_NET(x)


def _uses_a_global_inside(x):
    def inner():
        return GLOBAL_NET(x)

    return inner()


def _closure():
    net, nets, later = nn.Linear(2, 2), {"a": nn.Linear(3, 3)}, None

    def program(x):
        return net(x), nets["a"](x), unset

    if later:
        unset = 1
    return program, net, nets["a"]


class _Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def model(self, x):
        return self.net(x)

    def guide(self, x):
        return self.net(x)


class _Callable:
    def __init__(self):
        self.net = nn.Linear(5, 5)

    def __call__(self, x):
        return self.net(x)


def _nothing(x):
    return x


def test_modules_are_found_wherever_a_program_keeps_them():
    module, both, thing = nn.Linear(1, 1), _Both(), _Callable()
    program, net, inner = _closure()
    assert modules(module, _nothing) == {"model": module}
    assert modules(both.model, both.guide) == {"model": both}
    assert modules(_uses_a_global, _nothing) == {"model.GLOBAL_NET": GLOBAL_NET}
    assert modules(_nothing, _uses_a_global_inside) == {"guide.GLOBAL_NET": GLOBAL_NET}
    assert modules(program, _nothing) == {"model.net": net, "model.nets.a": inner}
    assert modules(thing, _nothing) == {"model.net": thing.net}
    assert modules(functools.partial(both.model, 1), _nothing) == {"model": both}
    assert modules(poutine.scale(both.model, scale=0.1), _nothing) == {"model": both}
    assert modules(config_enumerate(both.guide), both.model) == {"model": both}
    assert modules(_nothing, _nothing) == {}


def test_networks_in_a_python_module_of_the_user_are_found_and_evaluated():
    nets = types.ModuleType("nets")
    nets.encoder = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    nets.decoder, nets.other = nn.Linear(2, 4), nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(nets.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(nets.encoder(x), 1.0).to_event(1))

    found = modules(model, guide)
    assert found == {"model.nets.decoder": nets.decoder, "model.nets.encoder": nets.encoder}
    # In eval mode: with dropout the guide's density would be another at each call.
    assert pvae.log_weights(model, guide, torch.randn(8, 4), num_samples=3).isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_a_network_in_deeply_nested_containers_is_found(kind):
    network = deep = nn.Linear(4, 2)
    for _ in range(3000):
        deep = {0: deep} if kind is dict else kind([deep])

    def find():
        inner = deep
        while not isinstance(inner, nn.Module):
            inner = inner[0]
        return inner

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), x.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(find()(x), 1.0).to_event(1))

    assert list(modules(model, guide).values()) == [network]
    assert pvae.log_weights(model, guide, torch.zeros(3, 4), num_samples=2).shape == (2, 3)


class _NotComplete(PyroModule):
    def __init__(self):
        self.width = 3

    def forward(self, x):
        return _linear(x)


class _NoHead(pvae.distributions.Head):
    def __init__(self):
        self.width = 3


def test_a_module_without_its_base_constructor_is_one_message():
    inside = nn.Sequential()
    inside.part = _NotComplete()
    for model in (_NotComplete(), inside, lambda x: inside):
        with pytest.raises(pvae.PvaeError, match=r"in model.*'_NotComplete'.*super\(\)"):
            pvae.check(model, _nothing, torch.zeros(4, 2))
    with pytest.raises(pvae.PvaeError, match=r"head _NoHead is not complete.*super\(\)"):
        pvae.models.VAE((3,), 2, likelihood=_NoHead())


def test_names():
    both = _Both()
    assert name_of(both.model) == "_Both.model"
    assert name_of(poutine.scale(both.guide, scale=0.1)) == "_Both.guide"
    assert name_of(both) == "_Both"
    assert name_of(_nothing) == "_nothing"
    assert name_of(functools.partial(_nothing)) == "_nothing"
    assert name_of(functools.partial(_nothing, torch.relu)) == "_nothing"
    bound = Arguments((torch.zeros(3), 0.5)).bind(poutine.scale(both.model, scale=0.1))[0]
    assert name_of(bound) == "_Both.model"


def test_eval_mode_is_set_and_each_mode_restored():
    model, guide = _Both(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1))
    guide[1].eval()

    def evaluate():
        with evaluating(model.model, guide):
            assert not any(m.training for m in (model, model.net, guide, guide[0], guide[1]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    assert model.training
    assert model.net.training
    assert guide[0].training
    assert not guide[1].training


class _Scaled(PyroModule):
    def __init__(self, value):
        super().__init__()
        self.scale = PyroParam(torch.tensor(value), constraints.positive)
        self.weight = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        pyro.param("global", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.weight, self.scale), obs=x)


def test_modules_of_equal_names_do_not_share_and_the_store_keeps_only_what_is_its_own():
    pyro.clear_param_store()
    first, second, x = _Scaled(2.0), _Scaled(3.0), torch.zeros(4)
    own = OwnParameters(first, second)
    with own:
        poutine.trace(first).get_trace(x)
        poutine.trace(second).get_trace(x)
        assert (first.scale.item(), second.scale.item()) == pytest.approx((2.0, 3.0))
    assert set(own.parameters) == {
        "model.scale_unconstrained", "model.weight",
        "guide.scale_unconstrained", "guide.weight", "global",
    }  # fmt: skip
    assert own.parameters["guide.weight"] is second.weight
    assert list(pyro.get_param_store().keys()) == ["global"]
    assert own.stored == {"global"}
    assert (first._pyro_name, second._pyro_name) == ("", "")
    pyro.clear_param_store()


def test_values_that_pyros_store_has_by_the_same_name_are_left_alone():
    pyro.clear_param_store()
    pyro.param("scale", torch.tensor(9.0), constraint=constraints.positive)
    pyro.param("net$$$weight", torch.tensor(9.0))
    pair = _Scaled(2.0)
    with OwnParameters(pair, _nothing):
        poutine.trace(pair).get_trace(torch.zeros(3))
    assert pair.scale.item() == pytest.approx(2.0)
    assert pyro.param("scale").item() == pytest.approx(9.0)
    pyro.clear_param_store()


def test_after_pvae_the_pair_still_works_in_plain_pyro():
    pyro.clear_param_store()
    torch.manual_seed(0)
    model = pvae.models.VAE((3,), 2, likelihood="gaussian", scale="learned", hidden_dims=[4])
    guide = pvae.guides.MeanField((3,), 2, hidden_dims=[4])
    x = torch.randn(8, 3)
    pvae.fit(model, guide, x, epochs=2, batch_size=8, progress=False)
    trained = model.head.scale.item()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    svi.step(x)
    assert model.head.scale.item() != trained
    assert abs(model.head.scale.item() - trained) < 0.2
    pyro.clear_param_store()


def _linear(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("kind", [AutoDiagonalNormal, AutoMultivariateNormal, AutoIAFNormal])
def test_sites_that_are_named_after_their_module_have_one_name_everywhere(kind):
    pyro.clear_param_store()
    x, guide = torch.zeros(4, 2), kind(_linear)
    expected = (f"_{kind.__name__}_latent", "z")
    for first in (True, False):  # parameters are made at the first call
        assert pvae.check(_linear, guide, x).latent == expected, first
    assert tuple(pvae.encode(guide, x)) == expected
    with pytest.raises(pvae.PvaeError, match=f"'{expected[0]}' stands outside the batch plate"):
        pvae.log_weights(_linear, guide, x, num_samples=2)
    # Pyro's own training leaves parameters of that name in the store: they are the guide's.
    optim = pyro.optim.Adam({"lr": 0.1})
    pyro.infer.SVI(_linear, guide, optim, pyro.infer.Trace_ELBO()).step(x)
    assert pvae.check(_linear, guide, x).latent == expected


def test_a_second_guide_of_a_class_keeps_its_own_parameters():
    pyro.clear_param_store()
    x, elbo = torch.zeros(4, 2), pyro.infer.Trace_ELBO()
    guides = [AutoDiagonalNormal(_linear, init_scale=s) for s in (0.1, 0.7)]
    pyro.infer.SVI(_linear, guides[0], pyro.optim.Adam({"lr": 0.1}), elbo).step(x)
    for _ in range(2):  # the second one's name is the first's in the store
        trace = pvae.check(_linear, guides[1], x).guide_trace
        site = next(n for name, n in trace.nodes.items() if name.endswith("_latent"))
        torch.testing.assert_close(site["fn"].base_dist.scale, torch.full((8,), 0.7))
    pyro.clear_param_store()
