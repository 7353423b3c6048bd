"""Arguments: what counts the data, and what is passed through, wherever a pair is called.

The guides are the exact posteriors, so that every log weight is log p(x), whatever was drawn.
"""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import pvae
from pvae import PvaeError
from pvae.objectives import IWAE_ELBO
from pvae.pair.arguments import Arguments

SCALE = 0.6


class Both(NamedTuple):
    x: torch.Tensor
    scale: float


def _pair(unpack):
    """z ~ N(0, 1), x ~ N(z, scale), and its exact posterior, of arguments that `unpack` reads."""

    def model(*args, **kwargs):
        x, scale, size = unpack(*args, **kwargs)
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(*args, **kwargs):
        x, scale, size = unpack(*args, **kwargs)
        precision = 1 + 1 / scale**2
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(x / scale**2 / precision, precision**-0.5))

    return model, guide


def _exact(x, scale=SCALE):
    return dist.Normal(0.0, (1 + scale**2) ** 0.5).log_prob(x)


torch.manual_seed(0)
X = torch.randn(7)
CALLS = {
    "float": (lambda x, scale: (x, scale, len(x)), (X, SCALE), {}),
    "float first": (lambda scale, x: (x, scale, len(x)), (SCALE, X), {}),
    "scalar tensor": (lambda x, scale: (x, scale, len(x)), (X, torch.tensor(SCALE)), {}),
    "by name": (lambda x, scale=9.0: (x, scale, len(x)), (X,), {"scale": SCALE}),
    "all by name": (lambda scale, x: (x, scale, len(x)), (), {"x": X, "scale": SCALE}),
    "dict": (lambda d: (d["x"], d["scale"], len(d["x"])), ({"scale": SCALE, "x": X},), {}),
    "list": (lambda xs, scale: (xs[0], scale, len(xs[1])), ([X, X], SCALE), {}),
    "named tuple": (lambda b: (b.x, b.scale, len(b.x)), (Both(X, SCALE),), {}),
    "nothing": (lambda x, y=None, s=SCALE: (x, s if y is None else 9.0, len(x)), (X, None), {}),
    "function": (lambda x, f: (x, f(), len(x)), (X, lambda: SCALE), {}),
    "batch size": (lambda x, n: (x, SCALE, n), (X, 7), {}),
    "a number that is B": (lambda x, n: (x, SCALE * n / 7, len(x)), (X, 7), {}),
    "another leading size": (lambda x, s: (x, s[1], len(x)), (X, torch.tensor([9, SCALE])), {}),
    "a tensor for each datum": (lambda x, s: (x, s, len(x)), (X, torch.full((7,), SCALE)), {}),
}


@pytest.mark.filterwarnings("ignore:log_weights uses")
@pytest.mark.parametrize("kind", CALLS)
def test_every_call_takes_what_pyros_svi_takes(kind):
    unpack, args, kwargs = CALLS[kind]
    pair, expected = _pair(unpack), _exact(X)
    assert pvae.check(*pair, *args, **kwargs).latent == ("z",)
    for strategy in ("plate", "tile", "loop"):
        log_w = pvae.log_weights(*pair, *args, **kwargs, num_samples=3, strategy=strategy)
        torch.testing.assert_close(log_w, expected.expand(3, 7))
    found = evaluate(*pair, args, **kwargs, num_samples=3, progress=False, surgery=False)
    torch.testing.assert_close(torch.from_numpy(found.log_px).float(), expected)
    loss = IWAE_ELBO(num_particles=4).loss(*pair, *args, **kwargs)
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-5)
    mean = X / SCALE**2 / (1 + 1 / SCALE**2)
    torch.testing.assert_close(pvae.encode(pair[1], *args, **kwargs)["z"], mean)
    torch.testing.assert_close(pvae.reconstruct(*pair, *args, **kwargs), mean)
    assert pvae.diagnose(*pair, *args, **kwargs).facts[0].startswith("guide: z ~ Normal")


