"""Rejection: scores of an exact density, whose areas under the ROC curve are known."""

import math
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

import pvae
from pvae import guides, models
from pvae.cli import main
from pvae.errors import PvaeError
from pvae.estimators import Rejection
from pvae.evaluation.estimators.compressed import code_lengths, discrete
from pvae.evaluation.estimators.ranking import auroc, rejected, threshold

D = 8
QUICK = {"num_samples": 20, "progress": False}


def nothing(x):
    return None


def normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x)


def draws(num, scale=1.0, seed=0):
    return scale * torch.randn(num, D, generator=torch.Generator().manual_seed(seed))


def score(data, foreign, model=normal, guide=nothing, **options):
    asked = [Rejection(foreign=foreign, **options)]
    return pvae.evaluate(model, guide, data, estimators=asked, **QUICK)


def split(num, **parts):
    """Data whose training and test part are draws of `normal`, with floats as they are."""
    x = {"x_train": draws(4000, seed=1), "x_test": draws(num, seed=2)}
    return pvae.data.load({n: v.numpy() for n, v in (x | parts).items()}, observation="as_given")


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.4])
def test_areas_are_those_of_the_density(scale):
    """x ~ N(0, I) against N(0, s² I): log p(x) falls with |x|², so that A = P(F_DD < s²)."""
    found = score(split(1000), {"wide": draws(1000, scale, 3)}, num_data=1000)
    rows = found.summary()["rejection"]["sets"]["wide"]["scores"]
    exact = stats.f.cdf(scale**2, D, D)
    plain = rows["log p(x)"]
    assert abs(plain["auroc"] - exact) < 4 * plain["auroc_se"]
    assert plain["auroc_se"] < 0.02
    # Typicality: −| |x|² − D | / 2, by quadrature over both χ² distributions.
    shares = (np.arange(4000) + 0.5) / 4000
    ours, theirs = stats.chi2.ppf(shares, D), scale**2 * stats.chi2.ppf(shares, D)
    typical, _ = auroc(-np.abs(ours - D), -np.abs(theirs - D))
    row = rows["typicality"]
    assert abs(row["auroc"] - typical) < 4 * row["auroc_se"] + 0.01  # the mean is estimated
    at = found.findings["rejection"].thresholds()["log p(x)"]
    share = stats.chi2.sf(-2 * at - D * math.log(2 * math.pi), D) if scale == 1.0 else 0.05
    assert share == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 1000))
    said = found.table()
    assert ("cannot reject wide" in said) == (scale == 0.6)
    if scale == 0.6:
        assert "The best score here is typicality" in said
        assert "(mean −" in said


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_standard_error_of_the_area_is_its_spread(scale):
    found = [
        auroc(
            -(draws(80, 1, i) ** 2).sum(1).numpy(), -(draws(50, scale, i + 999) ** 2).sum(1).numpy()
        )
        for i in range(400)
    ]
    areas, errors = np.array(found).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.15)
    assert areas.mean() == pytest.approx(stats.f.cdf(scale**2, D, D), abs=4 * areas.std() / 20)


def test_ties_count_half_and_a_threshold_rejects_no_more_than_its_share():
    area, _ = auroc(np.array([1.0, 1.0, -np.inf]), np.array([1.0, 0.0, -np.inf]))
    assert area == pytest.approx((2.5 + 2.5 + 0.5) / 9)
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == (1.0, 0.0)
    assert math.isnan(auroc(np.array([3.0]), np.array([1.0, 2.0]))[1])
    scores = np.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    for share in (0.05, 0.5, 0.6, 0.99):
        assert (scores < threshold(scores, share)).mean() <= share
    assert threshold(scores, 0.5) == 1.0
    assert rejected(scores, 1.0) == (0.5, pytest.approx(math.sqrt(0.25 / 6)))


