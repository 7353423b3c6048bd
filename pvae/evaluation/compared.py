"""One run beside another: bounds on the same data, and their differences."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Bound", "Compared", "Difference"]


@dataclass(frozen=True, eq=False)
class Difference:
    r"""One run's bound minus the reference's on the same N data, in nats.

    .. math:: d_n = a_n - b_n, \qquad \mathrm{se} = \mathrm{sd}(d) / \sqrt N

    Attributes:
        values: d, [N].
        mean: Its mean; like the other numbers NaN where it is undefined.
        se: Its standard error; the Monte Carlo errors of both bounds are a part of sd(d).
        unpaired_se: The standard error, had the two runs seen different data.
        low: Lower end of the 95% interval of the mean (Student's t).
        high: Upper end.
        higher: Share of data on which the run's bound is higher than the reference's.
    """

    values: np.ndarray
    mean: float
    se: float
    unpaired_se: float
    low: float
    high: float
    higher: float

    @property
    def verdict(self) -> str:
        """`"better"`, `"worse"`, `"no difference"` that these data show, or `"undefined"`."""
        if math.isnan(self.low):
            return "undefined"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference"


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound datum by datum [N] in nats, its mean, the standard error of that over the data.

    The reference's has no difference to itself.
    """

    values: np.ndarray
    mean: float
    se: float
    difference: Difference | None


@dataclass(frozen=True, eq=False)
class Compared:
    """One run of a comparison; the reference has no differences and no words.

    Attributes:
        num_samples: The samples for each datum that it was evaluated with.
        above_threshold: Share of data with k̂ above `khat_threshold`; NaN if not available.
        log_px: L_K at the comparison's K.
        words: What the difference of L_K says, and why it may not be one of likelihoods.
    """

    name: str
    model: str
    guide: str
    num_samples: int
    khat_threshold: float
    above_threshold: float
    log_px: Bound
    elbo: Bound
    words: str = ""
