"""Pairs of several fields: what each program receives, from training to the report."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.utils import data as torch_data

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.pair import bind
from pvae.report import write_report

N, T, V = 60, 6, 300
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, T + 1, N)
TOKENS = RNG.integers(0, V // 2, (N, T)) + RNG.integers(0, 2, (N, 1)) * V // 2
TOKENS[np.arange(T) >= LENGTHS[:, None]] = -1
PAIR = '''
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


class Topics(PyroModule):
    """p(z) Π_t p(tokens_t | z), over the first `lengths` tokens."""

    def __init__(self):
        super().__init__()
        self.prior, self.words = nn.Parameter(torch.zeros(3)), nn.Embedding(3, 300)

    def forward(self, lengths, tokens=None):
        with pyro.plate("data", len(lengths), dim=-2):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            known = torch.arange(6) < lengths[:, None]
            with pyro.plate("time", 6, dim=-1), pyro.poutine.mask(mask=known):
                obs = None if tokens is None else tokens.clamp(min=0)
                pyro.sample("tokens", dist.Categorical(logits=self.words(z)), obs=obs)


class Reader(PyroModule):
    """q(z | tokens)."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Embedding(301, 3)

    def forward(self, tokens):
        with pyro.plate("data", len(tokens), dim=-2):
            logits = self.scores(tokens + 1).mean(-2).unsqueeze(-2)
            pyro.sample("z", dist.Categorical(logits=logits))
