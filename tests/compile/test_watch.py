"""Watch and reach: what code can name is found, and noticed when it is another."""

import argparse
import functools
import types
import weakref
from collections import ChainMap, UserDict, deque

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae.compile.watch import Watch
from pvae.objectives import Beta_ELBO
from pvae.pair.program import evaluating
from pvae.pair.reach import modules

FACTOR = 1.0
TENSOR = torch.tensor(1.0)


def helper(z):
    return z * FACTOR + TENSOR


class Config:
    beta = 2.0  # of the class

    def __init__(self):
        self.power, self.unread = 1, 0
        self.nested = types.SimpleNamespace(weights=[1.0, torch.ones(2)], by_name={"a": 1})

    def scaled(self, z, by=1.0):
        return self.beta * z**self.power * by + self.nested.weights[0] * self.nested.by_name["a"]


class Slots:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = 0.5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.temperature = nn.Linear(2, 2), torch.tensor(1.0)
        self.register_buffer("shift", torch.zeros(2))
        self.config, self.slots, self.tags = Config(), Slots(), {"x", "y"}
        self.queue, self.unread = deque([1.0]), torch.zeros(1)
        self.parts = [nn.Linear(2, 2), self.twice]

    def twice(self, z):
        return 2 * z

    def forward(self, z):
        z = self.config.scaled(self.layer(z) / self.temperature + self.shift) * self.slots.rate
        return helper(self.parts[1](self.parts[0](z))) * len(self.tags) * self.queue[0]


def program_of(net):
    scale = 1.0

    def program(z, factor=3.0):
        return factor * net(z) * scale

    def rescale(value):
        nonlocal scale
        scale = value

    program.rescale = rescale
    return program


def _global_hook(net):
    return nn.modules.module.register_module_forward_hook(lambda module, inputs, out: None)


CHANGES = {
    "model.net.temperature": lambda net, _: setattr(net, "temperature", torch.tensor(1.0)),
    "model.net.shift": lambda net, _: setattr(net, "shift", torch.zeros(2)),
    "model.net.layer": lambda net, _: setattr(net, "layer", nn.Linear(2, 2)),
    "model.net.layer.weight": lambda net, _: setattr(
        net.layer, "weight", nn.Parameter(net.layer.weight.detach())
    ),
    "model.net.layer.bias.requires_grad": lambda net, _: net.layer.bias.requires_grad_(False),
    "the parameters' dtype": lambda net, _: net.layer.double(),
    "model.net.layer.training": lambda net, _: net.layer.eval(),
    "model.net.layer._forward_hooks": lambda net, _: net.layer.register_forward_hook(print),
    "model.net.layer._forward_pre_hooks": lambda net, _: net.layer.register_forward_pre_hook(print),
    "model.net.config": lambda net, _: setattr(net, "config", Config()),
    "model.net.config.power": lambda net, _: setattr(net.config, "power", 2),
    "Config.beta": lambda net, _: setattr(Config, "beta", 3.0),
    "Config.scaled": lambda net, _: setattr(Config, "scaled", lambda self, z: z),
    "model.net.config.nested.weights.0": lambda net, _: net.config.nested.weights.insert(0, 2.0),
    "model.net.config.nested.weights.1": lambda net, _: net.config.nested.weights.__setitem__(
        1, torch.ones(2)
    ),
    "model.net.config.nested.weights.2": lambda net, _: net.config.nested.weights.append(1),
    "model.net.config.nested.by_name.a": lambda net, _: net.config.nested.by_name.update(a=2),
    "model.net.slots.rate": lambda net, _: setattr(net.slots, "rate", 0.6),
    "model.net.tags": lambda net, _: net.tags.add("z"),
    "model.net.queue": lambda net, _: net.queue.append(2.0),
    "model.net.parts.0": lambda net, _: net.parts.__setitem__(0, nn.Linear(2, 2)),
    "model.net.parts.0.weight": lambda net, _: setattr(
        net.parts[0], "weight", nn.Parameter(torch.ones(2, 2))
    ),
    "model.scale": lambda _, program: program.rescale(2.0),
    "model.__defaults__": lambda _, program: setattr(program, "__defaults__", (4.0,)),
    "model.__code__": lambda _, program: setattr(
        program, "__code__", program_of(None).__code__.replace(co_name="other")
    ),
    "Net.helper": lambda *_: globals().update(helper=lambda z: z),
    "FACTOR": lambda *_: globals().update(FACTOR=2.0),
    "TENSOR": lambda *_: globals().update(TENSOR=torch.tensor(1.0)),
    "torch.nn._global_forward_hooks": lambda net, _: HANDLES.append(_global_hook(net)),
    "Beta_ELBO.beta": lambda *_: setattr(LOSS, "beta", torch.tensor(1.0)),
}
HANDLES, LOSS = [], Beta_ELBO()


@pytest.fixture
def watched():
    kept = dict(globals()), dict(vars(Config))
    net = Net()
    program = program_of(net)
    yield net, program, Watch(program, net, LOSS)
    globals().update(kept[0])
    for name in ("beta", "scaled"):
        setattr(Config, name, kept[1][name])
    LOSS.beta = 1.0
    while HANDLES:
        HANDLES.pop().remove()


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen_and_named(name, watched):
    net, program, watch = watched
    assert watch.changed() is None
    CHANGES[name](net, program)
    change = watch.changed()
    assert change is not None
    *_, last = name.split(".")
    assert change.name.rpartition(".")[2] == last or change.name.startswith(name), change.name


