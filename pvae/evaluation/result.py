"""Evaluation: what evaluate() found, datum by datum and summarised."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pvae.errors import PvaeError, first_line
from pvae.evaluation.pareto import verdict
from pvae.files import atomic

__all__ = ["Evaluation"]

_PER_DATUM = ("elbo", "log_px", "log_px_se", "khat", "ess", "kl", "reconstruction", "zero_weights")


@dataclass(frozen=True)
class Evaluation:
    """Bounds on log p(x) and their diagnostics, in nats; arrays are over the N data.

    Attributes:
        elbo: The ELBO, [N].
        log_px: The importance-weighted bound at `num_samples`, [N].
        log_px_se: Its Monte Carlo standard error (delta method), [N].
        khat: Pareto k̂, [N].
        ess: Effective sample size, [N].
        kl: KL(q(z|x) ‖ p(z)), summed over sites, by the samples, [N].
        reconstruction: E_q[log p(x|z)], [N]; the ELBO is reconstruction - kl.
        zero_weights: Share of weights that are zero, [N].
        bounds: For each K, the bound L_K averaged over all blocks of K samples, [N].
        sites: For each latent site its mean `kl` and number of `active_units`.
        num_samples: K, samples for each datum.
        seed: Seed of the draws.
        khat_threshold: The k̂ up to which `num_samples` samples are enough.
        model: Name of the model.
        guide: Name of the guide.
        data: `name`, `observation` and `hash` of the data.
        strategy: How the samples were computed: `"plate"`, `"tile"` or `"loop"`.
        caveat: Why these numbers are not likelihoods, else `None`.
    """

    elbo: np.ndarray
    log_px: np.ndarray
    log_px_se: np.ndarray
    khat: np.ndarray
    ess: np.ndarray
    kl: np.ndarray
    reconstruction: np.ndarray
    zero_weights: np.ndarray
    bounds: dict[int, np.ndarray]
    sites: dict[str, dict[str, float | int | None]]
    num_samples: int
    seed: int
    khat_threshold: float
    model: str
    guide: str
    data: dict[str, str]
    strategy: str
    caveat: str | None = None
    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        words = verdict(self.khat, self.khat_threshold, self.num_samples)
        object.__setattr__(self, "verdict", words)

    def __len__(self) -> int:
        return len(self.elbo)

    def summary(self) -> dict[str, Any]:
        """Returns the keys of `evaluation.json`: means per datum and standard errors, in nats.

        `se` is the standard error over the data (sd / √N); `None` where a number is undefined.
        """
        units = [site["active_units"] for site in self.sites.values()]
        known = self.khat[~np.isnan(self.khat)]
        return {
            "units": "nats",
            "num_data": len(self),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "model": self.model,
            "guide": self.guide,
            "data": self.data,
            "elbo": _mean_and_se(self.elbo),
            "log_px": [{"num_samples": k, **_mean_and_se(v)} for k, v in self.bounds.items()],
            "log_px_se": _number(np.sqrt(np.mean(self.log_px_se**2) / len(self))),
            "kl": _number(self.kl.mean()),
            "reconstruction": _number(self.reconstruction.mean()),
            "khat": {
                "median": _number(np.median(known)) if len(known) else None,
                "threshold": _number(self.khat_threshold),
                "above_threshold": (
                    _number((known > self.khat_threshold).mean()) if len(known) else None
                ),
            },
            "ess": {"median": _number(np.median(self.ess))},
            "zero_weights": _number(self.zero_weights.mean()),
            "active_units": None if None in units else sum(units),
            "sites": self.sites,
            "strategy": self.strategy,
            "not_a_likelihood": self.caveat,
        }

    def table(self) -> str:
        """Returns the bounds as a table for a terminal."""
        summary = self.summary()
        label = "not a likelihood, nats per datum" if self.caveat else "nats per datum"
        rows = [("ELBO", summary["elbo"])]
        rows += [(f"L_{row['num_samples']}", row) for row in summary["log_px"]]
        width = max(len(name) for name, _ in rows) + 2
        lines = [
            f"{self.model} with {self.guide} on {self.data['name']} ({self.data['observation']}, "
            f"{len(self)} data, {self.num_samples} samples each)",
            f"{'bound':<{width}}{'mean':>12}{'± se':>10}   {label}",
        ]
        lines += [
            f"{name:<{width}}{_show(row['mean']):>12}{_show(row['se']):>10}" for name, row in rows
        ]
        above = summary["khat"]["above_threshold"]
        lines += [
            f"reconstruction {_show(summary['reconstruction'])}, KL {_show(summary['kl'])}, "
            f"active units {'–' if summary['active_units'] is None else summary['active_units']}, "
            f"median ESS {_show(summary['ess']['median'])}",
            f"k̂: median {_show(summary['khat']['median'])}, above {self.khat_threshold:.2f} for "
            f"{'–' if above is None else f'{above:.1%}'} of the data",
        ]
        return "\n".join(lines + ([self.caveat] if self.caveat else []))

    def __str__(self) -> str:
        return self.table()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `evaluation.json` (the summary) and `evaluation.nc` (per datum).

        Raises:
            PvaeError: If a file cannot be written.
        """
        with atomic(Path(folder) / "evaluation.nc") as temporary:
            self.to_datatree().to_netcdf(temporary, engine="netcdf4")
        with atomic(Path(folder) / "evaluation.json") as temporary:
            temporary.write_text(json.dumps(self.summary(), indent=1, allow_nan=False) + "\n")

    def to_datatree(self) -> Any:
        """Returns the per-datum arrays as an ArviZ DataTree with the dimension `datum`."""
        import xarray

        arrays = {name: ("datum", getattr(self, name)) for name in _PER_DATUM}
        if self.bounds:
            stacked = np.stack(list(self.bounds.values()))
            arrays["bound"] = (("bound_num_samples", "datum"), stacked)
        dataset = xarray.Dataset(
            arrays,
            coords={
                "datum": np.arange(len(self)),
                "bound_num_samples": np.array(list(self.bounds), dtype=np.int64),
            },
            attrs={
                "units": "nats",
                "created_by": "pvae",
                "meta": json.dumps(
                    {
                        "num_samples": self.num_samples,
                        "seed": self.seed,
                        "khat_threshold": self.khat_threshold,
                        "model": self.model,
                        "guide": self.guide,
                        "data": self.data,
                        "strategy": self.strategy,
                        "caveat": self.caveat,
                        "sites": self.sites,
                    }
                ),
            },
        )
        return xarray.DataTree.from_dict({"/evaluation": dataset})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Evaluation":
        """Reads what `save` wrote.

        Raises:
            PvaeError: If there is no evaluation, or it is damaged.
        """
        import xarray

        path = Path(folder) / "evaluation.nc"
        if not path.exists():
            raise PvaeError(f"{path} does not exist; `pvae evaluate {folder}` makes it.")
        try:
            with xarray.open_datatree(path, engine="netcdf4") as tree:
                data = tree["evaluation"].to_dataset().load()
            meta = json.loads(data.attrs["meta"])
            arrays = {name: data[name].values for name in _PER_DATUM}
            bounds = {int(k): data["bound"].sel(bound_num_samples=k).values
                      for k in data["bound_num_samples"].values}  # fmt: skip
        except (OSError, KeyError, ValueError) as error:
            raise PvaeError(
                f"{path} is damaged or not pvae's ({first_line(error)}); "
                f"`pvae evaluate {folder}` writes it anew."
            ) from error
        return cls(**arrays, bounds=bounds, **meta)


def _mean_and_se(values: np.ndarray) -> dict[str, float | None]:
    with np.errstate(invalid="ignore"):
        se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": _number(values.mean()), "se": _number(se)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