def test_a_bound_is_close_to_log_p_and_the_same_in_every_call(tmp_path):
    """A linear-Gaussian pair with its posterior: the scores are log p(x) of each set."""
    torch.manual_seed(0)
    model = models.PPCA((D,), 2)
    guide = guides.LinearGaussian((D,), 2)
    data = split(60)
    asked = {"foreign": {"wide": draws(50, 2, 3)}, "num_samples": 2000, "num_data": 40}
    found = score(data, model=model, guide=guide, **asked).findings["rejection"]
    with torch.no_grad():
        exact = model.log_px(draws(50, 2, 3)).numpy()
        own = model.log_px(data.test.x[found.datum]).numpy()
    assert found.num_samples == 2000
    scores = np.sort(found.of("wide")[:, 0])
    assert scores.shape == (40,)
    assert np.abs(scores[:, None] - exact).min(1).max() < 0.7
    assert np.abs(found.test[:, 0] - own).max() < 0.7
    again = score(data, model=model, guide=guide, **asked).findings["rejection"]
    np.testing.assert_array_equal(again.foreign, found.foreign)


class Mixture(nn.Module):
    """p(x|y) = N(x; μ_y, I), exactly."""

    def __init__(self):
        super().__init__()
        self.register_buffer("loc", 3 * draws(3, seed=5))

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc[y], 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("prior", [None, [0.2, 0.3, 0.5]])
@pytest.mark.parametrize("where", ["data", "tensors"])
def test_labels_are_summed_out(where, prior):
    model, y = Mixture(), torch.tensor([0, 1, 2, 2] * 30)
    x = model.loc[y] + draws(120, seed=6)
    shares = prior or [1 / 3] * 3
    if where == "data":
        fields = {"x_train": x, "y_train": y, "x_test": x[:50], "y_test": y[:50]}
        data = pvae.data.load(
            {n: v.numpy() for n, v in fields.items()}, observation="as_given", labels=True
        )
        shares = prior or [0.25, 0.25, 0.5]
    else:
        data = (x[:50], y[:50])
    far = draws(20, 9, 7)
    found = score(data, {"far": far}, model, lambda x, y: None, prior=prior)
    found = found.findings["rejection"]
    p = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor(shares)), dist.Normal(model.loc, 1.0).to_event(1)
    )
    np.testing.assert_allclose(found.of("far")[:, 0], p.log_prob(far), rtol=1e-5)
    np.testing.assert_allclose(found.test[:, 0], p.log_prob(x[found.datum]), rtol=1e-5)
    assert found.num_labels == 3
    assert ("typicality" in found.kinds) == (where == "data")


@pytest.mark.parametrize("form", ["labels", "one-hot"])
def test_a_label_that_the_model_draws_has_its_own_prior(form):
    probs, loc = torch.tensor([0.7, 0.2, 0.1]), Mixture().loc
    classes = dist.Categorical(probs) if form == "labels" else dist.OneHotCategorical(probs)

    def model(x, y):
        with pyro.plate("data", len(x)):
            y = pyro.sample("class", classes, obs=y)
            index = y if form == "labels" else y.argmax(-1)
            pyro.sample("x", dist.Normal(loc[index], 1.0).to_event(1), obs=x)

    y = torch.tensor([0, 1, 2, 2] * 5)
    x = loc[y] + draws(20, seed=6)
    given = y if form == "labels" else torch.eye(3)[y]
    found = score((x, given), {"far": draws(20, 9, 7)}, model, lambda x, y: None)
    p = dist.MixtureSameFamily(dist.Categorical(probs), dist.Normal(loc, 1.0).to_event(1))
    found = found.findings["rejection"]
    np.testing.assert_allclose(found.of("far")[:, 0], p.log_prob(draws(20, 9, 7)), rtol=1e-5)
    np.testing.assert_allclose(found.test[:, 0], p.log_prob(x)[found.datum], rtol=1e-5)


def test_lengths_are_no_labels():
    def model(x, lengths):
        with pyro.plate("data", len(x)):
            shown = (torch.arange(D) < lengths[:, None]).float()
            pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).mask(shown).to_event(1), obs=x)

    x, lengths = draws(20), torch.arange(20) % D
    found = score((x, lengths), {"far": (2 * x, lengths)}, model, lambda x, lengths: None)
    found = found.findings["rejection"]
    exact = (dist.Normal(0.0, 1.0).log_prob(2 * x) * (torch.arange(D) < lengths[:, None])).sum(1)
    np.testing.assert_allclose(found.of("far")[:, 0], exact, rtol=1e-5)
    with pytest.raises(PvaeError, match="have 1 tensors, but the pair takes x, y"):
        score((x, lengths), {"far": x}, model, lambda x, lengths: None)


