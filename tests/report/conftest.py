"""Made-up evaluations, a page read back as a browser reads it, and stand-ins for the pair."""

import dataclasses
import html.parser
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pvae.predictive
from pvae.errors import PvaeError
from pvae.evaluation import Evaluation, Known
from pvae.evaluation.estimators.aggregate_posterior import AggregatePosterior
from pvae.evaluation.estimators.annealed import Annealed
from pvae.evaluation.estimators.bdmc import Sandwich
from pvae.evaluation.estimators.gaps import Gaps
from pvae.evaluation.estimators.prior import FromPrior
from pvae.evaluation.estimators.quadrature import Integrals
from pvae.evaluation.summary import summarise

VOID = {"meta", "img", "link", "br", "hr", "input"}


@dataclasses.dataclass
class Numbers:
    """An evaluation with exact numbers whose parts can be changed; its summary is the real one."""

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
    exact: bool = False
    code: bool = False
    one_code: bool = False

    def __post_init__(self) -> None:
        n = len(self.log_px)
        self.data = {"name": "toys", "observation": "fixed", "hash": "cafe1234"}
        self.khat = np.linspace(0.1, 0.9, n) if self.khat is None else self.khat
        self.elbo = self.log_px - 4
        self.bounds = {1: self.log_px - 4, 5: self.log_px - 2, self.num_samples: self.log_px}
        self.log_px_se = np.full(n, 0.125)
        self.bounds_se = {k: np.full(n, 0.125) for k in self.bounds}
        self.ess = np.full(n, 321.0)
        self.kl = np.full(n, 17.25)
        self.reconstruction = self.elbo + self.kl
        self.zero_weights = np.zeros(n)
        self.elbo_analytic = self.psis = self.cubo = self.precision = None
        self.made = {}
        self.jvi, self.findings, self.missing, self.settings = {}, {}, {}, {}
        self.sites = {
            "z_1": {"kl": 12.5, "closed_form": True, "active_units": 6,
                    "kl_dims": [0.5, 4.5, 0.0, 4.5, 0.0, 1.0, 1.0, 1.0],
                    "variance": [0.02, 0.9, 0.0, 1.5, 0.001, 0.4, 0.4, 0.4]},
            "z_2": {"kl": None, "closed_form": False, "active_units": 3, "kl_dims": None,
                    "variance": None},
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.log_px)

    in_order = Known.in_order
    constant = Known.constant

    def summary(self) -> dict[str, Any]:
        return summarise(self, self.verdict)


def everything(**changes: Any) -> Evaluation:
    """An `Evaluation` in which every estimator has found something."""
    rng, n, k = np.random.default_rng(3), 60, 7
    log_px = -80 + 10 * rng.standard_normal(n)
    noise = np.full(n, 0.05)
    some, few = np.arange(0, 60, 3), np.arange(10)
    path = {"num_chains": 16, "num_temperatures": 30, "num_leapfrog": 10}
    # Three data whose posterior the guide misses half of.
    missed = np.where(np.arange(20) < 3, 0.7, 0.0)
    ais = Annealed(some, log_px[some] + missed, noise[some], np.full(20, 15.0),
                   np.linspace(0.9, 0.25, 29), "prior", **path)  # fmt: skip
    findings = {
        "prior": FromPrior(np.arange(n), log_px - 31.5, 9 * noise, np.full(n, 487.5),
                           np.full(n, 1.25), 500),
        "ais_prior": ais,
        "ais_guide": dataclasses.replace(ais, log_px=log_px[some], start="guide"),
        "bdmc": Sandwich(few, -80.0 - few, -79.625 - few, "prior", **path),
        "quadrature": Integrals(np.arange(n), log_px + 0.3125, np.full(n, 3e-10)),
        "gap": Gaps(few, log_px[few] - 4, log_px[few] - 2.5, log_px[few], noise[few], noise[few],
                   "z ~ Normal(loc, scale)", True, 1000, 450),
        "surgery": AggregatePosterior(np.arange(n), np.full(n, 1.0), np.full(n, -2.5),
                                      np.full(n, -9.75), n),
    }  # fmt: skip
    fields = {
        "elbo": log_px - 4, "elbo_analytic": log_px - 4.0625, "log_px": log_px,
        "log_px_se": noise, "psis": log_px + 0.1875 + 0.5 * (-1.0) ** np.arange(n),
        "cubo": np.where(np.arange(n) < 15, log_px + 0.4375, np.nan),
        "khat": np.where(np.arange(n) < 15, 0.1, 0.5),
        "ess": np.full(n, 5.5), "kl": np.full(n, 10.75), "reconstruction": log_px + 6.75,
        "zero_weights": np.full(n, 0.03125), "num_samples": k, "seed": 1, "khat_threshold": 0.4,
        "bounds": {1: log_px - 4, 3: log_px - 1, k: log_px},
        "bounds_se": {1: noise, 3: noise, k: noise},
        "jvi": {1: {3: log_px - 0.5, k: log_px + 0.25}, 2: {3: log_px, k: log_px + 0.375}},
        "sites": {"z": {"kl": 10.75, "closed_form": True, "active_units": 1,
                        "kl_dims": [0.0, 10.75], "variance": [0.0, 0.9]}},
        "model": "Net", "guide": "Cone", "strategy": "plate",
        "data": {"name": "toys", "observation": "fixed", "hash": "cafe1234", "dims": 64,
                 "levels": 2},
        "findings": findings,
    }  # fmt: skip
    return Evaluation(**(fields | changes))


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

    def figure(self, name: str) -> str:
        """Returns the source of the figure of an id, on one line; empty where there is none."""
        part = self.source.partition(f'<figure id="{name}">')[2].partition("</figure>")[0]
        return part.replace("\n", " ")

    @property
    def rows(self) -> list[str]:
        """Table rows as text, a bar between the cells."""
        body = self.source.replace("</td>", " | </td>").replace("</th>", " | </th>")
        rows = (r.partition("</tr>")[0].partition(">")[2] for r in body.split("<tr")[1:])
        return [Page(row).text() for row in rows]


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


@pytest.fixture(scope="session")
def found() -> Callable[..., Evaluation]:
    return everything


@pytest.fixture(scope="session")
def page() -> Callable[[pathlib.Path], Page]:
    """Reads a page from its file."""
    return lambda path: Page(path.read_text("utf-8"))


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> Page:
    """The page of `everything()`; no test changes it."""
    from pvae.report import write_report

    path = write_report(tmp_path_factory.mktemp("full") / "report.html", everything())
    return Page(path.read_text("utf-8"))


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
    module.__dict__.update(vars(pvae.predictive))
    module.reconstruct = lambda model, guide, *batch, site: 1 - batch[0]
    module.encode = lambda guide, *batch: {"z": batch[0].flatten(1)[:, :3]}
    module.decode = lambda model, latents, *batch, site: torch.full(
        (len(latents["z"]), 1, 8, 8), 0.25
    )

    def generate(model: Any, size: int, *batch: Any, site: str | None) -> torch.Tensor:
        raise PvaeError("Line cannot generate: its forward needs data.")

    module.generate = generate
    monkeypatch.setattr("pvae.report.subject.predictive", module)
    return module
