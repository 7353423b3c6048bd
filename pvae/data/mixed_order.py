"""The order of minibatches that mix labelled and unlabelled data."""

import torch
from torch import Tensor

__all__ = ["mixed_order"]


def mixed_order(
    known: Tensor, share: float, batch_size: int, generator: torch.Generator | None
) -> Tensor:
    r"""Returns positions [N] whose pieces of B hold round(share · B) labelled data each.

    Labelled and unlabelled positions are each drawn by permutations, one after the other until
    there are enough. Every piece of two or more holds both kinds.
    """
    place = known.device if generator is None else generator.device
    sizes = [len(rows) for rows in torch.empty(len(known)).split(batch_size)]
    counts = [min(max(1, round(share * size)), size - 1) for size in sizes]

    def drawn(positions: Tensor, num: int) -> Tensor:
        times = -(-num // len(positions))
        order = [
            torch.randperm(len(positions), generator=generator, device=place) for _ in range(times)
        ]
        return positions[torch.cat(order)[:num].to(positions.device)] if num else positions[:0]

    labelled = drawn(known.nonzero()[:, 0], sum(counts)).split(counts)
    rest = [size - count for size, count in zip(sizes, counts, strict=True)]
    others = drawn((~known).nonzero()[:, 0], sum(rest)).split(rest)
    return torch.cat([part for pair in zip(labelled, others, strict=True) for part in pair])
