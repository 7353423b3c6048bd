"""Active units: what varies with the datum counts, what varies by chance does not."""

import torch

from pvae.evaluation.estimators.active_units import ActiveUnits, active_units, variances


def _count(means):
    units = ActiveUnits()
    for block in means.split(100, dim=1):
        for chunk in block.split(7, dim=0):
            units.add({"z": chunk})
        units.end_data(len(means))
    return active_units(variances(units.sums.get("z")))


def test_counts_dimensions_whose_mean_varies():
    scales = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0])
    torch.manual_seed(0)
    exact = (torch.randn(1000, 5) * scales).expand(20, 1000, 5)
    assert _count(exact) == 3  # variances 1, 0.25, 0.04 are above 0.01; 0.0025 is not


def test_the_noise_of_draws_is_subtracted():
    torch.manual_seed(0)
    base = torch.randn(2000, 3) * torch.tensor([0.5, 0.0, 0.0])
    draws = base + torch.randn(20, 2000, 3)  # variance of the average by chance: 0.05
    assert _count(draws) == 1


def test_one_sample_says_nothing():
    assert _count(torch.randn(1, 1000, 3)) is None


def test_nothing_to_count():
    assert active_units(variances(ActiveUnits().sums.get("y"))) is None
