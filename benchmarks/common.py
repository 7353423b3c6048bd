"""Shared by the benchmarks: data of MNIST's size, and the writing of result tables."""

import concurrent.futures
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

import pvae
from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.evaluation import Evaluation
from pvae.pair import Program

__all__ = [
    "SHAPE", "Pair", "again_for", "device_name", "each_row", "evaluated", "file_name",
    "rows_of_images", "slug", "spread", "train_and_evaluate", "trained", "training_data", "write",
]  # fmt: skip

SHAPE = (1, 28, 28)
Pair = tuple[Program, Program]


def training_data() -> tuple[Data, str]:
    """Returns MNIST, or noise of the same size if it is not here and cannot be downloaded."""
    with contextlib.suppress(PvaeError):
        return pvae.data.load("mnist"), "MNIST"
    draw = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (60_000, *SHAPE), generator=draw, dtype=torch.uint8)
    raw *= torch.rand(raw.shape, generator=draw) < 0.2
    part = Split({"x": raw}, "dynamic", 256)
    data = Data("synthetic", "dynamic", 0, 256, SHAPE, "binary", part, None, part)
    return data, "synthetic noise of MNIST's size (MNIST is not on this machine)"


def spread(values: list[float], digits: int = 2) -> str:
    """Returns a median and its range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def train_and_evaluate(run: Path, train: list[str], evaluate: list[str]) -> dict[str, float]:
    """Runs `pvae train` and `pvae evaluate` in a run folder, or what remains of them.

    Their output goes to a log beside the folder, and their times to a .json.

    Args:
        run: The run folder.
        train: Options of `pvae train`.
        evaluate: Options of `pvae evaluate`.

    Returns:
        Seconds of `"train"` and `"evaluate"`; if one was killed, those of its last start.

    Raises:
        subprocess.CalledProcessError: If one of them fails.
    """
    timing = run.with_name(f"{run.name}.json")
    seconds = json.loads(timing.read_text()) if timing.exists() else {}
    start = [*train, "--out", str(run), "--overwrite"]
    if (run / "checkpoint.pt").exists():
        start = ["--resume", str(run)]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_name(f"{run.name}.log").open("a") as log:
        for step, arguments in {"train": start, "evaluate": [str(run), *evaluate]}.items():
            if step in seconds:
                continue
            began = time.monotonic()
            command = [sys.executable, "-m", "pvae", step, *arguments]
            subprocess.run(command, check=True, stdout=log, stderr=log)
            seconds[step] = time.monotonic() - began
            timing.write_text(json.dumps(seconds))
    return seconds


def trained(run: Path, pair: Pair, data: Data, **options: Any) -> Pair:
    """Trains a pair in its run folder, or what remains of it, and returns it."""
    pvae.fit(*pair, data, out=run, resume=True, **options)
    return pair


def evaluated(run: Path, pair: Pair, data: Data, **options: Any) -> Evaluation:
    """Evaluates a pair into its run folder, or returns what is there."""
    done = run.with_name(f"{run.name}.evaluated")  # the folder has what is finished so far
    if done.exists():
        return Evaluation.load(run)
    found = pvae.evaluate(*pair, data, out=run, **options)
    done.touch()
    return found


def again_for(row: str, log: Path) -> None:
    """Runs this script again for one row, as a process of its own, with a log.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    with log.open("a") as file:
        command = [sys.executable, *sys.argv, "--row", row]
        subprocess.run(command, check=True, stdout=file, stderr=file)


def each_row(
    names: list[str], do: Callable[[str], None], say: Callable[[str], str], jobs: int
) -> list[str]:
    """Does rows, some at a time, and prints what each has found as soon as it is done.

    Args:
        names: The rows.
        do: Does a row.
        say: Returns the line of a row that is done.
        jobs: Rows at a time; above one, each with one thread.

    Returns:
        The rows that did not fail.
    """
    if jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    failed = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = {pool.submit(do, name): name for name in names}
        for number, job in enumerate(concurrent.futures.as_completed(found), 1):
            name, error = found[job], job.exception()
            if error:
                failed.append(name)
            said = f"{name}: failed ({error}), see its log" if error else say(name)
            print(f"[{number}/{len(found)}] {said}", flush=True)
    return [name for name in names if name not in failed]


def slug(name: str) -> str:
    """Returns the name of a row's folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def file_name(device: torch.device) -> str:
    """Returns a device's name for file names; a CPU's has the number of threads."""
    name = slug(device_name(device))
    return name if device.type == "cuda" else f"cpu-{name}-{torch.get_num_threads()}-threads"


def write(
    kind: str,
    text: str,
    device: torch.device,
    data: Data | None,
    packages: list[str],
    suffix: str = "",
) -> Path:
    """Writes a benchmark's results, with the machine and the command, and returns the file.

    Args:
        kind: The script's name, with which the file name starts.
        text: Markdown that ends in a list.
        device: Where it ran; each device has its own file.
        data: What `training_data` returned, or None without data.
        packages: Names of the packages whose versions matter.
        suffix: End of the file name, for another table of the same script.
    """
    threads, name = torch.get_num_threads(), device_name(device)
    chip = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    limit = os.environ.get("OMP_NUM_THREADS")
    command = shlex.join(["python", f"benchmarks/{kind}.py", *sys.argv[1:]])
    command = command if limit is None else f"OMP_NUM_THREADS={limit} {command}"
    versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in packages)
    text += f"""- Device: {name if device.type == "cuda" else "CPU"}; CPU: {chip}.
- {versions}, Python {platform.python_version()}.
- `{command}`, {datetime.date.today()}.
"""
    where = file_name(device) + ("" if data is None or data.name == "mnist" else f"-{data.name}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}-{where}{suffix}.md"
    path.write_text(text)
    print(f"\n{text}\nwritten to benchmarks/results/{path.name}")
    return path


def rows_of_images(path: Path, rows: dict[str, torch.Tensor]) -> None:
    """Draws one row of images, [N, C, H, W], for each name; values are between 0 and 1."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(11, 0.85 * len(rows)), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        strip = torch.cat(list(images.cpu()), -1).clamp(0, 1)
        axis.imshow(strip.movedim(0, -1).squeeze(-1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([], [])
        axis.set_yticks([], [])
        axis.spines[:].set_visible(False)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found.group(1) if found else platform.processor() or platform.machine()
