"""Group: the processes of `torch.distributed` that share a training or an evaluation."""

import atexit
import contextlib
import datetime
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.runtime.device import processes

__all__ = ["Group", "apart"]

T = TypeVar("T")

_PATIENCE = datetime.timedelta(days=7)
_alone: ContextVar[bool] = ContextVar("alone", default=False)


class Group:
    """The processes that work together; without `torchrun` there is one.

    They are those of the default process group of `torch.distributed`, or else those that
    `torchrun` announces. All of them must call a method together.

    Attributes:
        rank: The number of the present process, from 0.
        world: The number of processes.
        first: Whether it is process 0, which writes and prints.

    Raises:
        PvaeError: The processes cannot reach each other, or one of them has ended.
    """

    def __init__(self) -> None:
        started = dist.is_available() and dist.is_initialized()
        if _alone.get():
            self.rank, self.world = 0, 1
        elif started:
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
        else:
            self.rank, self.world = processes()
        self.first = self.rank == 0
        self._on_cpu: Any = None
        if self.world == 1:
            return
        if not started:
            # A process waits for the others as long as their parts take.
            gpu = torch.cuda.is_available() and dist.is_nccl_available()
            how = "cpu:gloo,cuda:nccl" if gpu else "gloo"
            try:
                dist.init_process_group(how, timeout=_PATIENCE)
            except (ValueError, RuntimeError) as error:
                raise PvaeError(
                    f"RANK and WORLD_SIZE announce {self.world} processes, but they cannot be "
                    f"reached ({first_line(error)}). Start them with `torchrun`, or unset both "
                    "variables to work alone."
                ) from error
            if how == "gloo":  # NCCL waits for the others before it is left
                atexit.register(_leave, None)
        elif "gloo" not in str(dist.get_backend_config()):  # NCCL has no tensors on the CPU
            self._on_cpu = dist.new_group(backend="gloo", timeout=_PATIENCE)
            atexit.register(_leave, self._on_cpu)

    def gather(self, own: T) -> list[T]:
        """Returns the objects that the processes pass here, in their order."""
        if self.world == 1:
            return [own]
        everyone: list[Any] = [None] * self.world
        with _reached():
            dist.all_gather_object(everyone, own, group=self._on_cpu)
        return everyone

    def from_first(self, own: T) -> T:
        """Returns the object of process 0."""
        if self.world == 1:
            return own
        found = [own]
        with _reached():
            dist.broadcast_object_list(found, 0, group=self._on_cpu)
        return found[0]

    def sums(self, *own: float) -> list[float]:
        """Returns the sum of each number over the processes."""
        if self.world == 1:
            return list(own)
        return self.add(torch.tensor(own, dtype=torch.float64, device="cpu")).tolist()

    def add(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its sum over the processes, and returns it."""
        with _reached():
            dist.all_reduce(tensor, group=self._on_cpu if tensor.device.type == "cpu" else None)
        return tensor

    @torch.no_grad()
    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors the values that process 0 has."""
        with _reached():
            for tensor in tensors:
                whole = tensor.contiguous()
                there = self._on_cpu if tensor.device.type == "cpu" else None
                dist.broadcast(whole, 0, group=there)
                tensor.copy_(whole)


def _leave(group: Any) -> None:
    """Leaves a group, or the default one, while Python still runs.

    Threads of gloo release tensors after their last message. In a Python that is ending, this
    aborts the process (https://github.com/pytorch/pytorch/pull/179291).
    """
    with contextlib.suppress(ValueError, AssertionError):  # the user has left it
        dist.destroy_process_group(group)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """In this context a process works alone, as in what only process 0 does."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """Says what it means if another process cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        text = first_line(error)
        if not (isinstance(error, dist.DistError) or "gloo" in text or "onnection" in text):
            raise
        raise PvaeError(
            "Another process of the group has ended, and the others cannot go on without it. "
            f"Its own message says why ({text[:160]})."
        ) from error
