"""What fit does with programs that torch or Pyro treat in their own way."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae import PvaeError

X = torch.randint(0, 2, (65, 6), generator=torch.Generator().manual_seed(0)).float()


class Model(PyroModule):
    def __init__(self, layer=nn.Linear):
        super().__init__()
        self.decoder = layer(2, 6) if layer is nn.Linear else layer(6)

    def forward(self, x, *rest):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, *rest):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def fit(model, guide, data=X, **options):
    return pvae.fit(model, guide, data, **({"epochs": 2, "progress": False} | options))


def lazy():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4))
    return Model(nn.LazyLinear), Guide(encoder)


def test_lazy_layers_train_load_resume_and_evaluate(tmp_path):
    trained = lazy()
    fit(*trained, batch_size=13, out=tmp_path / "run")
    loaded = pvae.load(tmp_path / "run", **dict(zip(("model", "guide"), lazy(), strict=True)))
    for ours, theirs in zip(trained, loaded, strict=True):
        state = theirs.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    options = {"num_samples": 5, "progress": False, "seed": 1}
    numbers = [pvae.evaluate(*pair, X, **options).log_px for pair in (trained, loaded)]
    assert (numbers[0] == numbers[1]).all()
    again = lazy()
    assert len(fit(*again, batch_size=13, out=tmp_path / "run", resume=True).history) == 2
    assert torch.equal(again[0].decoder.weight, trained[0].decoder.weight)
    assert pvae.diagnose(*lazy(), X).faults == []


def test_a_lazy_layer_that_is_not_called_is_saved_as_such(tmp_path):
    def pair():
        model, guide = lazy()
        guide.unused = nn.LazyLinear(3)
        return model, guide

    fit(*pair(), batch_size=13, out=tmp_path)
    model, guide = pair()
    pvae.load(tmp_path, model=model, guide=guide)
    assert torch.nn.parameter.is_lazy(guide.unused.weight)
    wrong = Model(lambda size: nn.LazyLinear(5)), guide
    pvae.load(tmp_path, model=wrong[0], guide=guide)  # a lazy layer takes what it is given
    with pytest.raises(PvaeError, match="belongs to another pair"):
        pvae.load(tmp_path, model=Model(), guide=Guide(nn.Linear(6, 4)))


def test_glorot_asks_for_the_sizes_of_lazy_layers():
    pair = lazy()
    with pytest.raises(PvaeError, match=r"decoder.*lazy.*pvae\.check"):
        pvae.glorot(*pair)
    pvae.check(*pair, X)
    pvae.glorot(*pair)
    assert pair[0].decoder.bias.eq(0).all()


def normalised():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(("num", "batch_size", "rest"), [(65, 32, 1), (65, 1, 1), (1, 128, 1)])
def test_a_minibatch_that_batch_normalisation_cannot_take_is_named(num, batch_size, rest):
    guide = Guide(normalised())
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    said = f"with {num} data and batch_size={min(num, batch_size)} it has {rest}.*more than 1 value"
    with pytest.raises(PvaeError, match=said):
        fit(Model(), guide, X[:num], batch_size=batch_size)
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    fit(Model(), guide, batch_size=13)
    fit(Model(), Guide(nn.Linear(6, 4)), X[:num], batch_size=batch_size)  # nothing is wrong here


def test_the_look_at_the_smallest_minibatch_changes_no_number():
    found = []
    for look in (True, False):
        torch.manual_seed(0)
        pair = Model(), Guide(normalised())
        with pytest.MonkeyPatch.context() as patch:
            if not look:
                patch.setattr(sys.modules["pvae.training.fit"], "try_smallest", lambda *args: None)
            history = fit(*pair, batch_size=21).history
        found.append([history, *(v.tolist() for v in pair[1].state_dict().values())])
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["guide", "model"])
def test_a_program_that_fails_in_a_step_is_named_with_its_line(where):
    calls = []

    def third(side):
        calls.extend([side] * torch.is_grad_enabled())  # those of training
        return side == where and calls.count(side) == 3

    class Labelled(Guide):
        def forward(self, x):
            nn.Embedding(5, 4)(torch.tensor([7 if third("guide") else 0]))
            super().forward(x)

    class Wrong(Model):
        def forward(self, x):
            if third("model"):
                raise KeyError("no such word")
            super().forward(x)

    said = r"Training stopped at step 3 of epoch 1 .*16 data.*test_fit_programs\.py:\d+\)"
    with pytest.raises(PvaeError, match=said) as error:
        fit(Wrong(), Labelled(nn.Linear(6, 4)), X[:64], batch_size=16)
    assert ("IndexError" if where == "guide" else "no such word") in str(error.value)
    assert error.value.__cause__ is not None


def rows(x):
    """A guide with a place for each row, written by hand."""
    loc = pyro.param("loc_of_rows", torch.zeros(13, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def wide(x):
    with pyro.plate("data", 13):
        rows_ = pyro.param("wide_of_rows", torch.zeros(13, 2))
        pyro.sample("z", dist.Normal(rows_, 1.0).to_event(1))


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal, AutoDelta, rows, wide])
def test_a_guide_with_a_place_for_each_row_is_warned_of(make):
    model = Model()
    guide = make if make in (rows, wide) else make(model)
    with pytest.warns(UserWarning, match="shared by all minibatches"):
        fitted = fit(model, guide, X[:52], batch_size=13)
    assert len(fitted.history) == 2


class Indexed(PyroModule):
    """A place for each datum, found by its index: right in any minibatch."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(52, 2))

    def forward(self, x, index):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc[index], 1.0).to_event(1))


class Collapsed(PyroModule):
    """One posterior for all data: legal, and no row is taken for another."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


class Pixels(Model):
    """A plate as large as the minibatch that does not count the data."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            with pyro.plate("pixels", 6, dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.T).to_event(1), obs=x)


class PixelGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(6, 1))

    def forward(self, x):
        with pyro.plate("data", len(x)), pyro.plate("pixels", 6, dim=-2):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_right_guides_are_not_warned_of(recwarn):
    fit(Model(), Guide(nn.Linear(6, 4)), X[:52], batch_size=13)
    fit(Model(), Indexed(), (X[:52], torch.arange(52)), batch_size=13)
    fit(Model(), Collapsed(), X[:52], batch_size=13)
    fit(Pixels(), PixelGuide(), X[:54], batch_size=6, plate="data")
    assert [str(w.message) for w in recwarn if "guide" in str(w.message)] == []


@pytest.mark.parametrize(("num_data", "right"), [(96, False), (65, False), (128, True)])
def test_a_plate_of_the_larger_minibatches_size_is_refused(num_data, right):
    """Pyro takes such a plate for 32 of 64 data, and counts the model's terms twice."""

    def model(x=None):
        with pyro.plate("data", 64):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, pyro.param("s", torch.tensor(0.7))).to_event(1))

    data = torch.randn(num_data, 2)
    options = {"epochs": 1, "batch_size": 64, "mode": "eager", "progress": False}
    if right:
        assert len(pvae.fit(model, guide, data, **options).history) == 1
        return
    with pytest.raises(PvaeError, match=r"last minibatch.* counts \d+ data in the guide and 64"):
        pvae.fit(model, guide, data, **options)
