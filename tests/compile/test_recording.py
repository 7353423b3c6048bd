"""What a recording must not leave out: values that leave torch, other devices, random numbers."""

import copy
import random
import re
import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small import Decoder, Encoder, take_steps
from torch._subclasses.fake_tensor import FakeTensorMode
from zoo import ZOO

from pvae.compile.graph import Graph, in_words
from pvae.compile.recording import LeavesTorch, record
from pvae.compile.signature import Recorded

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
META = torch.device("meta")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def _partly():
    numbers = torch.zeros(3)
    numbers[1] = X.sum()
    return numbers.tolist()


WEIGHT = torch.ones(4, requires_grad=True)
EXITS = {
    "numpy": lambda: X.numpy(),
    "detach": lambda: (WEIGHT * X).detach().cpu().numpy(),
    "asarray": lambda: np.asarray(X.exp()),
    "ufunc": lambda: np.sqrt(X.abs()),
    "tolist": lambda: X.tolist(),
    "sum": lambda: X.sum().tolist(),
    "dlpack": lambda: np.from_dlpack(X),
    "deepcopy": lambda: copy.deepcopy(X),
    "parameter": lambda: WEIGHT.detach().numpy(),
    "autograd.Function": lambda: Doubled.apply(WEIGHT * X),
    "numbers and data": _partly,
    "random numbers": lambda: torch.randperm(3).tolist(),
}


@pytest.mark.parametrize("name", EXITS)
def test_values_that_leave_torch(name):
    def function():
        EXITS[name]()
        return [2 * X]

    with pytest.raises(LeavesTorch) as caught:
        record(function, [X])
    said = rf"a program takes values out of torch by Tensor\.\w+ \(at {__file__}:\d+\), and a graph"
    assert re.match(said, in_words(caught.value))


@pytest.mark.parametrize("decide", [float, int, bool, range], ids=str)
def test_decisions_by_a_value(decide):
    with pytest.raises(RuntimeError) as caught:
        record(lambda: [X * (decide(X.sum().long()) is None)], [X])
    assert in_words(caught.value).startswith("a program decides by the value of a tensor")


def test_values_of_numbers_alone_are_told(uncompiled):
    def function():
        sizes = torch.tensor([1, 3])
        first, rest = X.split(sizes.tolist(), -1)
        count = torch.prod(torch.tensor(X.shape)).item()
        steps = torch.linspace(0, 1, 4).numpy()
        if torch.arange(3).sum() == 3 and float(torch.ones(()) / 4) == 0.25:
            return [first.sum() / count + rest.mean() + torch.from_numpy(steps)]
        return []

    other = X + 1
    (found,) = Graph(function, [X])([other])
    expected = other[:, :1].sum() / 24 + other[:, 1:].mean() + torch.linspace(0, 1, 4)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.tensor([x.sum(), 2.0, x.mean().item(), 3]),
        lambda x: torch.tensor([[1, (x[0] > 0).sum()], [2, x.shape[0]]]),
        lambda x: torch.as_tensor((x.amax(), x.amin()), dtype=torch.float64),
        lambda x: torch.asarray([x.sum()]),
        lambda x: x.new_tensor([1, x.sum()]),
        lambda x: torch.tensor(data=[x.sum()], requires_grad=True).detach(),
        lambda x: torch.tensor(x.sum().item()),
    ],
    ids=["list", "nested integers", "as_tensor", "asarray", "new_tensor", "keyword", "one"],
)
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_lists_of_tensors(make):
    """torch copies their values, and no operation tells of it."""
    program, _ = record(lambda: [make(X)], [X])
    other = X.flip(0) * 2 + 1
    (found,), expected = program(other), make(other)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, make(X))


