"""pvae.plot: axes hold the numbers that they were given, read back from what they draw."""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pvae import PvaeError, decode, encode, guides, interpolate, models, plot
from pvae.predictive import plane


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def cells(ax, rows, across, size):
    """Returns the images of a picture, [rows, across, size, size], as levels in [0, 1]."""
    drawn = ax.images[0].get_array()[..., 0] / 255
    space = (drawn.shape[1] - across * size) // max(1, across - 1)
    at = [[drawn[i * (size + space) :][:size, j * (size + space) :][:, :size]
           for j in range(across)] for i in range(rows)]  # fmt: skip
    return np.array(at)


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_images_in_rows_have_their_names_and_one_scale():
    x, y = torch.rand(3, 1, 4, 4), torch.rand(2, 1, 4, 4)
    ax = plot.images({"data": x, "means": y})
    found = cells(ax, 2, 3, 4)
    assert np.allclose(found[0], x[:, 0], atol=1 / 255)
    assert np.allclose(found[1, :2], y[:, 0], atol=1 / 255)
    assert labels(ax.yaxis) == ["data", "means"]
    assert (ax.images[0].get_array()[5:, 10:, 3] == 0).all()  # the cell without an image
    beyond = plot.images({"data": 4 * x, "means": y})
    most = float(4 * x.max())
    low = float(min((4 * x).min(), y.min()))
    assert np.allclose(cells(beyond, 2, 3, 4)[1, :2] * (most - low) + low, y[:, 0], atol=0.02)
    assert len(beyond.figure.axes) == 2  # a bar says what the levels are


def test_a_grid_of_images_fills_rows():
    x = torch.rand(20, 4, 4)
    assert np.allclose(cells(plot.images(x, columns=6), 4, 6, 4)[1, 2], x[8], atol=1 / 255)
    assert np.allclose(cells(plot.images(x.reshape(4, 5, 1, 4, 4)), 4, 5, 4)[3, 1], x[16],
                       atol=1 / 255)  # fmt: skip


def test_weights_are_white_at_zero_and_symmetric():
    x = torch.zeros(2, 3, 3)
    x[0, 0, 0], x[1, 2, 2] = -0.5, 0.25
    drawn = plot.images(x, columns=2, signed=True).images[0].get_array()
    negative, zero, positive = drawn[0, 0, :3], drawn[1, 1, :3], drawn[2, -1, :3]
    assert np.ptp(zero) <= 3
    assert zero.min() > 240
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]
    assert negative.sum() < positive.sum()  # it is twice as far from zero


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (torch.rand(5, 784), {}, r"\[5, 784\].*reshape"),
        (torch.rand(0, 8, 8), {}, r"\[0, 8, 8\]"),
        (torch.rand(4, 8, 8), {"columns": 2, "titles": ["a"]}, "1 titles for 2 rows"),
        (torch.rand(4, 8, 8), {"columns": 0}, "columns=0"),
        ({"a": torch.rand(2, 8, 8), "b": torch.rand(2, 9, 9)}, {}, "one size"),
        (torch.rand(4, 8, 8), {"ax": np.array([1])}, "ax is a ndarray"),
    ],
)
def test_what_is_no_image_is_refused(x, options, says):
    with pytest.raises(PvaeError, match=says):
        plot.images(x, **options)


def test_the_manifold_goes_through_the_quantiles_of_the_prior():
    torch.manual_seed(0)
    model = models.VAE((1, 4, 4), latent_dim=2, hidden_dims=[8])
    ax = plot.manifold(model, size=3)
    q = float(Normal(0, 1).icdf(torch.tensor(5 / 6)))
    z = torch.tensor([[-q, q], [q, -q], [q, 0.0]])  # top left, bottom right, right
    expected = decode(model, {"z": z})[:, 0].detach()
    found = cells(ax, 3, 3, 4)
    assert np.allclose(found[[0, 2, 1], [0, 2, 2]], expected, atol=1 / 255)
    assert labels(ax.xaxis) == ["−1.0", "0.0", "1.0"]
    assert ax.get_yticks()[0] > ax.get_yticks()[-1]  # the second code rises upwards


