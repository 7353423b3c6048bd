"""Inpainting: estimates log p(x_missing | x_known), and how near completions are to the truth."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Mask, draw_masks
from pvae.distributions import Completed
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.inpainted import Inpainted
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, seed_unit
from pvae.pair import Structure, inspect, observed_sites
from pvae.predictive import KnownPart, blank, known_of, spare_of

__all__ = ["Inpainting"]

_ROWS = 1 << 14  # samples of z at a time
_SPARE = 512  # data that show which values are possible where one is missing
_MEAN = 200  # samples of the prior for E[x_missing | x_known] of a pair of this density
_TAG = 0x1B


@dataclass(frozen=True)
class Inpainting(Estimator):
    r"""Estimates log p(x_missing | x_known) and completes x, for masks of one kind.

    Of a pair of p(x), log p(x_known) is bounded with K samples, from the guide at M imputations and
    from the prior (see `pvae.inpaint`), and log p(x_missing | x_known) is the difference of the two
    bounds, which is no bound. See `Inpainted` for what is known about its error. A pair of
    p(x_missing | x_known), such as `pvae.models.VAEAC`, brings its masks with the data.

    Missing values are completed by E[x_missing | x_known]. Its PSNR is given beside those of the
    mean of the training data and of the training datum whose known values are nearest, if the
    evaluation has a `pvae.data.Data`.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        known: Which values are known: a kind of `pvae.data.draw_masks`, drawn by the evaluation's
            seed; or booleans [*event], or [N, *event] for the N data. None for a pair of
            p(x_missing | x_known).
        num_samples: K. None is that of the bounds.
        num_chains: M.
        num_steps: Gibbs steps of each chain.

    Raises:
        PvaeError: If the likelihood of x does not factorise given z, or the mask is not valid.

    Source: Pathak et al. 2016, *Context Encoders* (arXiv:1604.07379), for masks and PSNR.

    Example:
        >>> from pvae import data, evaluate, guides, models
        >>> digits = data.load("digits")
        >>> pair = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> asked = [Inpainting(4, "center", num_chains=2, num_steps=2)]
        >>> found = evaluate(*pair, digits, num_samples=50, estimators=asked, progress=False)
        >>> found.findings["inpainting"].log_px_missing.shape
        (4,)
    """

    name, finding = "inpainting", Inpainted

    num_data: int | None = 1000
    known: Any = field(default=None, repr=False)
    num_samples: int | None = None
    num_chains: int = 50
    num_steps: int = 20

    @classmethod
    def from_options(cls, inpaint: Mask | None = None, inpaint_data: int = 1000) -> Self:
        """Inpainting.

        Args:
            inpaint: The kind of masks for log p(x_missing | x_known) and the PSNR of a pair of
                p(x).
            inpaint_data: Number of data that are completed.
        """
        return cls(inpaint_data, inpaint)

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        completes = _completes(task.sampler.structure)
        if self.known is None:
            return [self] if completes else []
        if completes:
            raise PvaeError(
                "The pair is one of p(x_missing | x_known), and its data bring the masks: leave "
                "known out (in the shell --inpaint)."
            )
        return [self]

    def options(self, task: Task) -> dict[str, Any]:
        known, found = self.known, dataclasses.replace(self, known=None)
        values = {k: v for k, v in vars(found).items() if k not in ("num_data", "known")}
        if isinstance(known, Tensor | np.ndarray):
            known = np.packbits(np.asarray(torch.as_tensor(known).cpu())).tobytes().hex()
            known = f"{list(np.shape(self.known))} {known}"
        return values | {"known": known}

    def cost(self, sampler: Sampler) -> float:
        return float((self.num_samples or 1000) + self.num_chains * self.num_steps)

    def estimate(self, task: Task) -> Inpainted:
        if task.sampler.bound:
            raise PvaeError(
                "The pair runs only with all its data together, and completing them needs a few at "
                "a time. Let the model and the guide take their shapes from their arguments."
            )
        first, baselines = task.batch(task.positions[:1])[0], _Baselines(task)
        masks = self._masks(len(task.data), first.shape[1:], task.seed)
        num = self.num_samples or task.num_samples or 1000
        compute = self._of_pair(task, masks, num) if masks is not None else self._given(task, num)

        def measured(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=_TAG)
            x, known, mean, found = compute(block)
            fills = {"error_mean": baselines.mean, "error_nearest": None}
            if baselines.x is not None:
                fills["error_nearest"] = baselines.nearest(x, known)
            errors = {"error": mean} | fills
            found |= {n: _error(x, e, known) for n, e in errors.items() if e is not None}
            found["num_missing"] = (~known).flatten(1).sum(1)
            found["low"], found["high"] = x.flatten(1).amin(1), x.flatten(1).amax(1)
            return {n: t.double().cpu().numpy() for n, t in found.items()}

        blocks = in_blocks(task.positions, max(1, _ROWS // num))
        found = task.map(self.name, blocks, measured)
        if not found["num_missing"].any():
            raise PvaeError(
                "The mask is True everywhere: no value of these data is missing, and log p of "
                "nothing is 0. Give False where a value is missing."
            )
        low, high = found.pop("low").min(), found.pop("high").max()
        if masks is not None:
            found |= self._difference(task, found, num)
        names = ("log_px_known", "log_px_missing", "ess", "gap", "error", "error_mean")
        arrays = {name: found.pop(name, None) for name in (*names, "error_nearest")}
        kind = self.known if isinstance(self.known, str) else "own masks"
        return Inpainted(
            task.positions,
            **arrays,
            num_missing=found["num_missing"],
            peak=float(high - low) or 1.0,
            exact=bool(found.get("exact", np.zeros(1)).all()),
            of="masks of the data" if self.known is None else kind,
            num_samples=num,
        )

    def _masks(self, size: int, event: tuple[int, ...], seed: int) -> Tensor | None:
        if self.known is None:
            return None
        if isinstance(self.known, str):
            if self.known not in get_args(Mask):
                draw_masks(self.known, event, 1)  # says which there are
            return draw_masks(self.known, event, size, torch.Generator("cpu").manual_seed(seed))
        return known_of(self.known, torch.empty(size, *event, device="cpu"))

    def _difference(self, task: Task, found: dict[str, np.ndarray], num: int) -> dict[str, Any]:
        known, at = task.known, task.positions
        gaps = [
            np.where(exact, 0.0, 0.5 * (1 / ess - 1 / num_samples))
            for exact, ess, num_samples in (
                (known.exact, known.ess[at], known.num_samples),
                (found["exact"] > 0, found["ess"], num),
            )
        ]
        with np.errstate(invalid="ignore"):  # -inf - -inf
            missing = known.log_px[at] - found["log_px_known"]
        return {"log_px_missing": missing, "gap": gaps[0] - gaps[1]}

    def _of_pair(self, task: Task, masks: Tensor, num: int) -> Any:
        """Returns what completes a block by a pair of p(x)."""
        sampler, parts = task.sampler, []
        some = np.arange(min(len(task.data), _SPARE))
        spare = spare_of(task.batch(some)[0], masks[some].to(task.device))

        def compute(block: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
            x, *others = task.batch(block)
            known = masks[block].to(x.device)
            batch = blank(x, known, spare), *others
            if not parts:
                found = inspect(sampler.model, sampler.guide, *batch, plate=sampler.plate)
                parts.append(KnownPart(found, known, self.num_chains, self.num_steps))
            with parts[0] as part:
                where = (*batch, known), num, int(block[0]), task.seed
                drawn = None if part.unsampled else part.weighted(*where)
                log_w = (
                    part.log_w(*where) if part.exact or drawn is None else drawn.log_w
                ).double()
                mean = None if drawn is None else _mean(part, where[0], drawn)
            w = log_w.softmax(0)
            return x, known, mean, {
                "log_px_known": log_w.logsumexp(0) - math.log(len(log_w)),
                "ess": 1 / w.square().sum(0),
                "exact": torch.full((len(x),), float(part.exact)),
            }  # fmt: skip

        return compute

    def _given(self, task: Task, num: int) -> Any:
        """Returns what completes a block by a pair of p(x_missing | x_known)."""
        sampler, num = task.sampler, min(num, _MEAN)
        name = _completes(sampler.structure)

        def mean_of(batch: tuple[Tensor, ...], start: int, stop: int) -> Tensor:
            values = sampler.prior(batch, stop - start)
            fn = sampler.particles.model(batch, stop - start, values).nodes[name]["fn"]
            mean = fn.mean.expand(fn.batch_shape + fn.event_shape)
            rows = sampler.particles.rows(mean, fn.event_dim, stop - start, len(batch[0]))
            return rows.reshape(stop - start, *batch[0].shape)

        def compute(block: np.ndarray) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
            batch = task.batch(block)
            step = 1 if sampler.strategy == "loop" else max(1, sampler.usual_rows // len(block))
            total = torch.zeros_like(batch[0], dtype=torch.double)
            for start in range(0, num, step):
                stop = min(start + step, num)
                total += mean_of(batch, start, stop).double().sum(0)
            trace = sampler.particles.model(batch, 1, sampler.prior(batch, 1))
            fn = trace.nodes[name]["fn"]
            known = fn.known.expand(fn.batch_shape + fn.event_shape).reshape(batch[0].shape)
            return batch[0], known, total / num, {}

        return compute


def _mean(part: KnownPart, batch: tuple[Tensor, ...], drawn: Any) -> Tensor | None:
    """Returns E[x | x_known], [B, *event], from weighted samples of z; None without a mean."""
    w, x = drawn.log_w.double().softmax(0), batch[0]
    step = max(1, part.sampler.usual_rows // len(x))
    total = torch.zeros_like(x, dtype=torch.double)
    for start in range(0, len(w), step):
        values = {name: v[start : start + step] for name, v in drawn.values.items()}
        means = part.drawn(batch, values, mean=True).double()
        if means.isnan().all():
            return None
        total += torch.einsum("kb,kb...->b...", w[start : start + step], means)
    return total


def _error(x: Tensor, filled: Tensor, known: Tensor) -> Tensor:
    """Returns the mean squared error over the missing values of each datum, [B]."""
    missing = (~known).flatten(1)
    square = (filled.double() - x.double()).square().flatten(1)
    return torch.where(missing, square, 0.0).sum(1) / missing.sum(1)


def _completes(structure: Structure) -> str | None:
    """Returns the observed site of a pair of p(x_missing | x_known); None for any other pair."""
    sites = observed_sites(structure.model_trace).items()
    return next((name for name, site in sites if isinstance(site["fn"], Completed)), None)


class _Baselines:
    """The mean of the training data, and their nearest neighbours, if there are training data."""

    def __init__(self, task: Task) -> None:
        self.x = self.mean = None
        if isinstance(task.source, Data) and "x" in task.source.train.names:
            seed_unit(task.seed, 0, purpose=_TAG)
            x = task.source.train.only(("x",)).tensors()[0].to(task.device)
            if x.shape[1:] == task.batch(task.positions[:1])[0].shape[1:]:
                self.x, self.mean = x, x.mean(0, dtype=torch.float32)

    def nearest(self, x: Tensor, known: Tensor) -> Tensor:
        """Returns the training datum with the nearest known values, for each datum."""
        kept = known.flatten(1).float()
        values, found = kept * x.flatten(1).float(), []
        for rows in self.x.flatten(1).split(_ROWS):
            rows = rows.float()
            found.append(kept @ rows.square().T - 2 * values @ rows.T)
        return self.x[torch.cat(found, 1).argmin(1)]