def test_the_ratio_is_that_of_two_densities():
    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(D), 3.0).to_event(1), obs=x)

    x = draws(40)
    found = score(x, {"a": draws(30, 2, 4)}, background=(wide, nothing)).findings["rejection"]
    assert found.kinds == ["log p(x)", "likelihood ratio"]
    ratio = dist.Normal(0.0, 1.0).log_prob(x) - dist.Normal(0.0, 3.0).log_prob(x)
    np.testing.assert_allclose(found.test[:, 1], ratio.sum(1)[found.datum], rtol=1e-4, atol=1e-4)


def test_complexity_is_the_length_of_a_compressed_datum():
    blank, noise = torch.zeros(1, 1, 28, 28), (torch.rand(1, 1, 28, 28) < 0.5).float()
    lengths = code_lengths(discrete(torch.cat([blank, noise]), None, None))
    assert 0 < lengths[0] < 200
    assert 784 * math.log(2) < lengths[1] < 784
    grey = torch.arange(64.0).view(1, 1, 8, 8) / 255
    assert (discrete(grey, "grey", 256) == np.arange(64).reshape(1, 1, 8, 8)).all()
    shifted = (255 * grey + 0.9) / 256
    assert (discrete(shifted, "dequantize", 256) == np.arange(64).reshape(1, 1, 8, 8)).all()
    assert discrete(grey, None, None) is None
    colour = torch.randint(0, 256, (2, 3, 8, 8))
    assert (code_lengths(discrete(colour, None, None)) > 3 * 64 * math.log(256)).all()


def pair():
    torch.manual_seed(0)
    sizes = {"latent_dim": 2, "hidden_dims": [8]}
    return models.VAE((1, 8, 8), **sizes), guides.MeanField((1, 8, 8), **sizes)


def test_names_are_loaded_as_the_pairs_own_data_and_the_page_shows_them(tmp_path):
    data = pvae.data.load("digits", validation=100)
    bits = (np.random.default_rng(0).random((30, 1, 8, 8)) * 255).astype(np.uint8)
    np.savez(tmp_path / "bits.npz", bits)
    asked = ["shuffled", str(tmp_path / "bits.npz")]
    found = score(data, asked, *pair(), num_data=50)
    rejection = found.findings["rejection"]
    assert rejection.sets == ["shuffled", "bits.npz"]
    assert [len(rejection.of(name)) for name in rejection.sets] == [50, 3]  # its test part
    assert rejection.kinds == ["log p(x)", "typicality", "complexity"]
    assert rejection.reference["part"] == "validation"
    added = rejection.test[:, 2] - rejection.test[:, 0]
    x = data.test.observe(rejection.datum)[0]
    np.testing.assert_allclose(added, code_lengths(discrete(x, None, None)))
    found.save(tmp_path)
    again = pvae.Evaluation.load(tmp_path)
    np.testing.assert_array_equal(again.findings["rejection"].foreign, rejection.foreign)
    assert again.summary() == found.summary()
    page = pvae.write_report(tmp_path / "a.html", again).read_text()
    for words in ('id="rejection"', "shuffled", "DeLong", "threshold", "50 validation"):
        assert words in page


def test_a_shuffled_image_has_the_same_values():
    x = (draws(30) > 0).float()
    found = score(x, "shuffled").findings["rejection"]
    assert found.sets == ["shuffled"]
    model_free = Rejection(foreign="shuffled")
    assert model_free.share == 0.05
    # log p(x) of N(0, I) depends on the values and not on their order.
    np.testing.assert_allclose(np.sort(found.of("shuffled")[:, 0]), np.sort(found.test[:, 0]))


