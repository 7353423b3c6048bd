"""generate(): samples of any model, by its size or without its observations."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS, linear_gaussian

import pvae
from pvae import PvaeError


def _given_labels():
    return pvae.models.ConditionalVAE((4,), 10, latent_dim=2, hidden_dims=[4])


def test_generation_repeats_with_its_seed_and_leaves_the_global_generator():
    model = pvae.models.VAE((1, 8, 8), latent_dim=3)
    before = torch.get_rng_state()
    first, second = pvae.generate(model, 4, seed=1), pvae.generate(model, 4, seed=1)
    assert torch.equal(first, second)
    assert not torch.equal(first, pvae.generate(model, 4, seed=2))
    assert torch.equal(before, torch.get_rng_state())
    assert ((first > 0) & (first < 1)).all()  # means, not binary draws


def _conditional():
    """p(x|y) of labels y that are no site, in the style of Pyro's examples; and its decoder."""
    torch.manual_seed(0)
    decoder = torch.nn.Linear(2 + 3, 5)

    def model(x, y, shift=0.0):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            loc = decoder(torch.cat([z, y], -1)) + shift
            pyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)

    def guide(x, y, shift=0.0):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x[:, :2], 0.1).to_event(1))

    return model, guide, decoder


@torch.no_grad()
def test_a_model_without_a_size_generates_by_taking_its_observations_away():
    model, guide, decoder = _conditional()
    x, y = torch.full((3, 5), 100.0), torch.eye(3)
    found = pvae.generate(model, 3000, x, y)
    assert found.shape == (3000, 5)
    for label in range(3):  # rows of the batch are repeated: p(x|y), whatever x was
        mean, spread = found[label::3].mean(0), decoder.weight[:, :2].square().sum(1).sqrt()
        expected = decoder.bias + decoder.weight[:, 2 + label]
        torch.testing.assert_close(found[label::3].std(0), spread, rtol=0.1, atol=0.01)
        assert ((mean - expected).abs() < 4 * spread / 1000**0.5).all()
    assert torch.equal(found, pvae.generate(model, 3000, x, y))
    assert not torch.equal(found, pvae.generate(model, 3000, x, y, seed=1))
    torch.testing.assert_close(pvae.generate(model, 3000, x, y, shift=7.0), found + 7)
    z = torch.randn(3, 2)
    torch.testing.assert_close(
        pvae.decode(model, {"z": z}, x, y), decoder(torch.cat([z, y], -1)).detach()
    )
    ends = torch.randn(2, 3, 5)
    line = pvae.interpolate(model, guide, (ends[0], y), (ends[1], y), steps=3)
    torch.testing.assert_close(line[:, 0], pvae.reconstruct(model, guide, ends[0], y))
    middle = ends.mean(0)[:, :2]
    torch.testing.assert_close(line[:, 1], decoder(torch.cat([middle, y], -1)))
    found = pvae.traverse(model, guide, (torch.randn(20, 5), y[torch.arange(20) % 3]), index=4)
    expected = decoder(torch.cat([found.z, y[1].expand(*found.z.shape[:2], 3)], -1))
    torch.testing.assert_close(found.x, expected)


def test_a_model_that_reads_nothing_but_how_many_data_there_are_needs_none():
    for pair in (linear_gaussian(), PROGRAMS["closures"](), PROGRAMS["subsampled"]()):
        model, _, batch, _ = pair
        found = pvae.generate(model, 4)
        assert found.shape == (4, 5)
        assert found.isfinite().all()
        batch = batch if isinstance(batch, tuple) else (batch,)
        torch.testing.assert_close(found, pvae.generate(model, 4, *batch))


def _reads_width(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _reads_shape(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _reads_labels(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(y.eq(1).float(), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], torch.ones(3)).to_event(1), obs=x)


@pytest.mark.parametrize("model", [_conditional()[0], _reads_width, _reads_shape, _reads_labels])
def test_a_model_that_reads_more_asks_for_data(model):
    with pytest.raises(PvaeError, match=r"raised TypeError: .* generate\(model, n, x\)"):
        pvae.generate(model, 3)


def test_a_model_that_reads_what_it_observes_is_refused():
    weight = torch.tensor([[0.0, 0, 0], [2, 0, 0], [1, 1, 0]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + x @ weight.T, 1.0).to_event(1), obs=x)

    with pytest.raises(PvaeError, match="density of site 'x' changes with the data that it observ"):
        pvae.generate(model, 3, torch.randn(4, 3))


def _six(x=None):
    """A model that keeps six data, whoever asks."""
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.ones(2, 3), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("batch", [(), (torch.zeros(6, 3),)])
def test_another_number_of_data_than_asked_for_is_refused(batch):
    assert pvae.generate(_six, 6, *batch).shape == (6, 3)
    for ask in (
        lambda: pvae.generate(_six, 3, *batch),
        lambda: pvae.decode(_six, {"z": torch.zeros(1, 2)}, *batch),
    ):
        with pytest.raises(PvaeError, match="its number of data is fixed"):
            ask()


class _Unsampled(dist.Normal):
    has_rsample = False

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        raise NotImplementedError("no sampler")


def test_a_likelihood_without_a_sampler_is_not_called_a_model_of_all_labels():
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            pyro.sample("x", _Unsampled(y.float(), 1.0), obs=x)

    with pytest.raises(PvaeError, match="no sampler") as told:
        pvae.generate(model, 4, torch.zeros(4))
    assert "enumeration" not in str(told.value)


@pytest.mark.parametrize("how", ["by position", "by name", "as data"])
def test_a_model_of_its_size_is_given_the_other_fields(how):
    def model(x=None, y=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            loc = torch.zeros(size, 2) if y is None else y[:, None].float().expand(-1, 2)
            return pyro.sample("x", dist.Normal(loc, 1).to_event(1), obs=x)

    x, y = torch.zeros(3, 2), torch.tensor([5, 6, 7])
    if how == "by name":
        drawn = pvae.generate(model, 4, y=y[[0, 1, 2, 0]])
    else:
        batch = (x, y) if how == "by position" else (torch.utils.data.TensorDataset(x, y),)
        drawn = pvae.generate(model, 4, *batch)
    assert drawn[:, 0].tolist() == [5, 6, 7, 5]


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (lambda: pvae.models.VAE((4,)), {"y": torch.arange(4)}, "VAE takes no 'y': nothing can be"),
        (_given_labels, {"label": torch.arange(4)}, "takes no 'label': it takes y"),
        (_given_labels, {"y": 3}, r"does not run on y=3 alone .*y=torch.full\(\(4,\), 3\)"),
        (_given_labels, {"y": torch.arange(3)}, "y has 3 rows, and 4 samples were asked for"),
        (_given_labels, {"y": torch.full((4,), 12)}, r"y holds 12, but .* leave .* out\.$"),
    ],
)
def test_what_cannot_be_given(model, given, message):
    with pytest.raises(PvaeError, match=message):
        pvae.generate(model(), 4, **given)
