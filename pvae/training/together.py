"""Together: one training by several processes, which share each minibatch."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError
from pvae.nn import Codebook
from pvae.pair import OwnParameters
from pvae.runtime import Group
from pvae.training.optimiser import Optimiser

__all__ = ["Together", "check_same", "parts_of", "together"]


class Together:
    r"""Adds up the gradients of processes that each have a part of a minibatch.

    .. math:: \nabla L = \sum_r s_r \nabla L_r

    with s_r = 1 for a loss that sums over the data, and the part's share of the minibatch if a
    plate scales it to all data. The sums are equal in all processes, bit for bit, so that their
    optimisers keep the same parameters.

    Args:
        group: Two or more processes.
        own: The pair's parameters.
        optim: The optimiser, which has all of them.

    Attributes:
        meets: Whether the programs themselves wait for the other processes, as a codebook with
            moving averages does. Their steps are eager: a compiled one may run them twice.

    Raises:
        PvaeError: If the processes do not have parameters of the same names and shapes.
    """

    def __init__(self, group: Group, own: OwnParameters, optim: Optimiser) -> None:
        self.group, self._optim = group, optim
        self._number = len(optim.parameters)
        modules = {id(m): m for root in own.modules.values() for m in root.modules()}.values()
        self._tensors = _named(own, optim)
        _check_shapes(group, self._tensors)
        self._moving = [
            b for m in modules if isinstance(m, _NormBase) for b in m.buffers(False)
            if b.is_floating_point()
        ]  # fmt: skip
        self._codebooks = [m for m in modules if isinstance(m, Codebook)]
        self.meets = any(codebook.decay is not None for codebook in self._codebooks)
        for codebook in self._codebooks:
            codebook.synchronised = True
        group.copy_first([tensor.detach() for tensor in self._tensors.values()])

    @torch.no_grad()
    def add(self, used: Iterable[int], loss: Tensor | float) -> tuple[Tensor, Tensor, set[int]]:
        """Replaces the parameters' gradients by their sums over the processes.

        Args:
            used: Ids of the parameters that the programs registered in this process.
            loss: The loss of this process.

        Returns:
            The sum of the losses, the norm of the gradients, and the ids of the parameters that
            were used in any process.
        """
        parameters, used = self._optim.parameters, {*used}
        if len(parameters) > self._number:
            new = ", ".join(self._optim.names[id(p)] for p in parameters[self._number :])
            raise PvaeError(
                f"The pair takes up {new} after its first run, which is in eval mode. Training "
                "with several processes needs all parameters in it: use them there too, or train "
                "in one process."
            )
        seen = [[p.grad is not None, id(p) in used] for p in parameters]
        moved, used_too = self.group.add(torch.tensor(seen, dtype=torch.int32, device="cpu")).T
        own = torch.as_tensor(loss, dtype=torch.float32, device=parameters[0].device).reshape(1)
        moving = [p for p, any_has in zip(parameters, moved.tolist(), strict=True) if any_has]
        for parameter in moving:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        kinds = {parameter.dtype for parameter in moving}
        total = self.group.add(own)
        for kind in sorted(kinds, key=str):
            mine = [p.grad for p in moving if p.dtype == kind]
            _add_all(self.group, mine)
        if self._moving:
            _add_all(self.group, self._moving)
            torch._foreach_div_(self._moving, self.group.world)
        norm = torch.nn.utils.get_total_norm([p.grad for p in moving])
        found = {id(p) for p, any_has in zip(parameters, used_too.tolist(), strict=True) if any_has}
        return total[0], norm, found

    @torch.no_grad()
    def check(self) -> None:
        """Compares the values of all parameters and buffers.

        Raises:
            PvaeError: In all processes, if they differ.
        """
        sums = {name: float(t.double().sum()) for name, t in self._tensors.items()}
        first, *others = self.group.gather(sums)
        for rank, theirs in enumerate(others, 1):
            odd = [n for n in first if not (theirs[n] == first[n] or theirs[n] != theirs[n])]
            if odd:
                more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                raise PvaeError(
                    f"The pairs of the processes differ: process {rank} has other values of "
                    f"{', '.join(odd[:3])}{more} than process 0. The programs or a callback set "
                    "them from the data or the noise of one process. Train in one process."
                )

    def end(self) -> None:
        """Lets each process run the pair by itself again."""
        for codebook in self._codebooks:
            codebook.synchronised = False


def _named(own: OwnParameters, optim: Optimiser) -> dict[str, Tensor]:
    """Returns every parameter and buffer of a pair, each once."""
    found = {optim.names[id(p)]: p for p in optim.parameters} | own.parameters
    for path, root in own.modules.items():
        inside = (*root.named_parameters(), *root.named_buffers())
        found |= {f"{path}.{name}": tensor for name, tensor in inside}
    once: dict[int, str] = {}
    for name, tensor in found.items():
        if not is_lazy(tensor):
            once.setdefault(id(tensor), name)
    return {name: found[name] for name in once.values()}


def _check_shapes(group: Group, tensors: dict[str, Tensor]) -> None:
    named = [f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()]
    for rank, others in enumerate(group.gather(named)):
        if others != named:
            odd = next(iter(sorted({*named} ^ {*others})), "their order")
            raise PvaeError(
                f"The processes train different pairs: process {rank} has other parameters or "
                f"buffers than process {group.rank} ({odd}). Build the same pair in all processes."
            )


def parts_of(batch_size: int, num_data: int, world: int) -> tuple[int, int]:
    """Returns the sizes of a process's part of a minibatch, and of the smallest part of an epoch.

    Raises:
        PvaeError: If they cannot be shared.
    """
    if batch_size % world and batch_size != num_data:
        raise PvaeError(
            f"batch_size={batch_size} cannot be shared by {world} processes: it counts the data of "
            f"all of them. Give a multiple of {world}."
        )
    rest = num_data % batch_size or batch_size
    if rest < world:
        raise PvaeError(
            f"The last minibatch of an epoch has {rest} of {num_data} data, fewer than the {world} "
            "processes. Choose another batch_size."
        )
    return batch_size // world, rest // world


def check_same(group: Group, settings: dict[str, Any]) -> None:
    """Checks that the processes have the same settings.

    Raises:
        PvaeError: In all of them, if they differ.
    """
    first, *others = group.gather(settings)
    for rank, theirs in enumerate(others, 1):
        odd = [
            f"{name} {theirs.get(name)!r} where process 0 has {first.get(name)!r}"
            for name in first | theirs
            if theirs.get(name) != first.get(name)
        ]
        if odd:
            raise PvaeError(
                f"The {group.world} processes do not train the same: process {rank} has "
                f"{'; '.join(odd)}. They share one training, so give all of them the same pair, "
                "data and options. For several trainings at once, unset RANK and WORLD_SIZE."
            )


@contextlib.contextmanager
def together(group: Group, svi: Any) -> Iterator[None]:
    """Lets the steps of a `pvae.SVI` add up the gradients of several processes, if there are."""
    if group.world == 1:
        yield
        return
    svi.together = Together(group, svi.own, svi.optim)
    try:
        yield
    finally:
        svi.together.end()
        svi.together = None


def _add_all(group: Group, tensors: list[Tensor]) -> None:
    """Replaces tensors by their sums over the processes, in one message."""
    flat = group.add(torch.cat([t.reshape(-1) for t in tensors]))
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])
