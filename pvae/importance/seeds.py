"""Seeds of units of work."""

import numpy as np
import torch

__all__ = ["seed_unit"]


def seed_unit(seed: int, first: int, start: int = 0, purpose: int = 0) -> None:
    """Seeds torch's global generators for one unit of work.

    Args:
        seed: The evaluation's.
        first: The unit's first datum.
        start: Its first sample.
        purpose: Number of the estimator, so that estimators do not share noise; 0 for the weights.
    """
    words = np.random.SeedSequence([seed, first, start, purpose])
    state = words.generate_state(1, np.uint64)
    # Not torch.manual_seed, which formats a stack trace for CUDA each time: 80 times slower.
    torch.default_generator.manual_seed(int(state[0] >> 1))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(state[0] >> 1))