def test_what_is_no_change(watched):
    net, program, watch = watched
    net.unread, net.config.unread = torch.ones(1), 7  # no code asks for them
    net.temperature.fill_(3.0)  # by reference
    net.train()
    net.config.power = int("1")
    program.rescale(float("1.0"))  # another object of the same value
    for _ in range(2):
        assert watch.changed() is None
    net.config.power = 2
    assert watch.changed().name.endswith("config.power")


@pytest.mark.parametrize("kind", [types.SimpleNamespace, argparse.Namespace, UserDict, ChainMap])
def test_changes_in_options_are_seen(kind):
    options = kind({"beta": 1.0}) if kind in (UserDict, ChainMap) else kind(beta=1.0)
    held = options if kind in (UserDict, ChainMap) else vars(options)

    def program(z):
        return z * (options["beta"] if held is options else options.beta)

    watch = Watch(program, program, LOSS)
    assert watch.changed() is None
    held["beta"] = 2.0
    assert watch.changed() is not None


def test_results_of_a_call_are_no_state():
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.seen, self.size = None, [], 0

        def forward(self, z):
            self.last, self.size = 2 * z, len(z)
            self.seen.append(1)
            return self.last

    class Counting(Noting):
        def forward(self, z):
            self.size += 1

    class Carrying(Noting):
        def forward(self, z):
            self.last = self.last + z

    z = torch.ones(3)
    for kind, state in ((Noting, None), (Counting, "model.size"), (Carrying, "model.last")):
        net = kind()
        net.last = torch.zeros(3)
        net(z)
        watch = Watch(net, net, object())
        net(z)
        change = watch.settle()
        assert (change and change.name) == state
        if state is None:
            net(3 * z)
            assert watch.changed() is None


def _kept_in(how):
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))

    class Holder:
        def __init__(self):
            self.nets, self.other = {"enc": net}, nn.Linear(1, 1)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encode(x), 1.0).to_event(1))

        def encode(self, x):
            return self.nets["enc"](x)

    class Listed(Holder):
        def __init__(self):
            self.nets = [("enc", net)]

        def encode(self, x):
            return self.nets[0][1](x)

    class Weak(Holder):
        def __init__(self):
            self.net = weakref.ref(net)

        def encode(self, x):
            return self.net()(x)

    class Slot(Holder):
        __slots__ = ("encode",)

        def __init__(self):
            self.encode = functools.partial(lambda net, x: net(x), net)

    class InModule(nn.Module):
        guide = Holder.guide

        def __init__(self):
            super().__init__()
            self.encode = {"enc": net.forward}["enc"]

    class Dynamic(Holder):
        def encode(self, x):
            return getattr(self, "ne" + "ts")["enc"](x)

    holder = {"dict": Holder, "list": Listed, "weak": Weak, "slot": Slot, "module": InModule,
              "any name": Dynamic}[how]()  # fmt: skip
    return holder, net


@pytest.mark.parametrize("how", ["dict", "list", "weak", "slot", "module", "any name"])
def test_networks_are_put_in_eval_mode_wherever_they_are_kept(how):
    torch.manual_seed(0)
    holder, net = _kept_in(how)
    decoder = nn.Linear(2, 5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    found = modules(model, holder.guide)
    assert any(part is net for module in found.values() for part in module.modules())
    if how == "dict":  # what no code of the programs asks for is none of theirs
        assert all(holder.other is not module for module in found.values())
    with evaluating(model, holder.guide):
        assert not any(part.training for part in net.modules())
    assert all(part.training for part in net.modules())
    x = torch.randn(6, 5)
    torch.manual_seed(1)
    log_w = pvae.log_weights(model, holder.guide, x, num_samples=2)
    net.eval()
    torch.manual_seed(1)
    assert torch.equal(log_w, pvae.log_weights(model, holder.guide, x, num_samples=2))


def test_a_network_that_is_kept_in_a_list_is_moved_and_saved(tmp_path):
    torch.manual_seed(0)
    holder, net = _kept_in("list")
    decoder = nn.Linear(2, 5)

    def model(x):
        pyro.module("decoder", decoder)
        pyro.module("encoder", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    x = torch.randn(16, 5)
    options = {"batch_size": 8, "progress": False, "out": tmp_path}
    pvae.fit(model, holder.guide, x, epochs=1, **options)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    text = str(saved)
    assert "running_mean" in text


def test_two_networks_of_one_partial_are_both_found():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    found = modules(functools.partial(lambda a, b, x: a(b(x)), a, b), lambda x: None)
    assert {id(module) for module in found.values()} == {id(a), id(b)}


def test_an_autoguide_and_handlers_stay_the_same_from_call_to_call():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def forward(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.net(x[:, None])[:, 0] + z, 1.0), obs=x)

    model, x = Model(), torch.ones(3)
    guide = AutoNormal(model)
    loss = Trace_ELBO()
    loss.loss(model, guide, x)
    watch = Watch(pyro.poutine.scale(model, scale=0.5), guide, loss)
    loss.loss(model, guide, x)
    assert watch.settle() is None
    loss.loss(model, guide, x)
    assert watch.changed() is None
