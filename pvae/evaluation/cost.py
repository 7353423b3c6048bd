"""The expected time of an evaluation, measured on a few samples."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from pvae.importance import Sampler

__all__ = ["expected_time"]

_WORTH_SAYING = 20.0  # seconds


def expected_time(
    sampler: Sampler, batch: tuple[Tensor, ...], runs: Mapping[str, float]
) -> str | None:
    """Returns a sentence on how long an evaluation takes; None if it takes seconds.

    Args:
        sampler: The sampler of the pair; its context must be entered.
        batch: Some data to measure with.
        runs: The number of decoder runs of each part of the work.
    """
    if sum(runs.values()) < 2**16:  # the measurement would take longer
        return None
    seconds = _seconds_per_run(sampler, batch)
    times = {name: number * seconds for name, number in runs.items()}
    total = sum(times.values())
    if total < _WORTH_SAYING:
        return None
    parts = [f"{name} {_words(each)}" for name, each in times.items() if each > 0.05 * total]
    return f"this will take about {_words(total)} in one process ({', '.join(parts)})"


def _seconds_per_run(sampler: Sampler, batch: tuple[Tensor, ...]) -> float:
    def clock() -> float:
        if batch[0].is_cuda:
            torch.cuda.synchronize(batch[0].device)
        return time.perf_counter()

    num = 1
    with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
        while True:  # the first call is slower: it compiles and caches
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
