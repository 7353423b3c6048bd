"""Work: the blocks of an evaluation, cached on disk and shared between processes."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.pair import Program, TensorSplit, name_of
from pvae.runtime import Group, atomic, locked, tqdm

__all__ = [
    "FOLDER",
    "Whole",
    "Work",
    "asked_before",
    "fingerprint",
    "half_done",
    "in_blocks",
    "take",
]

FOLDER = "evaluation.partial"
REPEATED = ("num_samples", "seed", "precision")
"""Options that an interrupted evaluation keeps when it is continued without them."""

Block = TypeVar("Block")
Arrays = dict[str, np.ndarray]


class Work:
    """Computes each block of an evaluation once, even if the process is killed meanwhile.

    A block's result is a few arrays. With a folder, each result is cached on disk and reused
    while `key` matches. Inside the context no other process can use the folder; at its end the
    folder is removed unless it holds blocks. Under `torchrun` the processes share the blocks, and
    each gets all results, in order.

    Args:
        folder: The run folder, or None to cache nothing.
        key: The plain values that the numbers depend on.
        progress: Whether to show progress bars.
        check: What the first process computes before an older evaluation is replaced; if it
            raises, nothing is lost.
        options: Other options that must be the same in all processes.

    Attributes:
        rank: This process's number.
        world: How many processes share the work.
        key: A hash of `key`.
        checked: What `check` returned.
        settings: The values that the next `map` depends on beside the key.
        whole: Whether all data are one block, for a pair that only runs with all of them.
    """

    def __init__(
        self,
        folder: Path | None,
        key: dict[str, Any],
        progress: bool,
        check: Callable[[], Any] = lambda: None,
        **options: Any,
    ) -> None:
        self._group = Group()
        self.rank, self.world = self._group.rank, self._group.world
        self._folder = folder / FOLDER if folder is not None else None
        text = json.dumps(key, sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.settings: dict[str, Any] = {}
        self.whole = False
        self._parts = {name: json.dumps(v, default=str) for name, v in (key | options).items()}
        self._progress = progress and self.rank == 0
        self._check, self.checked = check, None
        self._asked = {name: key[name] for name in REPEATED if name in key}
        self._used: list[Path] = []
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "Work":
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        if self._folder is not None and self.rank == 0 and not half_done(self._folder.parent):
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def _open(self) -> None:
        _same_everywhere(self.gather(self._parts))
        problem = None
        try:
            self.checked = self._check() if self.rank == 0 else None
        except Exception as error:
            if self.world == 1:
                raise
            problem = f"{type(error).__name__}: {error}"
        self.checked, problem = self.gather((self.checked, problem))[0]
        _raise([problem])
        if self._folder is not None and self.rank == 0:
            try:
                self._lock.enter_context(locked(self._folder.parent))
                old, kept = _key(self._folder), half_done(self._folder.parent)
                if old is not None and old != self.key:
                    print(
                        "the half-done evaluation has another pair, data or options: starting again"
                    )
                elif kept:
                    print(
                        f"the evaluation of {self._folder.parent} is half done: {kept} blocks are "
                        "kept, and used if their options are the same"
                    )
                if old != self.key:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    with atomic(self._folder / "key") as temporary:
                        temporary.write_text(f"{self.key}\n{json.dumps(self._asked)}")
            except PvaeError as error:
                problem = f"PvaeError: {error}"
        _raise(self.gather(problem))

    def gather(self, own: Any) -> list[Any]:
        """Returns the objects that all processes pass here, in their order."""
        return self._group.gather(own)

    def map(
        self, name: str, blocks: Sequence[Block], compute: Callable[[Block], Arrays]
    ) -> list[Arrays]:
        """Returns the result of `compute` for each block, in order.

        Args:
            name: Names the files and the progress bar.
            blocks: The blocks; the progress bar uses their lengths.
            compute: Maps a block to arrays that depend on the block alone.

        Raises:
            PvaeError: The first error of a block, in every process.
        """
        if self.whole:
            blocks = [np.concatenate(blocks)]
        mine: dict[int, Arrays] = {}
        problem: Exception | None = None
        paths = [self._path(name, i, block) for i, block in enumerate(blocks)]
        self._used += filter(None, paths)
        numbers = range(self.rank, len(blocks), self.world)
        total = sum(len(blocks[i]) for i in numbers)
        bar = tqdm(total=total, unit="datum", desc=name, disable=not self._progress)
        with bar:
            for i in numbers:
                self._bar, self._block, before = bar, len(blocks[i]), bar.n
                try:
                    found = self._read(paths[i])
                    if found is None:
                        found = compute(blocks[i])
                        self._write(paths[i], found)
                    mine[i] = found
                except Exception as error:
                    if self.world == 1:
                        raise
                    problem = error
                    break
                bar.update(before + len(blocks[i]) - bar.n)
        if self.world == 1:
            return [mine[i] for i in numbers]
        everyone = self.gather((mine, problem and f"{type(problem).__name__}: {problem}"))
        _raise([text for _, text in everyone], problem)
        results = {i: found for part, _ in everyone for i, found in part.items()}
        return [results[i] for i in range(len(blocks))]

    def ticks(self, number: int) -> Callable[[], None]:
        """Returns a function whose N calls move the progress bar through the current block."""
        bar, size, before = self._bar, self._block, self._bar.n
        calls = itertools.count(1)
        return lambda: bar.update(before + size * next(calls) // max(1, number) - bar.n)

    def saved(self) -> None:
        """Deletes the cached blocks of all maps so far, once their content is saved elsewhere."""
        if self.rank == 0:
            for path in self._used:
                path.unlink(missing_ok=True)
        self._used.clear()

    def _path(self, name: str, i: int, block: Any) -> Path | None:
        if self._folder is None:
            return None
        text = f"{self.key} {json.dumps(self.settings, sort_keys=True)} {list(block)}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._folder / f"{name.replace(' ', '-')}-{i}-{digest}.npz"

    def _read(self, path: Path | None) -> Arrays | None:
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError):
            return None  # damaged: it is computed again

    def _write(self, path: Path | None, arrays: Arrays) -> None:
        if path is not None:
            with atomic(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)


def _raise(problems: list[str | None], own: Exception | None = None) -> None:
    """Raises the first error of any process in every process."""
    for problem in filter(None, problems):
        known = problem.startswith("PvaeError: ")
        error = PvaeError(problem.removeprefix("PvaeError: ")) if known else RuntimeError(problem)
        raise own or error


def _same_everywhere(everyone: list[dict[str, str]]) -> None:
    """Raises in every process if their pair, data or options differ."""
    first = everyone[0]
    names = [name for name in first if any(part.get(name) != first[name] for part in everyone)]
    if names:
        others = [str(i) for i, part in enumerate(everyone) if part != first]
        raise PvaeError(
            f"The {len(everyone)} processes (WORLD_SIZE) do not evaluate the same: process "
            f"{', '.join(others)} has another {' and another '.join(names)} than process 0. They "
            "share one evaluation, so give all of them the same pair, data and options. For "
            "several evaluations at once, unset RANK and WORLD_SIZE."
        )


def half_done(run: str | os.PathLike[str]) -> int | None:
    """Returns the number of cached blocks of an unfinished evaluation; None if there is none."""
    folder = Path(run) / FOLDER
    if _key(folder) is None:
        return None
    return sum(1 for path in folder.glob("*.npz"))


def asked_before(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the seed, the precision and the numbers of samples of an unfinished evaluation."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((Path(run) / FOLDER / "key").read_text().partition("\n")[2])
    return {}


def _key(folder: Path) -> str | None:
    with contextlib.suppress(OSError):
        return (folder / "key").read_text().partition("\n")[0]
    return None


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """Returns a hash of the values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if is_lazy(tensor):  # no values yet
            continue
        digest.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def in_blocks(positions: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts positions of data into blocks, which depend on the positions and the size only."""
    return [positions[i : i + size] for i in range(0, len(positions), size)]


class Whole:
    """Data that are always observed together, for a pair that runs only with all of them.

    Args:
        part: N data.
        size: The number of data that the pair runs with.
        guide: The guide, for the message.

    Raises:
        PvaeError: If N differs from `size`.
    """

    def __init__(self, part: Split | TensorSplit, size: int, guide: Program) -> None:
        if size != len(part):
            raise PvaeError(
                f"The pair runs with {size} data together and not with fewer: a plate has a fixed "
                f"size, or the guide {name_of(guide)} has parameters for each datum. Evaluate "
                f"{size} data at a time, in the order that the pair was trained with."
            )
        self._part = part

    def __len__(self) -> int:
        return len(self._part)

    def observe(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        """Returns all data, whatever the index."""
        return self._part.observe(slice(0, len(self)))


def take(
    part: Split | TensorSplit, positions: np.ndarray, device: torch.device
) -> tuple[Tensor, ...]:
    """Returns the data at these positions as a batch on a device."""
    first, last = int(positions[0]), int(positions[-1]) + 1
    rows = slice(first, last) if last - first == len(positions) else torch.from_numpy(positions)
    batch = (tensor.to(device) for tensor in part.observe(rows))
    # Tensors made in inference mode cannot take part in gradients.
    return tuple(tensor.clone() if tensor.is_inference() else tensor for tensor in batch)
