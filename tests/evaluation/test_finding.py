"""A finding comes back from its file as it went in."""

from dataclasses import dataclass, field

import numpy as np

from pvae.evaluation.estimators.prior import FromPrior
from pvae.evaluation.finding import Estimate, Finding


@dataclass(frozen=True)
class Example(Finding):
    """For the test."""

    log_px: np.ndarray
    table: np.ndarray
    curve: np.ndarray = field(metadata={"dims": ("point",)})
    start: str
    num_chains: int


def test_round_trip(tmp_path):
    import xarray

    found = Example(
        datum=np.array([3, 5]),
        log_px=np.array([-1.0, -np.inf]),
        table=np.arange(6.0).reshape(2, 3),
        curve=np.linspace(0, 1, 2),  # as long as the data are many, and not over them
        start="prior",
        num_chains=4,
    )
    assert len(found) == 2
    dataset = found.to_dataset()
    assert dataset["log_px"].dims == ("datum",)
    assert dataset["table"].dims == ("datum", "table_dim_1")
    assert dataset["curve"].dims == ("point",)
    dataset.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with xarray.open_dataset(tmp_path / "a.nc", engine="netcdf4") as stored:
        again = Example.from_dataset(stored.load())
    assert again.start == "prior"
    for name in ("datum", "log_px", "table", "curve"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_printing_a_finding_shows_means_and_no_arrays():
    found = Example(
        datum=np.arange(400),
        log_px=np.arange(400.0),
        table=np.zeros((400, 3)),
        curve=np.zeros(5000),
        start="prior",
        num_chains=4,
    )
    assert repr(found) == "<Example: 400 data, log_px 199.5 ± 5.781>"
    one = Estimate(np.array([7]), np.array([-np.inf]))
    assert repr(one) == "<Estimate: 1 datum, log_px – ± –>"
    titled = FromPrior(*[np.arange(2.0)] * 5, num_samples=3)
    assert repr(titled).startswith("<FromPrior: Naive Monte Carlo from the prior, 2 data, log_px ")
    assert "array" not in repr({"prior": titled})
