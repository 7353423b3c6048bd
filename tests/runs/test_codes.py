"""codes(): the discrete codes of a trained pair as data."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae import guides, models
from pvae.errors import PvaeError
from pvae.runs import read_codes

SHAPE, K = (1, 8, 8), 5
NETWORK = {"channels": (4, 4), "num_blocks": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of a VQ-VAE on digits that are drawn by the data seed 3."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "vq"
    model = models.VQVAE(SHAPE, num_codes=K, code_dim=2, **NETWORK)
    guide = guides.NearestCode(model, SHAPE, **NETWORK)
    digits = pvae.data.load("digits", seed=3)
    pvae.fit(model, guide, digits, epochs=1, out=folder, progress=False)
    return folder


def test_they_are_the_places_of_the_ones(run):
    digits, codes = pvae.data.load("digits", seed=3), pvae.codes(run)
    _, guide = pvae.load(run)
    expected = guide.eval()(digits.test.x).argmax(-1)
    assert torch.equal(codes.test.fields["x"], expected)
    assert (codes.event_shape, codes.levels, codes.seed) == ((2, 2), K, 3)
    assert torch.equal(codes.test.y, digits.test.y)
    fixed = pvae.data.load("digits", observation="fixed", seed=3)
    assert torch.equal(codes.train.fields["x"], guide(fixed.train.x).argmax(-1))


def test_they_are_the_same_each_time_and_in_every_form(run):
    torch.manual_seed(1)
    codes, named = pvae.codes(run), read_codes(f"codes:{run}")
    pair = pvae.codes(pvae.load(run), pvae.data.load("digits", seed=3))
    assert codes.train.hash == named.train.hash == pair.train.hash
    assert codes.train.hash != pvae.codes(run, "digits").train.hash  # of the data seed 0
    assert named.source == codes.source == f"codes:{run}"
    assert pair.source is None


def test_labels_and_a_validation_part(run):
    codes = read_codes(f"codes:{run}", labels=True, validation=100)
    x, y = codes.validation.tensors()
    assert (len(codes.train), x.shape, x.dtype) == (1400, (100, 2, 2), torch.int64)
    whole = pvae.data.load("digits", seed=3, labels=True, validation=100)
    assert torch.equal(y, whole.validation.y)
    assert pvae.codes(run).train.names == ("x",)


def test_a_run_on_codes_is_repeated_from_its_config(run, tmp_path):
    prior = models.MADE((2, 2), hidden_dims=[8], likelihood="categorical", levels=K)
    codes = pvae.codes(run)
    pvae.fit(prior, guides.NoLatents(), codes, epochs=1, out=tmp_path, progress=False)
    found = pvae.runs.read_config(tmp_path)["data"]
    assert read_codes(found.pop("source"), **found | {"seed": 0}).train.hash == codes.train.hash


def test_several_sites_are_fields_and_integers_stay():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(torch.ones(3)))
            b = pyro.sample("b", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((a + c)[:, None] + b, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Categorical(logits=x[:, :1] * torch.arange(3.0)))
            pyro.sample("b", dist.Bernoulli(logits=x).to_event(1))
            pyro.sample("c", dist.Normal(x[:, 0], 1.0))

    x = torch.randn(40, 2)
    codes = pvae.codes((model, guide), pvae.data.load(x))
    assert codes.train.names == ("a", "b")
    assert codes.train.fields["a"].unique().tolist() == [0, 1, 2]
    assert codes.train.fields["b"].shape == (36, 2)
    again = pvae.codes((model, guide), pvae.data.load(x))
    assert codes.train.hash == again.train.hash, "the draw is fixed by the data seed"


def test_bad_input_is_one_message(run):
    pair = models.VAE(SHAPE), guides.MeanField(SHAPE)
    with pytest.raises(PvaeError, match=r"have no discrete code: .* z \(Normal\)"):
        pvae.codes(pair, "digits")
    with pytest.raises(PvaeError, match=r"give what pvae.data.load returns"):
        pvae.codes(pair, torch.zeros(3, *SHAPE))
    with pytest.raises(PvaeError, match="codes are integers, taken as given"):
        read_codes(f"codes:{run}", observation="grey")
    with pytest.raises(PvaeError, match="whose seed is 3"):
        read_codes(f"codes:{run}", seed=4)
    with pytest.raises(PvaeError, match="labels: these are options for a run's own data"):
        pvae.codes(run, "digits", labels=True)
    with pytest.raises(PvaeError, match="There is no nowhere"):
        read_codes("codes:nowhere")


def test_a_run_on_data_without_a_name_is_one_message(tmp_path):
    model = models.VQVAE(SHAPE, num_codes=K, code_dim=2, **NETWORK)
    guide, x = guides.NearestCode(model, SHAPE, **NETWORK), torch.zeros(8, *SHAPE)
    pvae.fit(model, guide, x, epochs=1, out=tmp_path, progress=False)
    with pytest.raises(PvaeError, match=r"data without a name.*codes\(\(model, guide\), data\)"):
        pvae.codes(tmp_path)
