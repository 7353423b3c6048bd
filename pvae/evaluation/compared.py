"""Two runs on the same data: their bounds, and the differences between these."""

import math
from dataclasses import dataclass, field

import numpy as np

from pvae.drawing import text

__all__ = ["Bound", "Compared", "Difference"]


@dataclass(frozen=True, eq=False)
class Difference:
    r"""One run's bound minus the reference's on the same N data, in nats.

    .. math:: d_n = a_n - b_n, \qquad \mathrm{se} = \mathrm{sd}(d) / \sqrt N

    Attributes:
        values: d, [N].
        mean: Mean of d. This and the other numbers are NaN if they are undefined.
        se: Standard error of the mean; sd(d) includes the Monte Carlo errors of both bounds.
        unpaired_se: Standard error of the difference if the two runs had seen different data.
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
        """`"better"`, `"worse"`, `"no difference"` if the interval has zero, or `"undefined"`."""
        if math.isnan(self.low):
            return "undefined"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference"

    def interval(self, places: int) -> str:
        """Returns the 95% interval as text; a dash if it is undefined."""
        ends = text.number(self.low, places), text.number(self.high, places)
        return text.NONE if math.isnan(self.low) else " to ".join(ends)


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound in nats, or a score, [N], its mean, and the mean's standard error over the data.

    `difference` is that to the reference's bound; None for the reference itself.
    """

    values: np.ndarray
    mean: float
    se: float
    difference: Difference | None


@dataclass(frozen=True, eq=False)
class Compared:
    """One run of a comparison; the reference has neither differences nor words.

    Attributes:
        num_samples: Samples for each datum in its evaluation.
        above_threshold: Share of data with k̂ above `khat_threshold`; NaN if k̂ is unknown.
        log_px: L_K at the comparison's K.
        words: What the difference of L_K says, and whether the bounds may be loose.
        constant: Whether log w is the same for every sample, and so L_K for every K.
        scores: The `Finding.scores` that all runs have on the same data, by name.
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
    constant: bool = False
    scores: dict[str, Bound] = field(default_factory=dict)