def _trainable(unpack):
    """The pair with a location to learn; its ELBO is the data's log density under it."""
    net = nn.Linear(1, 1, bias=False)

    def wrap(program):
        def run(*args, **kwargs):
            pyro.module("net", net)
            return program(*args, **kwargs)

        return run

    def shifted(*args, **kwargs):
        x, scale, size = unpack(*args, **kwargs)
        return x - net(torch.ones(1)), scale, size

    model, guide = _pair(shifted)
    return wrap(model), wrap(guide), net


@pytest.mark.parametrize("kind", CALLS)
def test_training_cuts_what_counts_the_data_and_nothing_else(kind):
    unpack, args, kwargs = CALLS[kind]
    model, guide, net = _trainable(unpack)
    with torch.no_grad():
        net.weight.fill_(0.3)
    expected = _exact(X - 0.3).mean().item()
    options = {"epochs": 1, "batch_size": 3, "lr": 1e-30, "loss": Trace_ELBO(), "progress": False}
    found = pvae.fit(model, guide, args, **options, **kwargs)  # minibatches of 3, 3 and 1
    assert found.history[0]["elbo"] == pytest.approx(expected, abs=1e-5)


def _sequences():
    lengths = torch.tensor([2, 5, 1, 4, 5, 3])
    x = torch.randn(6, 5) * (torch.arange(5) < lengths[:, None])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)

    def read(packed):
        assert isinstance(packed, PackedSequence)
        x, lengths = pad_packed_sequence(packed, batch_first=True, total_length=5)
        return x, torch.arange(5) < lengths[:, None], lengths

    def model(packed):
        x, mask, _ = read(packed)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            fn = dist.Normal(z[..., None], SCALE).expand((*z.shape, 5))
            pyro.sample("x", fn.mask(mask).to_event(1), obs=x)

    def guide(packed):
        x, _, lengths = read(packed)
        precision = 1 + lengths / SCALE**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) / SCALE**2 / precision, precision**-0.5))

    def log_px(i):
        n = int(lengths[i])
        covariance = SCALE**2 * torch.eye(n) + 1
        return dist.MultivariateNormal(torch.zeros(n), covariance).log_prob(x[i, :n])

    return model, guide, packed, torch.stack([log_px(i) for i in range(6)])


@pytest.mark.filterwarnings("ignore:log_weights uses")
def test_packed_sequences_are_cut_and_repeated_by_sequence():
    model, guide, packed, expected = _sequences()
    for strategy in ("plate", "tile", "loop"):
        log_w = pvae.log_weights(model, guide, packed, num_samples=3, strategy=strategy)
        torch.testing.assert_close(log_w, expected.expand(3, 6))
    found = evaluate(model, guide, (packed,), num_samples=3, progress=False)
    torch.testing.assert_close(torch.from_numpy(found.log_px).float(), expected)
    call = Arguments((packed,))
    assert call.names == ["0.data", "0.lengths"]
    ((again,), _) = call.filled(call.batch)
    for ours, theirs in zip(again, packed, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("steps", ["of the tensor", "of the lengths", "of total_length"])
def test_minibatches_without_the_longest_sequence(steps):
    """A padded tensor keeps its steps, a PackedSequence does not: it trains, or says so."""
    lengths = torch.tensor([4, 3, 2, 1])
    x = torch.randn(4, 4)
    packed = pack_padded_sequence(x, lengths, batch_first=True)

    def read(x, packed):
        total = x.size(1) if steps == "of total_length" else None
        padded, lengths = pad_packed_sequence(packed, batch_first=True, total_length=total)
        num = int(lengths.max()) if steps == "of the lengths" else x.size(1)
        return [padded[:, t] for t in range(num)], lengths

    def model(x, packed):
        columns, lengths = read(x, packed)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for t, column in enumerate(columns):
                pyro.sample(f"x_{t}", dist.Normal(z, 1.0).mask(t < lengths), obs=column)

    def guide(x, packed):
        columns, lengths = read(x, packed)
        loc = pyro.param("loc", torch.tensor(0.0))
        total = sum(column * (t < lengths) for t, column in enumerate(columns))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + total / (1 + lengths), (1 + lengths) ** -0.5))

    pyro.clear_param_store()
    options = {"epochs": 1, "batch_size": 2, "lr": 1e-30, "loss": Trace_ELBO(), "progress": False}
    if steps == "of the tensor":
        with pytest.raises(PvaeError, match=r"lack the longest.* \d steps here and 4 with"):
            pvae.fit(model, guide, (x, packed), **options)
        options["batch_size"] = 4
    expected = [
        dist.MultivariateNormal(torch.zeros(n), torch.eye(n) + 1).log_prob(x[4 - n, :n])
        for n in (1, 2, 3, 4)
    ]
    found = pvae.fit(model, guide, (x, packed), **options)
    assert found.history[0]["elbo"] == pytest.approx(float(sum(expected)) / 4, abs=1e-5)


