"""What is no tensor to compute with, and no program: one message each; odd and right: it works."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import quick_fit
from torch import nn

import pvae
from pvae import PvaeError
from pvae.pair.tensors import TensorSplit
from pvae.training.optimiser import Optimiser

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def _pair(dtype=torch.float32):
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(4, 2, dtype=dtype), nn.Linear(2, 4, dtype=dtype)

    def model(x, *aside):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(len(x), 2, dtype=dtype), 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x, *aside):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return model, guide


def _calls(model, guide, *args):
    return {
        "check": lambda: pvae.check(model, guide, *args),
        "log_weights": lambda: pvae.log_weights(model, guide, *args, num_samples=2),
        "evaluate": lambda: pvae.evaluate(model, guide, args, num_samples=10),
        "encode": lambda: pvae.encode(guide, *args),
        "fit": lambda: quick_fit((model, guide), args, epochs=1),
        "step": lambda: pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode="eager").step(
            *args
        ),
    }


def _freed():
    x = X.clone()
    x.untyped_storage().resize_(0)
    return x


ODD = {
    "sparse": (lambda: X.to_sparse(), "sparse_coo.*x.to_dense"),
    "rows of a sparse one": (lambda: X.to_sparse_csr(), "sparse_csr.*x.to_dense"),
    "nested": (lambda: torch.nested.nested_tensor([X, X[:2]]), "nested tensor.*to_padded_tensor"),
    "meta": (lambda: X.to("meta"), "meta device"),
    "quantised": (
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
        "quantised.*x.dequantize",
    ),
    "eight bits": (lambda: X.to(torch.float8_e4m3fn), "float8_e4m3fn.*x.float"),
    "wide view": (lambda: torch.zeros(1, 1).expand(10**10, 4), "160 GB if written out"),
    "wide event": (lambda: torch.zeros(1, 1).expand(2, 10**10), "80 GB if written out"),
    "freed": (_freed, "has lost its memory"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_without_dense_values_is_one_message_everywhere(kind, monkeypatch):
    monkeypatch.setattr("pvae.pair.dense.too_large", lambda size, device: size > 1 << 33)
    make, words = ODD[kind]
    x = make()
    for name, call in _calls(*_pair(), x).items():
        if name == "step" and kind in ("freed", "wide view"):  # a step does not check it first
            continue
        with pytest.raises(PvaeError, match=words):
            call()
    if kind not in ("nested", "wide view"):
        with pytest.raises(PvaeError, match=words):
            pvae.check(*_pair(), X[: len(x)], x)
    assert words.split(".*")[0] in pvae.diagnose(*_pair(), x).faults[0]


@pytest.mark.filterwarnings("ignore")
def test_odd_and_right_tensors_work_and_give_the_same_numbers():
    wide = torch.zeros(12, 8)
    wide[::2, ::2] = X
    conjugate = torch.complex(X, -X).conj().imag  # a tensor with the negative bit
    assert conjugate.is_neg()
    right = pvae.log_weights(*_pair(), X, num_samples=2)
    grown = (X.clone().requires_grad_() * 1).detach() + 0 * X.clone().requires_grad_()
    for x in (wide[::2, ::2], X.T.contiguous().T, conjugate, nn.Parameter(X.clone()), grown):
        assert torch.allclose(pvae.log_weights(*_pair(), x, num_samples=2), right, atol=1e-5)
        assert len(quick_fit(_pair(), x, epochs=2).history) == 2
        assert pvae.evaluate(*_pair(), x, num_samples=10) is not None
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        pair, x = _pair(dtype), X.to(dtype)
        assert pvae.check(*pair, x).latent == ("z",)
        assert pvae.evaluate(*pair, x, num_samples=10) is not None
        assert len(quick_fit(pair, x, epochs=1).history) == 1
    # A sparse tensor that does not count the data is the programs' own.
    aside = torch.eye(3).to_sparse()
    assert pvae.evaluate(*_pair(), (X, aside), num_samples=10) is not None


def test_the_hash_of_data_is_that_of_their_bytes():
    half = X.bfloat16()
    assert TensorSplit(half).hash == TensorSplit(half.clone()).hash != TensorSplit(half + 1).hash
    assert TensorSplit(X).hash == TensorSplit(X.T.contiguous().T).hash
    a, b = torch.eye(3).to_sparse(), 2 * torch.eye(3).to_sparse()
    assert TensorSplit((X, a)).hash == TensorSplit((X, a.clone())).hash != TensorSplit((X, b)).hash


def test_arrays_of_any_order_are_read_and_those_of_no_numbers_refused():
    x = X.numpy()
    for same in (x[::-1].copy()[::-1], x.astype(">f4"), x.T.copy().T):
        assert torch.equal(TensorSplit(same).tensors()[0], X)
    for odd in (x.astype(object), x.astype(str), x.astype("datetime64[D]")):
        with pytest.raises(PvaeError, match=r"Argument 0 of the data is an array of dtype.*astype"):
            TensorSplit(odd)
    with pytest.raises(PvaeError, match="Argument 1 of the data"):
        TensorSplit((X, x.astype(np.str_)))


def test_a_container_that_is_in_itself_has_no_end():
    whole, row = {"x": X}, [X]
    whole["whole"] = whole
    row.append(row)
    for each in (whole, row):
        with pytest.raises(PvaeError, match="contains itself or is nested too deeply"):
            pvae.check(*_pair(), each)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", ["model", X, [len], 3, None, nn.Linear])
def test_what_is_no_program_is_said(odd):
    words = "class.*Create an object" if isinstance(odd, type) else "is given. Give the program"
    model, guide = _pair()
    calls = {**_calls(odd, guide, X), "generate": lambda: pvae.generate(odd, 3, X)}
    calls |= {f"{name}, guide": call for name, call in _calls(model, odd, X).items()}
    del calls["encode"]
    for call in calls.values():
        with pytest.raises(PvaeError, match=words):
            call()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("site", "words"),
    [
        (lambda: pyro.sample("a", dist.Normal(0.0, 1.0), obs=0.3), "'a' observes a float"),
        (lambda: pyro.sample("a", dist.Normal(0.0, 1.0), obs=[1.0]), "'a' observes a list"),
        (lambda: pyro.sample("a", lambda: torch.zeros(())), "'a' is drawn by <lambda>"),
    ],
)
def test_a_site_without_a_density_of_a_tensor_is_named(site, words):
    model, guide = _pair()
    programs = {
        "model": (lambda x: (site(), model(x)), guide),
        "guide": (model, lambda x: (site(), guide(x))),
    }
    for role, pair in programs.items():
        for name in ("check", "log_weights", "evaluate", "fit"):
            with pytest.raises(PvaeError, match=f"The {role} .*{words}"):
                _calls(*pair, X)[name]()


def test_truth_values_under_a_density_of_floats_are_said():
    guide = _pair()[1]

    def binary(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            logits = z.sum(-1, keepdim=True).expand(-1, 4)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    for values in (X > 0, (X > 0).byte()):
        with pytest.raises(PvaeError, match=r"Bernoulli has no density of .*obs=x.float\(\)"):
            pvae.check(binary, lambda x: guide(x.float()), values)
    assert pvae.check(binary, guide, (X > 0).float()).observed == ("x",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("enough", [False, True])
def test_a_draw_of_all_pairs_of_data_is_refused_before_it_is_made(enough, monkeypatch):
    monkeypatch.setattr("pvae.pair.bounded._LARGE", 1000)
    monkeypatch.setattr("pvae.pair.bounded.free_memory", lambda device: 10**9 if enough else 3000)
    model, encoder = _pair()[0], nn.Linear(4, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x)[:, None], 1.0).to_event(1))

    x = X.repeat(6, 1)
    words = "there is no plate at" if enough else r"'z' would draw \[36, 36, 2\] values"
    with pytest.raises(PvaeError, match=words):
        pvae.check(model, guide, x)
    assert words.split("\\")[0] in pvae.diagnose(model, guide, x).faults[0]


def _stepped():
    layer = nn.Linear(3, 2)
    optim = Optimiser(torch.optim.Adam)
    optim.add(dict(layer.named_parameters()))
    layer(torch.ones(1, 3)).sum().backward()
    optim.step()
    return optim


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s["param_groups"][0].pop("betas"), "a group lacks betas"),
        (lambda s: s["param_groups"][0]["params"].pop(), "not that of this optimiser"),
        (lambda s: s["param_groups"].append(dict(s["param_groups"][0])), "not that of this"),
        (
            lambda s: s["state"][0].update(exp_avg=torch.zeros(5, 3)),
            r"exp_avg has shape \[5, 3\], its parameter \[2, 3\]",
        ),
        (lambda s: s.pop("state"), "not that of this optimiser"),
    ],
)
def test_the_state_of_other_groups_is_one_message(spoil, words):
    state = _stepped().state_dict()
    _stepped().load_state_dict(state)
    spoil(state)
    with pytest.raises(PvaeError, match=words):
        _stepped().load_state_dict(state)
