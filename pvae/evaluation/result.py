"""Evaluation: the result of evaluate(), datum by datum, with its summary and its files."""

import contextlib
import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pvae.errors import PvaeError, first_line
from pvae.evaluation.estimators import find_estimators
from pvae.evaluation.finding import Known, finding_of
from pvae.evaluation.reading import Reading, read
from pvae.evaluation.shown import Shown
from pvae.evaluation.summary import summarise, tabulate
from pvae.evaluation.verdict import verdict
from pvae.evaluation.work import half_done
from pvae.runtime import atomic, why

__all__ = ["Evaluation"]


_TYPES = {each.name: each.type for each in fields(Known)}
_PER_DATUM = [n for n, kind in _TYPES.items() if kind in (np.ndarray, np.ndarray | None)]
_ARRAYS = (*_PER_DATUM, "bounds", "bounds_se", "jvi", "findings")
_META = [name for name in _TYPES if name not in _ARRAYS]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Bounds on log p(x) and their diagnostics, in nats; arrays are over the N data.

    If the guide gives a point, there is no bound: the bounds and all diagnostics of weights are
    NaN or empty, `num_samples` is 0, and `findings["code"]` has log p(x, z) at the point.

    Attributes:
        elbo: The ELBO by Monte Carlo, [N].
        elbo_analytic: The ELBO with the KL in closed form for every site that has one, [N]; None
            if no site has one.
        log_px: The importance-weighted bound at `num_samples`, [N].
        log_px_se: Its Monte Carlo standard error (delta method), [N].
        psis: The Pareto-smoothed estimate of log p(x), [N]; not a bound.
        cubo: The χ² indication from above, [N]; NaN if k̂ > ¼. Not a certified bound.
        khat: Pareto k̂, [N].
        ess: Effective sample size, [N].
        kl: The rate, KL(q(z|x) ‖ p(z)) summed over sites, from the samples, [N].
        reconstruction: E_q[log p(x|z)], [N]: minus the distortion; the ELBO is
            reconstruction - kl.
        zero_weights: Share of the weights that are zero, [N].
        bounds: For each K, the bound L_K averaged over all blocks of K samples, [N].
        bounds_se: For each K, its Monte Carlo standard error, [N].
        jvi: The jackknife-debiased estimate, [N], by order and K: for order 1 each K above 1, for
            order 2 the largest K up to 500 and the largest. Not a bound.
        rows: The rows of the data that were evaluated, [N]; None for all of them.
        sites: For each latent site its mean `kl` (in `closed_form` or from the samples), the number
            of `active_units`, and for each dimension `kl_dims` and the `variance` of the posterior
            mean over the data.
        num_samples: K, samples for each datum.
        seed: Seed of the samples.
        khat_threshold: The largest k̂ for which `num_samples` samples are enough.
        model: Name of the model.
        guide: Name of the guide.
        data: `name`, `observation` and `hash` of the data; `dims` and `levels` if x is discrete
            or dequantised; `density` if it is not `p(x)`, such as `p(x | y)`.
        strategy: How the samples were computed: `"plate"`, `"tile"` or `"loop"`.
        caveat: Why these numbers are not likelihoods; None if they are.
        exact: Whether nothing was sampled, which makes `log_px` exact.
        one_code: Whether the guide gives one discrete code z(x) for each datum. Every bound is then
            log p(x, z(x)), and `num_samples` is 1.
        findings: What each estimator found, by its name: `"prior"`, `"ais_prior"`, `"ais_guide"`,
            `"bdmc"`, `"quadrature"`, `"gap"`, `"surgery"`; `"code"` for a guide that gives a
            point. A finding whose class is not imported is an `Unread`, without a row.
        missing: Why an estimator failed or does not apply, by its name; also why there are no
            `"details"` of the bounds or no `"bits_per_dim"`.
        settings: The options of each finding.
        precision: If the model's products were rounded to a lower precision than float32: to which
            (`products`), and by how much that moved `log_px` on `num_data` of the data: the mean
            `difference` and its `se`, beside the root mean square `moved` and `monte_carlo_se` of
            one datum.
        key: A hash of the pair, the data, the seed, the precision and the numbers of samples.
        made: The `date` of its end, the `seconds` that it took and the `device`.
        verdict: What was checked and what was not, in words.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> evaluation = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10)
        >>> evaluation.log_px.shape, sorted(evaluation.bounds)
        ((5,), [1, 5, 10])
        >>> (evaluation.log_px >= evaluation.elbo).all()
        np.True_
    """

    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", verdict(self))

    @property
    def reading(self) -> Reading:
        """How the bound may be quoted, in one sentence: tight, loose or not checked."""
        return read(self)

    def summary(self) -> dict[str, Any]:
        """Returns the keys of `evaluation.json`: means per datum and standard errors, in nats.

        `se` is the standard error over the data (sd / √N); None if a number is undefined.
        """
        return summarise(self, self.verdict)

    def table(self) -> str:
        """Returns the bounds and estimates as a table for a terminal."""
        return tabulate(self, self.summary())

    def __repr__(self) -> str:
        return self.table()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `evaluation.json` (the summary) and `evaluation.nc` (per datum).

        Raises:
            PvaeError: If a file cannot be written.
        """
        tree = self.to_datatree()
        with atomic(Path(folder) / "evaluation.nc") as temporary:
            try:
                tree.to_netcdf(temporary, engine="netcdf4")
            except (RuntimeError, OSError) as error:
                raise why(temporary, error) from error
        self.save_summary(folder)

    def save_summary(self, folder: str | os.PathLike[str]) -> None:
        """Writes `evaluation.json`, unless it has the same content already.

        Raises:
            PvaeError: If it cannot be written.
        """
        path = Path(folder) / "evaluation.json"
        text = json.dumps(self.summary(), indent=1, allow_nan=False) + "\n"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == text:
                return
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def to_datatree(self) -> Any:
        """Returns an ArviZ DataTree.

        The group `evaluation` holds the arrays over `datum` (with `bound_num_samples` and
        `jvi_order` for several), and each finding has its own group.
        """
        import xarray

        arrays: dict[str, Any] = {
            name: ("datum", getattr(self, name))
            for name in _PER_DATUM
            if getattr(self, name) is not None
        }
        ks = list(self.bounds)
        by_k = ("bound_num_samples", "datum")
        arrays["bound"] = (by_k, np.array([self.bounds[k] for k in ks]).reshape(-1, len(self)))
        if self.bounds_se:
            arrays["bound_se"] = (by_k, np.stack([self.bounds_se[k] for k in ks]))
        coords = {"datum": np.arange(len(self)), "bound_num_samples": np.array(ks, dtype=np.int64)}
        if self.jvi:
            nothing = np.full(len(self), np.nan)
            stack = [[found.get(k, nothing) for k in ks] for found in self.jvi.values()]
            arrays["jvi"] = (("jvi_order", *by_k), np.stack(stack))
            coords["jvi_order"] = np.array(list(self.jvi), dtype=np.int64)
        meta = json.dumps({name: getattr(self, name) for name in _META})
        attrs = {"units": "nats", "created_by": "pvae", "meta": meta}
        groups = {"/evaluation": xarray.Dataset(arrays, coords=coords, attrs=attrs)}
        # Siblings, because a child group must share the coordinates of its parent.
        groups |= {f"/{name}": found.to_dataset() for name, found in self.findings.items()}
        return xarray.DataTree.from_dict(groups)

    def to_elpd(self) -> Any:
        """Returns log p(x) and k̂ of each datum as ArviZ's ELPDData, for `az.plot_khat`.

        It has no effective number of parameters, and its k̂ belongs to the bounds, not to
        leave-one-out cross-validation.

        Raises:
            PvaeError: If the guide gives a point, so that there is no bound.
        """
        if not self.bounds:
            raise PvaeError(
                "The guide gives a point, so there is no bound on log p(x) and no k̂. The terms at "
                "the code are in findings['code']; evaluate(..., estimators=[AIS()]) estimates "
                "log p(x)."
            )
        import xarray
        from arviz_stats.utils import ELPDData

        def over_data(values: np.ndarray) -> Any:
            return xarray.DataArray(values, dims="datum", coords={"datum": np.arange(len(self))})

        return ELPDData(
            elpd=float(self.log_px.sum()),
            se=float(self.log_px.std() * math.sqrt(len(self))),
            p=math.nan,
            n_samples=self.num_samples,
            n_data_points=len(self),
            scale="log",
            warning=bool((self.khat > self.khat_threshold).any()),
            good_k=self.khat_threshold,
            elpd_i=over_data(self.log_px),
            pareto_k=over_data(self.khat),
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Evaluation":
        """Reads an evaluation that `save` wrote.

        Raises:
            PvaeError: If there is no evaluation, or if it is half done or damaged.
        """
        import xarray

        path = Path(folder) / "evaluation.nc"
        if not path.exists():
            if Path(folder).is_file():
                raise PvaeError(f"{folder} is a file. Give its folder, {Path(folder).parent}.")
            done = half_done(folder)
            if done is not None:
                raise PvaeError(
                    f"The evaluation of {folder} is half done ({done} blocks are kept). "
                    f"`pvae evaluate {folder}` with the same options continues it."
                )
            raise PvaeError(f"{path} does not exist. `pvae evaluate {folder}` makes it.")
        try:
            with xarray.open_datatree(path, engine="netcdf4") as tree:
                groups = {name: node.to_dataset().load() for name, node in tree.children.items()}
            data = groups.pop("evaluation")
            meta = json.loads(data.attrs["meta"])
            arrays = {name: data[name].values for name in _PER_DATUM if name in data}
            ks = [int(k) for k in data["bound_num_samples"].values]
            arrays["bounds"] = dict(zip(ks, data["bound"].values, strict=True))
            if "bound_se" in data:
                arrays["bounds_se"] = dict(zip(ks, data["bound_se"].values, strict=True))
            if "jvi" in data:
                arrays["jvi"] = {
                    int(order): {
                        k: v for k, v in zip(ks, row, strict=True) if not np.isnan(v).all()
                    }
                    for order, row in zip(data["jvi_order"].values, data["jvi"].values, strict=True)
                }
            find_estimators()  # imports the classes of the findings
            findings = {name: finding_of(group) for name, group in groups.items()}
            return cls(**arrays, **meta, findings=findings)
        except PermissionError as error:
            raise PvaeError(f"{path} cannot be read: {error.strerror}.") from error
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise PvaeError(
                f"{path} is damaged or from another version ({first_line(error)}). "
                f"`pvae evaluate {folder}` writes it again."
            ) from error