def test_the_manifold_of_another_prior_has_its_quantiles():
    torch.manual_seed(1)
    model = models.MixturePriorVAE((1, 4, 4), latent_dim=2, hidden_dims=[8], num_components=3)
    found = plane(model, size=4)
    assert not found.standard
    assert (np.diff(found.first) > 0).all()
    with pytest.raises(PvaeError, match=r"two dimensions.*z \[5\]"):
        plot.manifold(models.VAE((1, 4, 4), latent_dim=5))


def test_rows_of_a_traversal_and_of_an_interpolation():
    torch.manual_seed(0)
    model = models.VAE((1, 4, 4), latent_dim=3, hidden_dims=[8])
    guide = guides.MeanField((1, 4, 4), latent_dim=3, hidden_dims=[8])
    x = torch.rand(6, 1, 4, 4)
    ax = plot.traversal(model, guide, x, dims=[2, 0], steps=3)
    assert [name[:4] for name in labels(ax.yaxis)] == ["z[2]", "z[0]"]
    assert labels(ax.xaxis) == ["−3", "0", "+3"]
    for path in ("straight", "spherical"):
        ax = plot.interpolation(model, guide, x[:2], x[2:4], steps=4, path=path)
        between = interpolate(model, guide, x[:2], x[2:4], steps=4, path=path)[:, :, 0].detach()
        found = cells(ax, 2, 6, 4)
        assert np.allclose(found[:, 1:5], between, atol=1 / 255)
        assert np.allclose(found[:, 5], x[2:4, 0], atol=1 / 255)


def test_points_are_the_codes_and_the_prior_has_its_mass():
    torch.manual_seed(0)
    guide = guides.MeanField((1, 4, 4), latent_dim=2, hidden_dims=[8])
    model = models.VAE((1, 4, 4), latent_dim=2, hidden_dims=[8])
    x, y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    ax = plot.latents(guide, x, labels=y, model=model)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines])
    codes = encode(guide, x)["z"].numpy()
    assert np.allclose(np.sort(drawn, 0), np.sort(codes, 0), atol=1e-5)
    assert {text.get_text() for text in ax.texts} >= {"0", "1", "2"}
    (lines,) = [each for each in ax.collections if hasattr(each, "get_paths")]
    radius = [np.linalg.norm(path.vertices, axis=1).mean() for path in lines.get_paths()]
    exact = [np.sqrt(-2 * np.log(1 - mass)) for mass in (0.99, 0.9, 0.5)]
    assert np.allclose(radius, exact, rtol=0.02)
    with pytest.raises(PvaeError, match="labels for 30 points"):
        plot.latents(guide, x, labels=y[:4])


def test_points_on_axes_that_share_their_limits():
    figure, axes = plt.subplots(1, 2, sharex=True, sharey=True)
    for ax, shift in zip(axes, (0, 3), strict=True):
        plot.points(torch.rand(20, 2) + shift, ax=ax)
    figure.canvas.draw()
    assert axes[0].get_aspect() == 1
    assert axes[0].get_xlim()[1] > 3


def test_contours_hold_their_share_of_the_mass():
    far = dist.Normal(torch.tensor([300.0, -2.0]), torch.tensor([1.0, 5.0])).to_event(1)
    x = far.sample((200,))
    ax = plot.contours(far.log_prob, masses=(0.9, 0.5), ax=plot.points(x))
    (lines,) = [each for each in ax.collections if hasattr(each, "get_paths")]
    apart = [(path.vertices - [300, -2]) / [1, 5] for path in lines.get_paths()]
    radius = [np.linalg.norm(each, axis=1).mean() for each in apart]
    assert np.allclose(radius, [np.sqrt(-2 * np.log(1 - mass)) for mass in (0.9, 0.5)], rtol=0.02)
    assert {text.get_text() for text in ax.texts} == {"50%", "90%"}
    with pytest.raises(PvaeError, match="shares between 0 and 1"):
        plot.contours(far.log_prob, masses=(1.0,), ax=ax)
    with pytest.raises(PvaeError, match="one number for each point"):
        plot.contours(lambda z: z, ax=ax)
    with pytest.raises(PvaeError, match="no region"):
        plot.contours(lambda z: z[:, 0] * torch.nan, ax=ax)


