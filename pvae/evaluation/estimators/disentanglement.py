"""Disentanglement: whether single code dimensions follow single known factors of the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from markupsafe import Markup

from pvae.data import Split, glyphs
from pvae.distributions import is_discrete
from pvae.drawing import Panel, attempt, chart, colours, responsive, text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.factor_scores import (
    beta_vae_score,
    check_factors,
    factor_vae_score,
    information,
    mig,
)
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite
from pvae.predictive import ACTIVE, encode

__all__ = ["Disentangled", "Disentanglement"]

_BOOTSTRAPS = 30


@dataclass(frozen=True)
class Disentangled(Finding, kind="Disentanglement"):
    """Scores of the codes of n data by F known factors.

    Attributes:
        information: I(z_j; v_k) / H(v_k) of the Z active dimensions, [Z, F], between 0 and 1.
        dims: Their names.
        factors: The names of the factors, or their numbers.
        gaps: The MIG of each factor, F numbers; the MIG is their mean.
        mig_se: The standard error of the MIG over the data, by the bootstrap.
        beta_vae: The β-VAE score and its standard error.
        factor_vae: The FactorVAE score and its standard error.
    """

    title, section, order = "Disentanglement", "parts", 75

    information: np.ndarray = field(metadata={"dims": ("dim", "factor")})
    dims: list[str]
    factors: list[str]
    gaps: list[float]
    mig_se: float
    beta_vae: list[float]
    factor_vae: list[float]

    @property
    def mig(self) -> float:
        """The mutual information gap, the mean over the factors."""
        return float(np.mean(self.gaps))

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": len(self),
            "num_factors": len(self.gaps),
            "active": len(self.dims),
            "mig": {"mean": finite(self.mig), "se": finite(self.mig_se)},
            "mig_of_factors": dict(zip(self.factors, map(finite, self.gaps), strict=True)),
            "beta_vae": dict(zip(("mean", "se"), self.beta_vae, strict=True)),
            "factor_vae": dict(zip(("mean", "se"), self.factor_vae, strict=True)),
        }

    def line(self, summary: dict[str, Any]) -> str:
        said = (
            f"{name} {' '.join(text.with_error(*summary[key].values(), 3))}"
            for name, key in (("MIG", "mig"), ("β-VAE", "beta_vae"), ("FactorVAE", "factor_vae"))
        )
        chance = 1 / summary["num_factors"]
        return f"disentanglement: {', '.join(said)} (chance of the last two {chance:.3f})"

    def panels(self, known: Known) -> list[Panel]:
        return [
            attempt("disentanglement", "What each dimension says about each factor", _draw, self)
        ]


@dataclass(frozen=True)
class Disentanglement(Estimator):
    """MIG, β-VAE score and FactorVAE score of the codes, where the data have the field `factors`.

    The codes are the posterior means of all latent sites, and only dimensions whose variance over
    the data is above 0.01. `factors` are integers [N, F], as of `pvae.data.load("glyphs")`; the
    pair need not receive them. Histograms of 20 bins, which the MIG is defined by, leave even a
    perfect code below 1 if a factor has more than 20 values.

    Attributes:
        num_data: Number of data, drawn at random; None for all.

    Raises:
        PvaeError: If there are no factors, a factor has one value or hardly any two data with the
            same, a site is discrete, or no dimension is active.

    Source: Chen et al. 2018 (arXiv:1802.04942), Higgins et al. 2017, Kim & Mnih 2018
    (arXiv:1802.05983); see Locatello et al. 2019 (arXiv:1811.12359) for what they can show.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> data = {"x": torch.randint(2, (50, 4)).float(), "factors": torch.randint(2, (50, 2))}
        >>> found = pvae.evaluate(model, guide, data, num_samples=5, estimators=[Disentanglement()])
        >>> sorted({*found.findings, *found.missing} & {"disentanglement"})
        ['disentanglement']
    """

    name, finding = "disentanglement", Disentangled

    @classmethod
    def from_options(cls, disentanglement: int = 0) -> Self | None:
        """Disentanglement.

        Args:
            disentanglement: Number of data whose codes are compared with their known factors.
        """
        return cls(disentanglement) if disentanglement else None

    def estimate(self, task: Task) -> Disentangled:
        fields = task.data.fields if isinstance(task.data, Split) else {}
        if "factors" not in fields:
            raise PvaeError(
                "The data have no field factors, integers [N, F], such as those of "
                "pvae.data.load('glyphs')."
            )
        rows = task.positions
        factors = check_factors(np.asarray(fields["factors"][rows.tolist()].cpu()))
        codes, dims = _codes(task)
        found, entropy = information(codes, factors)
        gaps = mig(found, entropy)
        generator = np.random.default_rng(task.seed)
        each = []
        while len(each) < _BOOTSTRAPS:
            counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
            again, spread = information(codes, factors, counts)
            if spread.all():  # a rare value of a factor can be missing
                each.append(mig(again, spread).mean())
        return Disentangled(
            rows,
            found / entropy,
            dims,
            _names(task, factors.shape[1]),
            gaps.tolist(),
            float(np.std(each, ddof=1)),
            list(beta_vae_score(codes, factors, task.seed)),
            list(factor_vae_score(codes, factors, task.seed)),
        )


def _names(task: Task, count: int) -> list[str]:
    known = getattr(task.source, "name", None) == "glyphs"
    return list(glyphs.FACTORS) if known else [str(k) for k in range(count)]


def _codes(task: Task) -> tuple[np.ndarray, list[str]]:
    """Returns the active dimensions of the codes, [N, Z], and their names."""
    if task.sampler.bound:
        raise PvaeError("The pair runs only with all its data together, so there are no codes.")
    structure = task.sampler.structure
    for name in structure.latent:
        site = structure.model_trace.nodes.get(name) or structure.guide_trace.nodes[name]
        if is_discrete(site["fn"]):
            raise PvaeError(f"Site {name!r} is discrete, so its codes have no dimensions.")

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        found = encode(task.sampler.guide, *task.batch(block))
        return {name: code.flatten(1).double().cpu().numpy() for name, code in found.items()}

    blocks: Sequence[np.ndarray] = np.array_split(task.positions, -(-len(task.positions) // 512))
    sites = task.map("codes", blocks, compute)
    if not sites:
        raise PvaeError("The guide has no latent site, so there are no codes.")
    codes = np.concatenate(list(sites.values()), 1)
    names = [f"{name}[{i}]" for name, code in sites.items() for i in range(code.shape[1])]
    active = codes.var(0) > ACTIVE
    if not active.any():
        raise PvaeError(
            f"No dimension of the codes is active: the variance of each is below {ACTIVE}."
        )
    return codes[:, active], [name for name, kept in zip(names, active, strict=True) if kept]


def _draw(found: Disentangled) -> Panel:
    def draw(width: float) -> Markup:
        dims, factors = found.information.shape
        with chart("Information of dimensions about factors", width, 60 + 18 * dims) as drawn:
            from matplotlib.patches import Rectangle

            ax = drawn.figure.subplots()
            for j, row in enumerate(found.information):
                for k, share in enumerate(row):
                    alpha = float(np.clip(share, 0, 1))
                    ax.add_patch(
                        Rectangle((k, j), 1, 1, color=colours.ACCENT, alpha=alpha, linewidth=0)
                    )
            ax.set_xlim(0, factors)
            ax.set_ylim(dims, 0)
            ax.set_xticks(np.arange(factors) + 0.5, found.factors)
            ax.set_yticks(np.arange(dims) + 0.5, found.dims)
            ax.set_xlabel("factor →", loc="right")
            ax.grid(False)
        return drawn.svg

    gaps = ", ".join(
        f"{name} {text.number(gap, 2)}" for name, gap in zip(found.factors, found.gaps, strict=True)
    )
    said = found.line(found.summary(None))
    note = (
        f"{said[0].upper()}{said[1:]}. The darker, the more a dimension says "
        "about a factor: I(z; v) / H(v), from histograms of posterior means. The MIG of a factor "
        f"is the lead of its best dimension ({gaps}). The β-VAE score and the FactorVAE score are "
        "accuracies in telling which factor is the same in a set of data."
    )
    return Panel((responsive(draw),), note)
