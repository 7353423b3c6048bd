"""A made-up evaluation, a page read back as a browser reads it, and stand-ins for the pair."""

import dataclasses
import html.parser
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pvae
from pvae.errors import PvaeError

VOID = {"meta", "img", "link", "br", "hr", "input"}


@dataclasses.dataclass
class Numbers:
    """An evaluation with exact numbers: what `Evaluation` promises, made by hand."""

    log_px: np.ndarray
    num_samples: int = 500
    caveat: str | None = None
    model: str = "Net"
    guide: str = "Cone"
    khat: Any = None
    khat_threshold: float = 0.7
    seed: int = 11
    verdict: str = "The verdict in words."
    strategy: str = "plate"

    def __post_init__(self) -> None:
        n = len(self.log_px)
        self.data = {"name": "toys", "observation": "fixed", "hash": "cafe1234"}
        self.khat = np.linspace(0.1, 0.9, n) if self.khat is None else self.khat
        self.elbo = self.log_px - 4
        self.bounds = {1: self.log_px - 4, 5: self.log_px - 2, self.num_samples: self.log_px}
        self.log_px_se = np.full(n, 0.125)
        self.ess = np.full(n, 321.0)
        self.kl = np.full(n, 17.25)
        self.reconstruction = self.elbo + self.kl

    def summary(self) -> dict[str, Any]:
        def stat(values: np.ndarray) -> dict[str, float | None]:
            se = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            return {"mean": float(values.mean()), "se": se}

        known = self.khat[~np.isnan(self.khat)]
        return {
            "units": "nats", "num_data": len(self.log_px), "num_samples": self.num_samples,
            "seed": self.seed, "model": self.model, "guide": self.guide, "data": self.data,
            "elbo": stat(self.elbo),
            "log_px": [{"num_samples": k, **stat(b)} for k, b in sorted(self.bounds.items())],
            "kl": float(self.kl.mean()), "reconstruction": float(self.reconstruction.mean()),
            "khat": {
                "median": float(np.median(known)) if len(known) else None,
                "threshold": self.khat_threshold,
                "above_threshold": (
                    float((known > self.khat_threshold).mean()) if len(known) else None
                ),
            },
            "ess": {"median": float(np.median(self.ess))}, "active_units": 9,
            "sites": {"z_1": {"kl": 12.5, "active_units": 6},
                      "z_2": {"kl": None, "active_units": 3}},
        }  # fmt: skip


class Page(html.parser.HTMLParser):
    """A page's text by section, its tags, and whether every element closes where it should."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.tags, self.errors = source, [], []
        self._open: list[tuple[str, str | None]] = []
        self._texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(source)
        self.close()
        self.errors += [f"{tag} never closes" for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.errors.append(f"</{tag}> at {self.getpos()} closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag in ("style", "script") for tag, _ in self._open):
            return
        self._texts.append((tuple(i for _, i in self._open if i), data))

    def text(self, section: str | None = None) -> str:
        """Returns the words of the page, or of the element of one id."""
        parts = [t for ids, t in self._texts if section is None or section in ids]
        return " ".join(" ".join(parts).split())

    @property
    def rows(self) -> list[str]:
        """Table rows as text, a bar between the cells."""
        body = self.source.replace("</td>", " | </td>").replace("</th>", " | </th>")
        return [Page(r.partition("</tr>")[0]).text() for r in body.split("<tr")[1:]]


class Line(torch.nn.Module):
    """A module with 30 parameters; the stand-ins for `pvae.predictive` do not call it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(30))


@pytest.fixture
def numbers() -> Callable[..., Numbers]:
    def make(n: int = 40, **changes: Any) -> Numbers:
        log_px = -80 + 10 * np.random.default_rng(0).standard_normal(n)
        return Numbers(**{"log_px": log_px, **changes})

    return make


@pytest.fixture
def read(tmp_path) -> Callable[..., Page]:
    from pvae.report import write_report

    def make(evaluation: Any, **parts: Any) -> Page:
        return Page(write_report(tmp_path / "report.html", evaluation, **parts).read_text("utf-8"))

    return make


@pytest.fixture
def pair() -> dict[str, Line]:
    return {"model": Line(), "guide": Line()}


@pytest.fixture
def predictive(monkeypatch) -> types.ModuleType:
    """Replaces `pvae.predictive` by stand-ins that answer with known values."""
    module = types.ModuleType("pvae.predictive")
    module.reconstruct = lambda model, guide, *batch: 1 - batch[0]
    module.encode = lambda guide, *batch: {"z": batch[0].flatten(1)[:, :3]}
    module.decode = lambda model, latents: torch.full((len(latents["z"]), 1, 8, 8), 0.25)

    def generate(model: Any, size: int, seed: int = 0) -> torch.Tensor:
        raise PvaeError("Line cannot generate: its forward needs data.")

    module.generate = generate
    monkeypatch.setitem(sys.modules, "pvae.predictive", module)
    monkeypatch.setattr(pvae, "predictive", module, raising=False)
    return module
