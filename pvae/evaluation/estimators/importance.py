"""One stream of log weights: bounds, estimates, diagnostics, KL and active units."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pvae.errors import reason_of
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.active_units import ActiveUnits, active_units, variances
from pvae.evaluation.estimators.bounds import bounds, cubo, effective_sample_size
from pvae.evaluation.estimators.jackknife import jackknife
from pvae.evaluation.estimators.pareto import psis, rounding_error
from pvae.evaluation.estimators.posterior import SiteKL, site_kl
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, seed_unit
from pvae.runtime import is_out_of_memory

__all__ = ["CUBO_KHAT", "from_weights"]

_WEIGHTS = 2**20  # log weights held at a time: 8 MiB in double precision
_WORTH_TUNING = 10**6  # samples times data
_WORTH_COMPILING = 10**7  # samples times data, each of which saves a microsecond or two
CUBO_KHAT = 0.25  # above this k̂ the variance of w² is infinite


def from_weights(task: Task, ks: list[int]) -> dict[str, Any]:
    """Streams the log weights of every datum and reduces them, one block of data at a time.

    Args:
        task: All N data.
        ks: The K of L_K, increasing; the last is the number of samples S.

    Returns:
        The fields of `Evaluation` that hold arrays over the data, `sites`, and in `missing` the
        reason if a detail beside the bounds failed.
    """
    sampler, size = task.sampler, len(task.data)
    # Few data with many samples need few encodings; a loop, with one sample at a time, needs many
    # data. The cut depends on neither memory nor processes.
    most = max(1, _WEIGHTS // ks[-1])
    step = min(most, 256 if sampler.strategy == "loop" else 32)
    if sampler.bound:
        step = size
    rows = size * ks[-1]

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        units = in_blocks(block, step)
        return _merged([_block(sampler, task.batch(u), ks, task.seed, int(u[0])) for u in units])

    # With many data a block holds more, because small arrays take more memory than their content.
    blocks = in_blocks(task.positions, step * max(1, size // 8192))
    tuned = contextlib.nullcontext()
    if rows >= _WORTH_TUNING:
        some = task.batch(np.arange(min(step, size)))
        tuned = sampler.tuned(some, ks[-1], compiled=rows >= _WORTH_COMPILING)
    with tuned:
        results = _merged(task.work.map("log weights", blocks, compute))
    columns = {name: v for name, v in results.items() if not name.startswith("sum ")}
    for name in ("bounds", "bounds_se", "jvi_1", "jvi_2"):
        columns[name] = dict(zip(ks, columns[name].T.copy(), strict=True))
    jvi = {order: columns.pop(f"jvi_{order}") for order in (1, 2)}
    columns["jvi"] = {
        order: {k: values for k, values in found.items() if not np.isnan(values).all()}
        for order, found in jvi.items()
    }
    closed = columns.pop("elbo_analytic")
    columns["elbo_analytic"] = None if np.isnan(closed).all() else closed
    columns["log_px"] = columns["bounds"][ks[-1]]
    columns["log_px_se"] = columns["bounds_se"][ks[-1]]
    reasons = [reason for reason in np.unique(columns.pop("failed")) if reason]
    columns["missing"] = {"details": "; ".join(reasons)} if reasons else {}
    columns["sites"] = {name: _site(name, results, size) for name in sampler.structure.latent}
    return columns


def _block(
    sampler: Sampler, batch: tuple[torch.Tensor, ...], ks: list[int], seed: int, first: int
) -> dict[str, np.ndarray]:
    """Computes everything about B data from all their samples."""
    size, num_samples = len(batch[0]), ks[-1]
    log_w = np.empty((size, num_samples))
    elbo, rate, summands, done = np.zeros(size), np.zeros(size), np.zeros(size), 0
    kl = {name: np.zeros(size) for name in sampler.structure.latent}
    active = ActiveUnits()
    for draws in sampler.stream(batch, num_samples, first=first, seed=seed):
        count = len(draws.log_w)
        log_w[:, done : done + count] = draws.log_w.T.cpu().numpy()
        elbo += draws.elbo.double().sum(0).cpu().numpy()
        rate += draws.rate.double().sum(0).cpu().numpy()
        largest = (draws.log_w + draws.rate).abs() + draws.rate.abs()  # log p(x|z), log q / p(z)
        np.maximum(summands, largest.nan_to_num(0, 0, 0).amax(0).cpu().numpy(), out=summands)
        for name, terms in draws.kl.items():
            kl[name] += terms.double().sum(0).cpu().numpy()
        active.add(draws.means)
        done += count
    active.end_data(num_samples)
    elbo, rate = elbo / num_samples, rate / num_samples
    kl = {name: total / num_samples for name, total in kl.items()}
    failed: list[str] = []
    nothing = np.full(size, np.nan)

    def attempt(what: str, default: Any, compute: Callable[[], Any]) -> Any:
        """Computes a detail. If it fails, only its reason is stored, and the bounds remain."""
        try:
            return compute()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failed.append(f"{what}: {reason_of(error)}")
            return default

    def divergence() -> dict[str, SiteKL]:
        seed_unit(seed, first, purpose=5)
        return site_kl(sampler, batch)

    def debiased(k: int, order: int) -> np.ndarray:
        return attempt("the jackknife", nothing, lambda: jackknife(log_w, k, order))

    parts = attempt("the KL of each dimension", {}, divergence)
    closed = {name: found.total for name, found in parts.items() if found.total is not None}
    found = bounds(log_w, ks)
    rounding = rounding_error(summands, torch.finfo(draws.log_w.dtype).eps)
    khat, smoothed = attempt("k̂", (nothing, nothing), lambda: psis(log_w, rounding))
    second = {max((k for k in ks if 2 < k <= most), default=0) for most in (500, num_samples)}
    with np.errstate(invalid="ignore"):  # -inf + inf, where some weight is zero
        reconstruction = elbo + rate
        correction = sum(kl[name] - value.cpu().numpy() for name, value in closed.items())
        result = {
            "elbo": elbo,
            "elbo_analytic": elbo + correction if closed else nothing,
            "psis": smoothed,
            "cubo": np.where(khat <= CUBO_KHAT, cubo(log_w), np.nan),
            "khat": khat,
            "ess": effective_sample_size(log_w),
            "kl": rate,
            "reconstruction": reconstruction,
            "zero_weights": np.isneginf(log_w).mean(1),
            "bounds": np.stack([found[k][0] for k in ks], -1),
            "bounds_se": np.stack([found[k][1] for k in ks], -1),
            "jvi_1": np.stack([debiased(k, 1) if k > 1 else nothing for k in ks], -1),
            "jvi_2": np.stack([debiased(k, 2) if k in second else nothing for k in ks], -1),
        }
    result["failed"] = np.full(size, "; ".join(dict.fromkeys(failed)))
    for name, values in kl.items():
        result[f"sum kl {name}"] = np.array(values.sum())
    for name, value in closed.items():
        result[f"sum closed {name}"] = np.array(value.sum().item())
    for name, each in parts.items():
        if each.dims is not None:
            result[f"sum dims {name}"] = each.dims.sum(0).cpu().numpy()
    for name, sums in active.sums.items():
        result[f"sum active {name}"] = sums
    return result


def _merged(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenates the columns of several blocks, and adds up their sums."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {
        name: sum(part.pop(name) for part in parts)
        if name.startswith("sum ")
        else np.concatenate([part.pop(name) for part in parts])
        for name in names
    }


def _site(name: str, sums: dict[str, np.ndarray], size: int) -> dict[str, Any]:
    """Returns KL and active units of one latent site, averaged over the data."""

    def total(what: str) -> np.ndarray | None:
        return sums.get(f"sum {what} {name}")

    kl, closed, dims = total("kl"), total("closed"), total("dims")
    variance = variances(total("active"))
    mean = (kl if closed is None else closed) / size
    return {
        "kl": float(mean) if np.isfinite(mean) else None,
        "closed_form": closed is not None,
        "active_units": active_units(variance),
        "kl_dims": None if dims is None else [float(v) for v in dims / size],
        "variance": None if variance is None else [float(v) for v in variance],
    }
