"""Annealed importance sampling: log p(x) estimated from the prior and from the guide."""

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np

from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.annealed import TITLES, Annealed
from pvae.evaluation.estimators.annealing import Annealing
from pvae.evaluation.estimators.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.estimators.pilot import pilot_length
from pvae.importance import seed_unit

__all__ = ["AIS"]


@dataclass(frozen=True)
class AIS(Annealing):
    r"""Annealed importance sampling, from the prior and from the guide.

    .. math:: \log p(x) \approx \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{f_0(z_{t-1})}

    The estimate is below log p(x) in expectation. Chains from the prior can find modes that the
    guide misses; chains from the guide start nearer. See `Annealing` for the path and the options.

    Attributes:
        start: `"prior"`, `"guide"` or `"both"`, which gives two findings. If the guide gives a
            point, `"both"` is the prior alone.

    Raises:
        PvaeError: If a discrete latent site has no finite list of values, or a Gibbs sweep takes
            more than 4,096 evaluations; if the model's density has no gradient in the continuous
            latents, or the guide's density cannot be evaluated away from its own samples.

    Source: Neal 2001, *Annealed importance sampling*, arXiv:physics/9803008; Wu, Burda,
    Salakhutdinov & Grosse 2017, arXiv:1611.04273.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [AIS(2, num_chains=2, num_temperatures=9)]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> sorted(name for name in found.findings if name.startswith("ais"))
        ['ais_guide', 'ais_prior']
        >>> found.findings["ais_prior"].log_px.shape
        (2,)
    """

    finding = Annealed
    hint = "--ais 100"

    start: str = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in TITLES:
            raise PvaeError(f"start={self.start!r} is not valid: use one of {', '.join(TITLES)}.")

    @property
    def name(self) -> str:
        return "ais" if self.start == "both" else f"ais_{self.start}"

    @property
    def title(self) -> str:
        return TITLES[self.start]

    @classmethod
    def from_options(
        cls,
        ais: int = 0,
        num_chains: int = 16,
        num_temperatures: int = 500,
        num_leapfrog: int = 2,
    ) -> Self | None:
        """Annealed importance sampling.

        Args:
            ais: Number of data, drawn at random, for annealed importance sampling, from the prior
                (which can find modes that the guide misses) and from the guide.
            num_chains: Chains for each datum, in all kinds of annealing (--ais, --bdmc, --gap).
            num_temperatures: Temperatures of annealing.
            num_leapfrog: Leapfrog steps at each temperature.
        """
        return cls.asked("ais", ais, num_chains, num_temperatures, num_leapfrog)

    def parts(self, code: bool) -> list[Estimator]:
        starts = ("prior", "guide") if self.start == "both" else (self.start,)
        return [dataclasses.replace(self, start=each) for each in starts[: 1 if code else None]]

    def estimate(self, task: Task) -> Annealed:
        if task.code and self.start == "guide":
            raise PvaeError(
                "The guide gives a point, which has no density: AIS cannot start from it. Start "
                "from the prior."
            )
        density, blocks = self._density(task), self._blocks(task)
        compiled = self._compiled(task, density, blocks)

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=2 if self.start == "prior" else 3)
            tick = task.work.ticks(self.num_temperatures - 1 + pilot_length(self.num_temperatures))
            log_w, acceptance, *_ = self._forward(density, task.batch(block), compiled, tick)
            found = {
                "log_px": log_mean_exp(log_w.T),
                "log_px_se": log_px_se(log_w.T),
                "ess": effective_sample_size(log_w.T),
                "acceptance": acceptance.double(),
            }
            return {name: values.cpu().numpy() for name, values in found.items()}

        results = task.work.map(self.title, blocks, compute)
        acceptance = sum(each.pop("acceptance").sum(1) for each in results) / len(task.positions)
        return Annealed(
            datum=task.positions,
            **{name: np.concatenate([each[name] for each in results]) for name in results[0]},
            acceptance=acceptance,
            **self.options(task),
        )
