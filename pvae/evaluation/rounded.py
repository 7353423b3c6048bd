"""By how much a lower precision of the model's products moves the bound on log p(x)."""

import math
from typing import Any

import numpy as np
import torch

from pvae.data import Split
from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.estimators.bounds import bounds
from pvae.evaluation.work import in_blocks, take
from pvae.importance import Sampler
from pvae.pair import TensorSplit
from pvae.runtime import Precision

__all__ = ["rounded", "rounded_in_words"]

_DATA = 64
_NAMES = {"tf32": "TF32", "bf16": "bfloat16"}


def rounded(
    sampler: Sampler,
    data: Split | TensorSplit,
    num_samples: int,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> dict[str, Any]:
    """Measures L_K with the same samples in float32 and in a lower precision, on up to 64 data.

    Args:
        sampler: Samples the pair; its context is entered.
        data: All N data.
        num_samples: K.
        seed: Seed of the samples.
        device: Where the pair computes.
        precision: `"tf32"` or `"bf16"`.

    Returns:
        `Evaluation.precision`.

    Raises:
        PvaeError: If the bound of a datum moves by more than its Monte Carlo error (root mean
            squares over the data that have a finite bound), or has no such error.
    """
    refused = f"precision={precision!r} cannot be checked: "
    if num_samples == 1:
        raise PvaeError(
            f"{refused}log w is the same for every sample, or there is only one sample, so that "
            "the bound has no Monte Carlo error. Use precision='float32'."
        )
    everything = np.arange(len(data))
    some = everything if sampler.bound else everything[:: max(1, len(data) // _DATA)][:_DATA]
    step = len(some) if sampler.bound else sampler.data_at_once(num_samples)
    found = []
    for block in in_blocks(some, step):
        high, se = _bound(sampler, take(data, block, device), block, num_samples, seed, "float32")
        low, _ = _bound(sampler, take(data, block, device), block, num_samples, seed, precision)
        found.append(torch.stack([low - high, se]).cpu())
    moved, se = torch.cat(found, -1)
    finite = moved.isfinite() & se.isfinite()
    if not finite.any():
        raise PvaeError(
            f"{refused}none of {len(some)} data has a finite bound. Use precision='float32'."
        )
    moved, se = moved[finite], se[finite]
    result = {
        "products": precision,
        "difference": float(moved.mean()),
        "se": float(moved.std() / math.sqrt(len(moved))) if len(moved) > 1 else None,
        "moved": float(moved.square().mean().sqrt()),
        "monte_carlo_se": float(se.square().mean().sqrt()),
        "num_data": len(moved),
    }
    if not result["moved"] <= result["monte_carlo_se"]:
        raise PvaeError(
            f"precision={precision!r} moves L_{num_samples} of a datum by "
            f"{result['moved']:.3g} nats, and the Monte Carlo error of a datum is "
            f"{result['monte_carlo_se']:.3g} (on {len(moved)} data). Use precision='float32'."
        )
    return result


def _bound(
    sampler: Sampler,
    batch: tuple[torch.Tensor, ...],
    block: np.ndarray,
    num_samples: int,
    seed: int,
    precision: Precision,
) -> tuple[torch.Tensor, torch.Tensor]:
    with sampler.lowered(precision):
        draws = sampler.stream(batch, num_samples, first=int(block[0]), seed=seed)
        log_w = torch.cat([each.log_w.double() for each in draws]).T
    return bounds(log_w, [num_samples])[num_samples]


def rounded_in_words(found: dict[str, Any], num_samples: int) -> str:
    """Returns `Evaluation.precision` as a line of the table.

    Example:
        >>> rounded_in_words({"products": "bf16", "difference": -0.012, "se": 0.003,
        ...                   "moved": 0.02, "monte_carlo_se": 0.2, "num_data": 64}, 5000)
        'products in bfloat16 move L_5000 by −0.012 ± 0.003 nats, of 64 data'
    """
    moved = " ".join(filter(None, text.with_error(found["difference"], found["se"], 3)))
    data = text.plural(found["num_data"], "datum", "data")
    return (
        f"products in {_NAMES[found['products']]} move L_{num_samples} by {moved} nats, of {data}"
    )
