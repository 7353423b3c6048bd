"""What the benchmarks share: data of MNIST's size, and the table that each of them writes."""

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import statistics
import sys
from pathlib import Path

import torch

import pvae
from pvae.data import Data, Part
from pvae.data.sources import root_folder
from pvae.data.vision import SETS

__all__ = ["SHAPE", "device_name", "spread", "training_data", "write"]

SHAPE = (1, 28, 28)


def training_data() -> tuple[Data, str]:
    """Returns MNIST where it is already on this machine, else noise of the same size."""
    root = root_folder(None)
    if all((root / file).exists() for file in SETS["mnist"].files):
        return pvae.data.load("mnist", root=root), "MNIST"
    draw = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (60_000, *SHAPE), generator=draw, dtype=torch.uint8)
    raw *= torch.rand(raw.shape, generator=draw) < 0.2
    part = Part(raw, None, "dynamic", 256)
    data = Data("synthetic", "dynamic", 0, 256, SHAPE, "binary", part, None, part)
    return data, "synthetic noise of MNIST's size (MNIST is not on this machine)"


def spread(values: list[float], digits: int = 2) -> str:
    """Returns a median and its range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def write(kind: str, text: str, device: torch.device, data: Data, packages: list[str]) -> Path:
    """Writes a benchmark's text to its results, with the machine and the command below it.

    Returns the file.

    Args:
        kind: The script's name, which its results begin with.
        text: Markdown that ends in a list.
        device: Where it ran; each device has a file of its own.
        data: What `training_data` returned.
        packages: Names of the packages whose versions matter.
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
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if device.type == "cpu":
        slug = f"cpu-{slug}-{threads}-threads"
    slug += "" if data.name == "mnist" else f"-{data.name}"
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}-{slug}.md"
    path.write_text(text)
    print(f"\n{text}\nwritten to benchmarks/results/{path.name}")
    return path


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found.group(1) if found else platform.processor() or platform.machine()
