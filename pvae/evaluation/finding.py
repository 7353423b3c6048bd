"""What an evaluation knows: the bounds of each datum, and the finding of each estimator."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from pvae.drawing import Panel
from pvae.evaluation.numbers import Mean, mean_and_se

__all__ = ["Estimate", "Finding", "Known", "Unread", "finding_of"]


@dataclass(frozen=True)
class Known:
    """The numbers of an `Evaluation`, which documents them; `code` says whether there is no bound.

    Findings and estimators are handed these, so that they can compare themselves with the bounds.
    """

    elbo: np.ndarray
    log_px: np.ndarray
    log_px_se: np.ndarray
    khat: np.ndarray
    ess: np.ndarray
    kl: np.ndarray
    reconstruction: np.ndarray
    zero_weights: np.ndarray
    bounds: dict[int, np.ndarray]
    sites: dict[str, dict[str, Any]]
    num_samples: int
    seed: int
    khat_threshold: float
    model: str
    guide: str
    data: dict[str, Any]
    strategy: str
    caveat: str | None = None
    exact: bool = False
    elbo_analytic: np.ndarray | None = None
    psis: np.ndarray | None = None
    cubo: np.ndarray | None = None
    rows: np.ndarray | None = None
    bounds_se: dict[int, np.ndarray] = field(default_factory=dict)
    jvi: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    findings: "dict[str, Finding]" = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: str = ""

    def __len__(self) -> int:
        return len(self.elbo)

    @property
    def code(self) -> bool:
        """Whether the guide gives a point, so that there is no bound."""
        return "code" in self.findings

    def in_order(self) -> "list[tuple[str, Finding]]":
        """Returns the findings with their names, in the order of the report."""
        return sorted(self.findings.items(), key=lambda each: each[1].order)


@dataclass(frozen=True)
class Finding:
    """What one estimator found about some of the data.

    A subclass is a frozen dataclass of arrays and plain values; those are stored as they are.
    `kind` names the subclass in files: `class Middle(Finding, kind="Middle")`; without it the
    name is the class's with its module.

    Attributes:
        datum: Positions of the data in the evaluated part, [n]; arrays of leading size n are
            over these data.
        title: What was found, as a heading.
        section: Where the report shows it: `"estimates"`, `"trust"` or `"parts"`.
        order: Its place among the others, in the order of computing and in the report.
    """

    kind: ClassVar[str] = "Finding"
    title = ""
    section: ClassVar[str] = "estimates"
    order: ClassVar[int] = 100

    datum: np.ndarray

    def __init_subclass__(cls, kind: str | None = None) -> None:
        cls.kind = kind or f"{cls.__module__}.{cls.__qualname__}"

    def __len__(self) -> int:
        return len(self.datum)

    def summary(self, known: Known) -> dict[str, Any]:
        """Returns its part of `evaluation.json`: plain values.

        Without an override: the mean and error of every array over the data.
        """
        arrays = {name: v for name, v in self._values().items() if isinstance(v, np.ndarray)}
        over_data = {n: v for n, v in arrays.items() if v.shape == (len(self),)}
        return {"num_data": len(self), **{n: mean_and_se(v) for n, v in over_data.items()}}

    def line(self, summary: dict[str, Any]) -> str | None:
        """Returns a line for the terminal, made of its summary; None for none."""
        return None

    def verdict(self, known: Known) -> str | None:
        """Returns a sentence on how far the bounds can be trusted; None for none."""
        return None

    def panels(self, known: Known) -> list[Panel]:
        """Returns its figures in the report, each made by `pvae.drawing.attempt`."""
        return []

    def to_dataset(self) -> Any:
        """Returns an xarray Dataset: arrays as variables over `datum`, the rest as attributes."""
        import xarray

        arrays, attrs = {}, {}
        for name, value in self._values().items():
            if isinstance(value, np.ndarray):
                named = self.__dataclass_fields__[name].metadata.get("dims", ("datum",))
                rest = (f"{name}_dim_{i}" for i in range(len(named), value.ndim))
                arrays[name] = (tuple([*named, *rest][: value.ndim]), value)
            else:
                attrs[name] = value
        attrs = {"meta": json.dumps(attrs), "kind": self.kind}
        return xarray.Dataset(arrays, coords={"datum": self.datum}, attrs=attrs)

    @classmethod
    def from_dataset(cls, dataset: Any) -> Self:
        """Reads what `to_dataset` made."""
        arrays = {name: variable.values for name, variable in dataset.data_vars.items()}
        return cls(datum=dataset["datum"].values, **arrays, **json.loads(dataset.attrs["meta"]))

    def _values(self) -> dict[str, Any]:
        names = [each.name for each in dataclasses.fields(self) if each.name != "datum"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Estimate(Finding, kind="Estimate"):
    """An estimate of log p(x), which stands in the tables beside the bound on the same data.

    Attributes:
        log_px: The estimate, [n], nats.
        label: Its name in the terminal's table; the title where it is empty.
        level: Its name in the chart of the bounds, where it is of all data; not drawn if empty.
    """

    label: ClassVar[str] = ""
    level = ""

    log_px: np.ndarray

    def summary(self, known: Known) -> dict[str, Any]:
        with np.errstate(invalid="ignore"):  # -inf - -inf
            difference = self.log_px - known.log_px[self.datum]
        above: Mean = mean_and_se(difference)
        return {"num_data": len(self), **mean_and_se(self.log_px), "above_log_px": above}

    def note(self, summary: dict[str, Any]) -> str:
        """Returns how it was found and how to read it, for the report's table."""
        return ""


@dataclass(frozen=True)
class Unread(Finding):
    """A finding whose class is not loaded: it is kept, and shown without a row of its own.

    Attributes:
        dataset: What its file says.
    """

    dataset: Any

    @property
    def title(self) -> str:
        return f"{self.dataset.attrs['kind']}, whose class is not imported"

    def summary(self, known: Known) -> dict[str, Any]:
        arrays = {name: each.values for name, each in self.dataset.data_vars.items()}
        over_data = {n: v for n, v in arrays.items() if v.shape == (len(self),)}
        return {"num_data": len(self), **{n: mean_and_se(v) for n, v in over_data.items()}}

    def line(self, summary: dict[str, Any]) -> str:
        return f"not shown: {self.title}"

    def to_dataset(self) -> Any:
        return self.dataset

    @classmethod
    def from_dataset(cls, dataset: Any) -> Self:
        return cls(dataset["datum"].values, dataset)


def finding_of(dataset: Any) -> Finding:
    """Reads what `Finding.to_dataset` made, by the class that is loaded under its name.

    No class is imported because a file names it.
    """
    kind = dataset.attrs["kind"]
    found = [each for each in _subclasses(Finding) if each.kind == kind]
    return (found[-1] if found else Unread).from_dataset(dataset)


def _subclasses(kind: type[Finding]) -> list[type[Finding]]:
    own = kind.__subclasses__()
    return own + [each for one in own for each in _subclasses(one)]