def digits(**options):
    return pvae.data.load("digits", **options)


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (lambda: digits(observation="grey"), "observed by 'grey', and .* by 'dynamic'.*Load them"),
        (lambda: digits(observation="threshold"), "observed by 'threshold'"),
        (lambda: torch.zeros(5, 1, 28, 28), r"shape \[1, 28, 28\], and .*\[1, 8, 8\]\. Resize"),
        (lambda: torch.rand(5, 1, 8, 8), "values from .*own data only 0 and 1"),
        (lambda: torch.zeros(0, 1, 8, 8), "empty"),
        (lambda: {"x": "no such thing"}, "foreign='no such thing' is not valid"),
        (dict, "Rejection needs foreign data"),
        (lambda: [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)], "two sets are called foreign"),
        (lambda: {"test data": torch.zeros(2, 1, 8, 8)}, "Rename the set"),
    ],
)
def test_foreign_data_that_do_not_fit_are_refused_before_any_work(
    foreign, said, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys.modules["pvae.evaluation.evaluate"], "from_weights", None)

    def score():
        asked = [Rejection(foreign=foreign())]
        pvae.evaluate(*pair(), digits(), estimators=asked, out=tmp_path, **QUICK)

    with pytest.raises(PvaeError, match=said):
        score()
    assert not list(tmp_path.iterdir())


def test_other_values_are_refused():
    grey = pvae.data.load("digits", observation="grey")
    model = models.VAE((1, 8, 8), 2, likelihood="gaussian", hidden_dims=[8])
    for foreign, said in [
        (torch.full((4, 1, 8, 8), 9.0), "from 9 to 9, and the pair's own data from 0 to 1"),
        (torch.full((4, 1, 8, 8), 0.04), "between the 17 grey levels"),
    ]:
        with pytest.raises(PvaeError, match=said):
            score(grey, {"a": foreign}, model, pair()[1])
    score(grey, {"a": grey.train.observe(slice(0, 20))[0]}, model, pair()[1])
    with pytest.raises(PvaeError, match="by name, because it is not known how"):
        score(draws(10), "digits")
    with pytest.raises(PvaeError, match=r"share=1\.5"):
        Rejection(foreign="shuffled", share=1.5)


def test_a_density_of_labels_rejects_nothing():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=x[:, :3]), obs=y)

    data = (draws(20), torch.arange(20) % 3)
    with pytest.warns(UserWarning, match=r"log p\(y \| x\), which is no density of x"):
        found = score(data, draws(20, 2, 1), model, lambda x, y: None)
    assert "rejection" in found.missing


def test_a_guide_that_gives_a_point_has_no_scores():
    model = models.PPCA((D,), 2, scale=0.1)
    with pytest.warns(UserWarning, match="Rejection of foreign data was left out: The guide gives"):
        found = score(draws(20), draws(20, 2, 1), model, guides.Code((D,), 2))
    assert "rejection" in found.missing


def test_the_shell_rejects(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--epochs", "1"]
    few = ["--num_samples", "20", "--num_data", "30", "--prior_samples", "0", "--surgery", "false"]
    quick = ["--progress", "false", "--device", "cpu"]
    assert main(["run", *small, *few, "--out", run, *quick]) == 0
    assert "rejection" not in capsys.readouterr().out
    asked = ["--foreign", "shuffled", "--foreign_data", "20", "--rejected", "0.1"]
    assert main(["evaluate", run, *asked, *quick]) == 0
    assert "rejection of shuffled, AUROC" in capsys.readouterr().out
    found = pvae.Evaluation.load(run).findings["rejection"]
    assert (len(found), found.share, found.sets) == (20, 0.1, ["shuffled"])
    assert main(["evaluate", run, "--foreign", "nothing_of_this_name", *quick]) == 2
    assert "--foreign='nothing_of_this_name' is not valid" in capsys.readouterr().err
    assert main(["evaluate", run, *quick]) == 0  # the config has not kept it
    np.save(tmp_path / "ones.npy", np.ones((20, 8, 8), np.uint8))
    assert main(["evaluate", run, "--foreign", str(tmp_path / "ones.npy"), *quick]) == 0
    assert "rejection of ones.npy" in capsys.readouterr().out
    assert main(["report", run]) == 0  # a file in the config is no code
