"""What a notebook shows of an inspection and of a diagnosis."""

import torch
from small import small_pair

from pvae import inspect
from pvae.diagnosis import Diagnosis


def test_an_inspection_is_a_table_of_sites():
    html = inspect(*small_pair(), torch.zeros(5, 1, 8, 8))._repr_html_()
    for words in ("observed x", "Bernoulli", "Normal", "(1, 8, 8)", "counts the data", "5 data"):
        assert words in html


def test_a_diagnosis_shows_its_faults_first_and_its_facts_folded():
    found = Diagnosis(["Site 'z' <lacks> a plate."], ["noisy"], ["guide: z ~ Normal"])
    html = found._repr_html_()
    assert html.index("1 fault found") < html.index("&lt;lacks&gt;") < html.index("<details>")
    assert html.index("<details>") < html.index("guide: z")
    assert repr(found) == "<Diagnosis: 1 fault found, 1 note; print it>"
    assert repr(Diagnosis()) == "<Diagnosis: no fault found; print it>"