def test_of_a_longer_code_the_dimensions_that_vary_most():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 2, 5])

    class Same(torch.nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    ax = plot.latents(Same(), z)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z[1]", "z[3]")
    assert np.allclose(ax.lines[0].get_xydata(), z[:, [1, 3]])


def test_the_first_figure_leaves_what_its_backend_sets(monkeypatch):
    import matplotlib.pyplot as plt

    subplots = plt.subplots

    def loads_the_backend(*args, **kwargs):
        plt.ion()  # as a notebook's backend does; without it no later figure is shown
        return subplots(*args, **kwargs)

    monkeypatch.setattr(plt, "subplots", loads_the_backend)
    try:
        plot.curves([1.0, 2.0])
        assert plt.isinteractive()
    finally:
        plt.ioff()


def test_curves_of_runs_are_their_mean_with_a_band():
    runs = np.array([[1.0, 2.0, 4.0], [3.0, 4.0, 6.0]])
    ax = plot.curves({"a": runs, "b": [1.0, 1.0, 1.0]}, [1, 10, 100], log="x", up="nats")
    assert ax.lines[0].get_xydata().tolist() == [[1, 2], [10, 3], [100, 5]]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[band[:, 0] == 10][:, 1].min(), band[band[:, 0] == 10][:, 1].max()) == (2, 4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    plot.curves({"c": [2.0, 2.0]}, [1, 2], ax=ax)
    colours = {line.get_color() for line in ax.lines}
    assert len(colours) == 3  # another call goes on with the colours
    with pytest.raises(PvaeError, match="3 points and x has shape"):
        plot.curves({"a": [1, 2, 3]}, [1, 2])


def test_histograms_are_shares_or_a_density():
    sets = {"test": np.arange(10.0), "foreign": [0.0, 1.0, -np.inf, 2.0]}
    ax = plot.histogram(sets, bins=[-0.5, 4.5, 9.5], line=(3.0, "threshold"))
    shares = [patch.get_data().values.tolist() for patch in ax.patches[1::2]]
    assert shares == [[0.5, 0.5], [1.0, 0.0]]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["test", "foreign (1 not finite)"]
    assert any(line.get_xdata()[0] == 3.0 for line in ax.lines)
    density = plot.histogram(np.arange(10.0), bins=[0, 5, 10], density=Normal(5.0, 2.0).log_prob)
    assert density.patches[0].get_data().values.tolist() == [0.1, 0.1]
    x, y = density.lines[0].get_data()
    assert np.allclose(y, Normal(5.0, 2.0).log_prob(torch.as_tensor(x)), rtol=1e-5)
    with pytest.raises(PvaeError, match="no finite"):
        plot.histogram({"a": [np.nan]})


def test_bars_stack_parts_and_name_them():
    gaps = {"mean field": {"a": 3.0, "b": 2.0}, "IAF": {"a": 2.5, "b": 0.5}}
    ax = plot.bars(gaps, {name: {"a": 0.1, "b": 0.2} for name in gaps})
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    assert tops == [3.0, 2.5, 5.0, 3.0]
    assert labels(ax.xaxis) == ["mean field", "IAF"]
    assert [bar.get_height() for bar in plot.bars([0.25, 0.75]).patches] == [0.25, 0.75]
    with pytest.raises(PvaeError, match="same parts"):
        plot.bars({"a": {"x": 1}, "b": {"y": 1}})


def test_trainings_share_their_axes():
    def history(shift):
        return [{"epoch": i, "elbo": -9.0 / i + shift, "validation_elbo": -8.0 / i + shift}
                for i in range(1, 31)]  # fmt: skip

    ax = plot.training({"VAE": history(0.0), "IWAE": history(1.0)})
    assert ax.lines[0].get_ydata().tolist() == [row["validation_elbo"] for row in history(0.0)]
    assert ax.lines[3].get_ydata().tolist() == [row["elbo"] for row in history(1.0)]
    assert ax.get_ylim()[0] > -8  # the first epochs lie below the frame
    assert ax.get_xlabel() == "epoch"
    with pytest.raises(PvaeError, match="by name"):
        plot.training(history(0.0))
