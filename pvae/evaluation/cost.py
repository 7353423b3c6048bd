"""What an evaluation will take, measured on a few draws, and said before it is spent."""

import time

import torch
from torch import Tensor

from pvae.importance import Sampler

__all__ = ["expected_time"]

_GRADIENT = 3.0  # the price of a row with its gradient, in rows
_DENSITY = 0.03  # the price of a density without a network, in rows
_ENCODINGS = 2**21  # of the surgery, at most
_GAP = 8_000  # gradients of the inference gap, for each datum
_QUADRATURE = {1: 2_000, 2: 60_000}  # points of a grid
_WORTH_SAYING = 20.0  # seconds


def expected_time(
    sampler: Sampler, batch: tuple[Tensor, ...], work: dict[str, tuple[int, dict[str, int]]]
) -> str | None:
    """Says about how long an evaluation takes; None where that is a matter of seconds.

    Args:
        sampler: Draws of the pair; its context must be entered.
        batch: Some data to measure with.
        work: For each estimator the number of its data and its options.
    """
    rows = {name: count * _rows(name, sampler, options) for name, (count, options) in work.items()}
    if sum(rows.values()) < 2**16:  # the measurement would take longer
        return None
    seconds = _seconds_per_row(sampler, batch)
    times = {name: number * seconds for name, number in rows.items()}
    total = sum(times.values())
    if total < _WORTH_SAYING:
        return None
    parts = [f"{name} {_words(each)}" for name, each in times.items() if each > 0.05 * total]
    return f"this will take about {_words(total)} in one process ({', '.join(parts)})"


def _rows(name: str, sampler: Sampler, options: dict[str, int]) -> float:
    """Runs of the decoder for one datum."""
    if name.startswith(("ais", "bdmc")):
        steps = options["num_temperatures"] * (options["num_leapfrog"] + 1)
        return _GRADIENT * options["num_chains"] * steps * (2 if name == "bdmc" else 1)
    if name == "gap":
        return _GRADIENT * _GAP
    if name == "quadrature":
        return _QUADRATURE.get(sampler.latent_numel, 0)
    plate = sampler.strategy == "plate"
    if name == "surgery":  # a density of the guide for each other datum, or a call of it
        count = options["num_data"]
        return _DENSITY * count if plate else min(count, _ENCODINGS / count)
    # Draws of the prior are usually decoded once for all data.
    shared = name == "prior" and plate
    return (_DENSITY if shared else 1) * options["num_samples"]


def _seconds_per_row(sampler: Sampler, batch: tuple[Tensor, ...]) -> float:
    def clock() -> float:
        if batch[0].is_cuda:
            torch.cuda.synchronize(batch[0].device)
        return time.perf_counter()

    num = 1
    with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
        while True:  # the first call builds what later ones find there
            start = clock()
            for _ in sampler.stream(batch, num):
                pass
            spent = clock() - start
            if num > 1 and (spent > 0.1 or num >= 4096):
                return spent / (num * len(batch[0]))
            num *= 4


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
