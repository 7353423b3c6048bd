"""By how much a lower precision of the model's products moves the bound on log p(x)."""

import math
from typing import Any

import numpy as np
import torch

from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.bounds import bounds
from pvae.evaluation.work import in_blocks
from pvae.runtime import Precision

__all__ = ["rounded", "rounded_in_words"]

_DATA = 64
_NAMES = {"tf32": "TF32", "bf16": "bfloat16"}


def rounded(task: Task, num_samples: int, step: int, precision: Precision) -> dict[str, Any]:
    """Measures L_K with the same samples in float32 and in a lower precision, on up to 64 data.

    Args:
        task: All N data.
        num_samples: K.
        step: Number of data that are evaluated together.
        precision: `"tf32"` or `"bf16"`.

    Returns:
        `Evaluation.precision`.

    Raises:
        PvaeError: If the bound of a datum moves by more than its Monte Carlo error (root mean
            squares over the data), or has none.
    """
    some = task.positions[:: max(1, len(task.positions) // _DATA)][:_DATA]
    if task.sampler.bound:
        some = task.positions
    found = []
    for block in in_blocks(some, len(some) if task.sampler.bound else step):
        high, se = _bound(task, block, num_samples, "float32")
        low, _ = _bound(task, block, num_samples, precision)
        found.append(torch.stack([low - high, se]).cpu())
    moved, se = torch.cat(found, -1)
    result = {
        "products": precision,
        "difference": float(moved.mean()),
        "se": float(moved.std() / math.sqrt(len(moved))) if len(moved) > 1 else None,
        "moved": float(moved.square().mean().sqrt()),
        "monte_carlo_se": float(se.square().mean().sqrt()),
        "num_data": len(moved),
    }
    if math.isnan(result["monte_carlo_se"]):
        raise PvaeError(
            f"precision={precision!r} cannot be checked: {num_samples} sample for each datum has "
            "no Monte Carlo error. Use more samples, or precision='float32'."
        )
    if not result["moved"] <= result["monte_carlo_se"]:
        raise PvaeError(
            f"precision={precision!r} moves L_{num_samples} of a datum by "
            f"{result['moved']:.3g} nats, but the Monte Carlo error of a datum is only "
            f"{result['monte_carlo_se']:.3g} (on {len(moved)} data). Use precision='float32'."
        )
    return result


def _bound(
    task: Task, block: np.ndarray, num_samples: int, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    sampler = task.sampler
    draws = sampler.stream(task.batch(block), num_samples, first=int(block[0]), seed=task.seed)
    sampler.precision = precision
    try:
        log_w = torch.cat([each.log_w.double() for each in draws]).T
    finally:
        sampler.precision = "float32"
    return bounds(log_w, [num_samples])[num_samples]


def rounded_in_words(found: dict[str, Any], num_samples: int) -> str:
    """Returns `Evaluation.precision` as a line of the table.

    Example:
        >>> rounded_in_words({"products": "bf16", "difference": -0.012, "se": 0.003,
        ...                   "moved": 0.02, "monte_carlo_se": 0.2, "num_data": 64}, 5000)
        'products in bfloat16 move L_5000 by −0.012 ± 0.003 nats, of 64 data'
    """
    moved = " ".join(text.with_error(found["difference"], found["se"], 3))
    products = _NAMES[found["products"]]
    return (
        f"products in {products} move L_{num_samples} by {moved} nats, of {found['num_data']} data"
    )