'''


def topics():
    torch.manual_seed(0)
    names = {}
    exec(PAIR, names)
    return names["Topics"](), names["Reader"]()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a run in the shell, with the data and the pair beside it."""
    folder = tmp_path_factory.mktemp("sentences")
    np.savez(folder / "tokens.npz", tokens=TOKENS, lengths=LENGTHS)
    (folder / "pair.py").write_text(PAIR)
    pair = ["--model", f"{folder}/pair.py:Topics", "--guide", f"{folder}/pair.py:Reader"]
    options = ["--epochs", "20", "--lr", "0.05", "--batch_size", "16", "--num_samples", "20"]
    options += ["--data.validation", "10", "--out", f"{folder}/run", "--progress", "false"]
    assert main(["run", "--data", f"{folder}/tokens.npz", *pair, *options]) == 0
    return folder


def test_sentences_run_in_the_shell(run):
    found = json.loads((run / "run" / "evaluation.json").read_text())
    assert found["data"]["name"] == "tokens.npz"
    data = pvae.data.load(run / "tokens.npz", validation=10)
    assert found["data"]["hash"] == data.test.hash
    history = (run / "run" / "history.csv").read_text().splitlines()
    first, last = (float(line.split(",")[1]) for line in (history[1], history[-1]))
    assert last > first + 1
    page = (run / "run" / "report.html").read_text()
    assert "as_given" in page
    model, guide = topics()
    pvae.fit(model, guide, str(run / "tokens.npz"), epochs=1, progress=False)
    again = pvae.evaluate(model, guide, run / "tokens.npz", num_samples=1, progress=False)
    assert again.data["hash"] == found["data"]["hash"]


def test_log_weights_of_sentences_are_those_computed_by_hand():
    model, guide = topics()
    data = pvae.data.load({"tokens": TOKENS, "lengths": LENGTHS})
    part, pair = bind(data.train, model, guide)
    assert part.names == ("tokens", "lengths")
    tokens, lengths = part.tensors()
    found = pvae.log_weights(*pair, tokens, lengths, num_samples=200)
    with torch.no_grad():
        words = model.words.weight.log_softmax(-1)[:, tokens.clamp(min=0)]  # [z, N, T]
        log_x = torch.where(torch.arange(T) < lengths[:, None], words, 0.0).sum(-1)
        log_z = model.prior.log_softmax(-1)[:, None]
        log_q = guide.scores(tokens + 1).mean(-2).log_softmax(-1).T
    by_hand = log_x + log_z - log_q  # [z, N]
    distance = (found - by_hand[:, None]).abs()
    assert distance.amin(0).max() < 1e-4
    drawn = distance.argmin(0)
    share = torch.stack([(drawn == z).float().mean(0) for z in range(3)])
    assert (share - log_q.exp()).abs().max() < 5 * math.sqrt(0.25 / 200)
    evaluation = pvae.evaluate(model, guide, data.train, num_samples=400, progress=False)
    exact = torch.logsumexp(log_x + log_z, 0)
    error = np.abs(evaluation.log_px - exact.numpy())
    assert error.mean() < 0.05


class Flat(nn.Module):
    """p(z) p(x|z) and q(z|x) of anything that can be flattened."""

    def __init__(self, shape):
        super().__init__()
        self.shape, size = shape, math.prod(shape)
        self.decoder, self.encoder = nn.Linear(2, size), nn.Linear(size, 4)

    def model(self, x=None, size=1):
        pyro.module("flat", self)
        n = size if x is None else len(x)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.decoder(z).unflatten(-1, self.shape)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(len(self.shape)), obs=x)

    def guide(self, x):
        pyro.module("flat", self)
        loc, raw = self.encoder(x.flatten(x.ndim - len(self.shape))).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (5, 3)])
def test_videos_and_points_from_training_to_the_report(tmp_path, shape):
    x = torch.randn(40, *shape)
    data = pvae.data.load({"x_train": x, "x_test": x[:20]})
    torch.manual_seed(0)
    pair = Flat(shape)
    history = pvae.fit(pair.model, pair.guide, data, epochs=2, progress=False).history
    evaluation = pvae.evaluate(pair.model, pair.guide, data, num_samples=10, progress=False)
    assert pvae.generate(pair.model, 3).shape == (3, *shape)
    assert pvae.reconstruct(pair.model, pair.guide, x[:4]).shape == (4, *shape)
    page = tmp_path / "report.html"
    write_report(page, evaluation, model=pair.model, guide=pair.guide, data=data, history=history)
    shown = " × ".join(map(str, shape))
    assert f"Data of shape {shown} are neither images nor vectors" in page.read_text()


def reads_all(imgs, seq_mask):
    with pyro.plate("data", len(imgs)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(imgs)), 1.0))
        weight = seq_mask.float()
        pyro.sample("obs", dist.Normal(z[:, None] * weight, 1.0).to_event(1), obs=imgs)


def writes_all(imgs, seq_mask):
    with pyro.plate("data", len(imgs)):
        pyro.sample("z", dist.Normal((imgs * seq_mask).mean(-1), 1.0))


def test_a_third_partys_pair_gets_all_fields_by_position():
    x, mask = torch.randn(30, 4), torch.rand(30, 4) < 0.5
    evaluate = {"num_samples": 20, "progress": False, "estimators": []}
    want = pvae.evaluate(reads_all, writes_all, (x, mask), **evaluate)
    dataset = torch_data.TensorDataset(x, mask)
    sources = {"a": x, "b": mask}, dataset, torch_data.DataLoader(dataset, batch_size=7)
    for source in sources:
        with pytest.raises(PvaeError, match="no parameter"):  # the batches have reached the pair
            pvae.fit(reads_all, writes_all, source, progress=False)
        found = pvae.evaluate(reads_all, writes_all, source, **evaluate)
        assert np.array_equal(found.log_px, want.log_px)
        assert found.data["hash"] == want.data["hash"]


def test_a_dataset_stands_for_its_test_data():
    x, mask = torch.randn(30, 4), torch.rand(30, 4) < 0.5
    data = pvae.data.load({"imgs": x, "seq_mask": mask})
    batch = data.test.tensors()
    pair = reads_all, writes_all
    loader = torch_data.DataLoader(torch_data.TensorDataset(*batch), batch_size=2)
    weights = []
    for given in (batch, (data,), (data.test,), (loader,)):
        torch.manual_seed(0)
        weights.append(pvae.log_weights(*pair, *given, num_samples=3))
    assert all(torch.equal(w, weights[0]) for w in weights)
    value = pvae.check(*pair, data).guide_trace.nodes["_INPUT"]["args"]
    assert all(torch.equal(a, b) for a, b in zip(value, batch, strict=True))
    assert str(pvae.diagnose(*pair, data)) == str(pvae.diagnose(*pair, *batch))
    shown = [pvae.reconstruct(*pair, *given) for given in (batch, (data.test,))]
    assert torch.equal(*shown)


def test_labels_that_are_missing_train_and_are_evaluated():
    x, y = torch.randn(30, 2), torch.randn(30)
    y[::3] = torch.nan

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x)
            with poutine.mask(mask=~y.isnan()):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y.nan_to_num())

    def guide(x, y):
        loc = pyro.param("a", torch.tensor(0.3)) * x.sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5))

    source = {"x": x.numpy(), "y": y.numpy()}
    data = pvae.data.load({**source, "number": np.arange(30)}, labels=True, validation=5)
    (epoch,) = pvae.fit(model, guide, data, epochs=1, progress=False).history
    assert epoch["validation_elbo"] < 0
    for whole in (source, (x, y)):
        found = pvae.evaluate(model, guide, whole, num_samples=500, progress=False)
        # x and y are jointly normal, with covariance 1 + 11ᵀ.
        for i in (0, 1):
            known = torch.cat([x[i], y[i : i + 1]])
            known = known[~known.isnan()]
            cov = torch.eye(len(known)) + 1
            exact = dist.MultivariateNormal(torch.zeros(len(known)), cov).log_prob(known)
            assert abs(float(found.log_px[i] - exact)) < 0.15
    with pytest.raises(PvaeError, match="Argument 1 of the batch holds NaN or inf"):
        pvae.check(model, guide, x, y.nan_to_num() / 0)