def test_a_sorted_pack_stays_sorted():
    packed = pack_padded_sequence(torch.randn(3, 4), torch.tensor([4, 2, 2]), batch_first=True)
    call = Arguments((packed,))
    ((again,), _) = call.filled(call.batch)
    assert again.sorted_indices is None
    assert torch.equal(again.data, packed.data)


def test_an_integer_that_is_the_size_by_chance_is_left_alone_and_a_count_is_not():
    for kind, counts in (("batch size", True), ("a number that is B", False), ("float", False)):
        unpack, args, kwargs = CALLS[kind]
        call = Arguments(args, kwargs)
        call.bind(*_pair(unpack))
        assert call.counting == counts


def test_a_count_that_subsamples_is_one():
    def program(x, n):
        with pyro.plate("data", len(x), subsample_size=n) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return z, x[rows]

    def model(x, n):
        z, x = program(x, n)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, SCALE), obs=x)

    call = Arguments((X, 7))
    call.bind(model, program)
    assert call.counting


def test_what_is_passed_through_is_named_when_the_programs_fail():
    pair = _pair(lambda x, s: (x, s, len(x)))
    with pytest.raises(PvaeError, match=r"not the number of data \(7\): argument 1 \[6\]"):
        pvae.log_weights(*pair, X, torch.full((6,), SCALE), num_samples=2)


def test_an_unknown_name_is_the_programs_to_refuse():
    pair = _pair(lambda x, scale=SCALE: (x, scale, len(x)))
    with pytest.raises(PvaeError, match="unexpected keyword argument 'num_sample'"):
        evaluate(*pair, X, num_sample=3)


def test_nothing_that_counts_data():
    pair = _pair(lambda x: (x, SCALE, len(x)))
    with pytest.raises(PvaeError, match="it holds float, dict"):
        pvae.check(*pair, 0.5, {"x": torch.tensor(1.0)})
    with pytest.raises(PvaeError, match=r"Argument 0\['x'\] of the batch holds NaN .* row 1"):
        pvae.check(*pair, {"x": torch.tensor([0.0, torch.nan])})


def test_data_of_a_part_with_arguments_by_name():
    data = pvae.data.load("digits", observation="grey")
    guide = pvae.guides.MeanField((1, 8, 8), 2)

    def model(x, shift=0.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = shift + z.sum(-1)[..., None, None, None]
            pyro.sample(
                "x", dist.Normal(loc.expand(*z.shape[:-1], 1, 8, 8), 1.0).to_event(3), obs=x
            )

    def reads(x, shift=0.0):
        return guide(x)

    options = {"epochs": 1, "lr": 1e-30, "progress": False, "loss": Trace_ELBO()}
    near, far = (pvae.fit(model, reads, data, **options, shift=s) for s in (0.0, 9.0))
    assert far.history[0]["elbo"] < near.history[0]["elbo"] - 1000
    options = {"num_samples": 2, "prior_samples": 0, "surgery": False, "progress": False}
    near, far = (evaluate(model, reads, data, **options, shift=s) for s in (0.0, 9.0))
    assert far.elbo.mean() < near.elbo.mean() - 1000
    near, far = (pvae.reconstruct(model, reads, data.test.x, shift=s) for s in (0.0, 9.0))
    torch.testing.assert_close(far, near + 9)
    codes = pvae.encode(reads, data.test, shift=1.0)
    assert codes["z"].shape == (297, 2)