def test_sizes_that_depend_on_values(compiler):
    """PyTorch's error is a page long, of which one word tells something."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        Graph(lambda: [X * len(X[X > 0])], [X])
    assert in_words(caught.value) == (
        "the size of a tensor depends on the values of another (nonzero), as in x[x > 0]. Keep the "
        "size, for example with torch.where"
    )


def test_one_fake_mode_serves_all_values(monkeypatch):
    """One for each value, with its call stack, takes half the time of a recording."""
    made, init = [], FakeTensorMode.__init__

    def count(self, **options):
        made.append(self)
        init(self, **options)

    monkeypatch.setattr(FakeTensorMode, "__init__", count)
    program, _ = record(lambda: [X.exp().sin() + 1], [X])
    assert len(made) == 1
    torch.testing.assert_close(program(2 * X)[0], (2 * X).exp().sin() + 1)


OWN = random.Random(0), np.random.default_rng(0), np.random.RandomState(0)


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        lambda: np.random.rand(),
        lambda: OWN[0].random(),
        lambda: OWN[1].normal(),
        lambda: OWN[2].rand(),
        lambda: random.random() < 1e-9,  # which would hardly ever be noticed
    ],
    ids=["random", "numpy", "own Random", "own Generator", "own RandomState", "seldom"],
)
def test_random_numbers_of_others(draw):
    with pytest.raises(LeavesTorch, match="draws random numbers from Python or NumPy"):
        record(lambda: [X * draw()], [X])


def test_random_numbers_that_are_always_the_same():
    table = torch.from_numpy(np.random.default_rng(3).normal(size=4))
    program, _ = record(lambda: [X * torch.tensor(np.random.default_rng(3).normal(size=4))], [X])
    torch.testing.assert_close(program(2 * X)[0], 2 * X * table)


def _step(model, guide, loss, x):
    def function():
        found = loss.differentiable_loss(model, guide, x)
        trained = [p for part in (model, guide) for p in part.parameters()]
        return [found, *torch.autograd.grad(found, trained, allow_unused=True)]

    return function


def _devices(program):
    """Of all that nodes are and read, and of what they are told to make."""
    found = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr":
            value = getattr(program, node.target)
        if isinstance(value, torch.Tensor):
            found.add(value.device)
        if "device" in node.kwargs:
            found.add(node.kwargs["device"])
    return found


@pytest.mark.parametrize("name", ["dense", "convolutional", "gaussian", "mixture prior"])
def test_every_tensor_of_a_step_is_on_the_device(name):
    """Seen without a GPU: the pair is moved to `meta`, as it would be to one."""
    model, guide = (part.to(META) for part in ZOO[name][0]())
    loss = TraceMeanField_ELBO() if name == "dense" else Trace_ELBO()
    x = torch.empty(5, 1, 8, 8, device=META)
    program, device = record(_step(model, guide, loss, x), [x])
    assert device == META
    assert _devices(program) == {META}


def _numbers():
    """Programs that name no device: their numbers are made wherever torch makes them."""

    def likelihood(x, loc):
        half = torch.tensor(0.5, dtype=torch.float64) * torch.ones(())
        return dist.Normal(half * loc, half * loc.exp())

    def posterior(loc):
        return dist.Normal(loc - torch.tensor(2.0), torch.tensor(2.0) * loc.exp())

    return Decoder(likelihood), Encoder(posterior)


def test_numbers_are_made_on_the_device():
    model, guide = (part.to(META) for part in _numbers())
    x = torch.empty(5, 4, device=META)
    program, device = record(_step(model, guide, Trace_ELBO(), x), [x])
    assert device == META
    assert _devices(program) == {META}
    plain, _ = record(_step(*_numbers(), Trace_ELBO(), X), [X])
    same = [[n.meta["val"].dtype for n in p.graph.nodes if n.op == "call_function"
             and n.target == torch.ops.aten.mul.Tensor] for p in (plain, program)]  # fmt: skip
    assert same[0] == same[1]  # types are promoted as before


def test_what_stays_on_the_host():
    held, x = torch.tensor(2.0), torch.empty(5, device=META)
    for function, inputs in (
        (lambda: [x * held], [x]),  # found elsewhere
        (lambda: [x * held], [x, held]),  # an input
        (lambda: [x * torch.rand(())], [x]),  # other random numbers, if it were drawn there
        (lambda: [x, held + 1], [x]),  # returned
        (lambda: [x * torch.tensor(1.0, device="cpu")], [x]),  # said so
    ):
        assert record(function, inputs)[1] is None
    assert record(lambda: [x * torch.tensor(1.0)], [x])[1] == META


def test_numbers_among_the_arguments_are_sent_to_the_device(uncompiled):
    """A float, a schedule, and a tensor without dimensions that is on the CPU."""
    weight, holder = torch.empty(3, device=META), {"beta": 0.5}

    def function(x, factor, *, power):
        return [(holder["beta"] * factor * weight * x) ** power]

    x = torch.empty(3, device=META)
    schedules = [(holder, "beta")]
    for power in (torch.tensor(2.0), torch.tensor(2)):
        args, kwargs = (x, 0.5), {"power": power}
        recorded = Recorded(function, [weight], [weight], schedules, args, kwargs)
        assert recorded.device == META
        (found,) = recorded(args, kwargs)
        assert (found.device, found.dtype) == (META, torch.float32)
        inputs = recorded._inputs(args, kwargs)
        assert [(t.dtype, t.ndim) for t in inputs[2:]] == [(torch.float64, 0), (power.dtype, 0)]
        assert {t.device for t in inputs} == {META}


@pytest.mark.parametrize("name", PROGRAMS)
def test_third_party_programs_take_nothing_out(name):
    model, guide, batch, _ = PROGRAMS[name]()
    _, device = record(lambda: [Trace_ELBO().differentiable_loss(model, guide, *batch)], batch)
    assert device == torch.device("cpu")


def test_a_remark_on_precision_is_not_passed_on(monkeypatch, recwarn):
    def compile(program, inputs, options):
        warnings.warn("TensorFloat32 tensor cores for float32 ... available", stacklevel=2)
        warnings.warn("something else", stacklevel=2)
        return program

    monkeypatch.setattr(torch._inductor, "compile", compile)
    Graph(lambda: [2 * X], [X])
    assert [str(w.message) for w in recwarn] == ["something else"]


def _outside(values):
    """sigmoid by NumPy."""
    return torch.from_numpy(1 / (1 + np.exp(-values.numpy())))


@pytest.mark.parametrize("outside", [_outside, lambda t: torch.tensor(t.tolist()).sigmoid()])
def test_compiled_training_of_a_program_that_leaves_torch(uncompiled, outside):
    def steps(mode):
        torch.manual_seed(0)
        pair = Decoder(lambda x, loc: dist.Normal(loc, 0.5 + outside(x))), Encoder()
        return take_steps(pair, mode, lambda i: X + i, steps=2)[0]

    eager = steps("eager")
    with pytest.warns(UserWarning, match=r"eagerly .*: a program takes values out of"):
        assert steps("compiled") == eager
