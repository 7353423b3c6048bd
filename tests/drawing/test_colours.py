"""Colours that a colour-blind reader tells apart, by their distance in CIELAB."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import pvae
from pvae.drawing.colours import PAGE, VARIABLES, screen

STYLE = (Path(pvae.__file__).parent / "report" / "style.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in STYLE.split("@media")[:2]
)
CLASSES = [f"class-{i}" for i in range(10)]
TOGETHER = [CLASSES, ["accent", "second", "fill", "warn-fill"], ["good", "bad", "open"]]

# Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB.
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(colour: str) -> np.ndarray:
    """Linear RGB of "#rrggbb"."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    t = XYZ @ rgb.clip(0, 1) / XYZ.sum(1)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours: list[str], eyes: str) -> float:
    """The smallest distance between two colours."""
    seen = [lab(np.array(EYES[eyes]) @ linear(c)) for c in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("names", TOGETHER, ids=["classes", "charts", "verdicts"])
def test_colours_of_a_report_are_told_apart(theme, names, eyes):
    assert nearest([theme[name] for name in names], eyes) > 15


@pytest.mark.parametrize("eyes", EYES)
def test_colours_of_a_notebook_are_told_apart(eyes):
    assert nearest(list(screen().classes), eyes) > 15


def test_marks_stand_out_from_a_dark_page():
    paper = float(linear(DARK["paper"]) @ XYZ[1])
    for name in CLASSES:
        assert (float(linear(DARK[name]) @ XYZ[1]) + 0.05) / (paper + 0.05) > 3, name


def test_curves_take_every_colour_once():
    assert sorted(VARIABLES[c] for c in PAGE.series) == CLASSES
    assert sorted(screen().series) == sorted(screen().classes)
