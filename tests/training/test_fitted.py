"""What a notebook shows of a training: its figure, and short text and HTML."""

import matplotlib.pyplot as plt
import pytest

import pvae
from pvae.training.fitted import Fit


def fitted(epochs, **options):
    history = [
        {"epoch": i, "elbo": -100 - 20 / i, "kl_weight": 1.0, "validation_elbo": -101 - 20 / i}
        for i in range(1, epochs + 1)
    ]
    return Fit(history, "Trace<ELBO>", 12345, epochs - 1, **options)


def test_the_figure_has_both_curves():
    plt.switch_backend("Agg")
    found = fitted(30)
    ax = found.plot()
    train, held = (line.get_ydata().tolist() for line in ax.lines)
    assert train == [row["elbo"] for row in found.history]
    assert held == [row["validation_elbo"] for row in found.history]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per datum")
    assert ax.get_ylim()[0] > -110  # the first epochs would flatten the rest
    plt.close("all")
    with pytest.raises(pvae.PvaeError, match="no epoch was trained"):
        Fit([], "Trace_ELBO", 1, 0).plot()


def test_text_and_html_are_short_and_of_the_epoch_that_was_kept():
    found = fitted(3000, frozen=("model.<decoder>",))
    assert "epoch 2999, objective −100.01, validation ELBO −101.01" in repr(found)
    html = found._repr_html_()
    assert max(len(repr(found)), len(html) // 40) < 250
    assert "20 of 3" in html
    assert "model.&lt;decoder&gt;" in html
    assert "Trace<ELBO>" not in html
    assert Fit([], "Trace_ELBO", 1, 0)._repr_html_().count("<details>") == 0
