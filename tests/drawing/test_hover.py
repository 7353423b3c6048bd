"""Values on hover: each point and each bar of a chart says its own number."""

import re

import numpy as np

from pvae.drawing import chart


def titles(svg):
    return re.findall(r"<title>(.*?)</title>", svg)


def test_points_of_a_line_say_their_values_where_they_are():
    y = np.array([-90.0, -85.5, -84.25])
    with chart("A line & its points") as drawn:
        ax = drawn.figure.subplots()
        ax.plot([1, 2, 3], y, label="training <b>")
        ax.axhline(-86)
        ax.set_xlabel("epoch →")
    assert titles(drawn.svg) == [
        f"training &lt;b&gt;, epoch {x}: −{value}"
        for x, value in ((1, "90.00"), (2, "85.50"), (3, "84.25"))
    ]
    points = re.findall(r'x="([\d.]+)" y="([\d.]+)"><title>', drawn.svg)
    across, down = np.array(points, dtype=float).T
    assert np.allclose(np.diff(across), np.diff(across)[0], atol=0.02)
    assert np.allclose(np.diff(down) / np.diff(y), np.diff(down)[0] / np.diff(y)[0], rtol=0.01)


def test_points_outside_of_the_frame_are_left_out_and_the_frame_stays():
    with chart("A cut line") as drawn:
        ax = drawn.figure.subplots()
        ax.plot([1, 2, 3, 4], [-1000.0, -3.0, -2.0, np.nan])
        ax.set_ylim(-4, -1)
    assert ax.get_ylim() == (-4, -1)
    assert [each.rpartition(": ")[2] for each in titles(drawn.svg)] == ["−3.00", "−2.00"]


def test_bars_of_a_histogram_say_their_edges_and_count():
    with chart("Bars") as drawn:
        drawn.figure.subplots().hist([0.1, 0.2, 0.9], bins=[0.0, 0.5, 1.0])
    assert titles(drawn.svg) == ["0.000 to 0.500: 2", "0.500 to 1.000: 1"]
