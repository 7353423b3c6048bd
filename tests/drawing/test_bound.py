"""The bound against K: nothing is written over anything else."""

import itertools

import pytest

from pvae.drawing import draw_bound, onto


@pytest.mark.parametrize("wide", [4.0, 5.0, 10.0])
@pytest.mark.parametrize("ks", [[1], [1, 5, 50, 500, 1000], [1, 2, 5, 10, 20, 50, 100, 200, 5000]])
def test_labels_have_room(ks, wide):
    plt = pytest.importorskip("matplotlib.pyplot")
    rows = [{"num_samples": k, "mean": -24.6 + 0.02 * i, "se": 0.2} for i, k in enumerate(ks)]
    figure, ax = plt.subplots(figsize=(wide, 3), layout="constrained")
    ax, look = onto(ax)
    draw_bound(ax, {"log_px": rows, "elbo": {"mean": -24.7}}, look=look)
    figure.canvas.draw()
    shown = [label for label in ax.get_xticklabels() if label.get_text()]
    assert shown[-1].get_text() == f"{ks[-1]:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    boxes = [label.get_window_extent() for label in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    value = next(text for text in ax.texts if text.get_text().startswith("−24"))
    assert value.get_window_extent().x1 < ax.get_window_extent().x1
    plt.close(figure)
