"""The content of an evaluation: the bounds of each datum, and the finding of each estimator."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from pvae.drawing import Panel, text
from pvae.evaluation.numbers import Mean, mean_and_se

__all__ = ["Estimate", "Finding", "Known", "Unread", "finding_of"]


@dataclass(frozen=True)
class Known:
    """The numbers of an evaluation; `Evaluation` documents the fields.

    Estimators and findings receive it, to compare themselves with the bounds.
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
    one_code: bool = False
    elbo_analytic: np.ndarray | None = None
    psis: np.ndarray | None = None
    cubo: np.ndarray | None = None
    rows: np.ndarray | None = None
    bounds_se: dict[int, np.ndarray] = field(default_factory=dict)
    jvi: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    findings: "dict[str, Finding]" = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    precision: dict[str, Any] | None = None
    key: str = ""
    made: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.elbo)

    @property
    def constant(self) -> bool:
        """Whether log w is the same for every sample, and so L_K for every K."""
        return self.exact or self.one_code

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

    A subclass is a frozen dataclass of arrays and plain values, which are stored unchanged.
    `kind` names the subclass in files: `class Middle(Finding, kind="Middle")`. By default it is
    the module and the name of the class.

    Attributes:
        datum: Positions of the data in the evaluated part, [n]; arrays of leading size n are
            over these data.
        title: What was found, as a heading.
        section: Where the report shows it: `"estimates"`, `"trust"`, `"parts"` or `"uses"`.
        order: Its place in the order of computing and in the report.

    Example:
        >>> import pvae
        >>> issubclass(pvae.estimators.Estimate, Finding)
        True
    """

    kind: ClassVar[str] = "Finding"
    title = ""
    section: ClassVar[str] = "estimates"
    order: ClassVar[int] = 100

    datum: np.ndarray

    def __init_subclass__(cls, kind: str | None = None) -> None:
        cls.kind = kind or f"{cls.__module__}.{cls.__qualname__}"
        cls.__repr__ = cls.__repr__  # the subclass has one: dataclass adds none that prints arrays

    def __len__(self) -> int:
        return len(self.datum)

    def __repr__(self) -> str:
        said = [self.title, text.plural(len(self), "datum", "data")]
        for name, mean in self._means().items():
            value, se = ("–" if each is None else f"{each:.4g}" for each in mean.values())
            said.append(f"{name} {value} ± {se}")
        return f"<{type(self).__name__}: {', '.join(filter(None, said))}>"

    def summary(self, known: Known) -> dict[str, Any]:
        """Returns its part of `evaluation.json`: plain values.

        By default, the mean of every array over the data and its standard error.
        """
        return {"num_data": len(self), **self._means()}

    def line(self, summary: dict[str, Any]) -> str | None:
        """Returns a line for the terminal, made from its summary; None for no line."""
        return None

    def verdict(self, known: Known) -> str | None:
        """Returns a sentence on how far the bounds can be trusted; None for no sentence."""
        return None

    def scores(self) -> dict[str, np.ndarray]:
        """Returns numbers by name, [n], that `compare` compares between runs; smaller is better."""
        return {}

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
        """Returns the finding that `to_dataset` wrote."""
        arrays = {name: variable.values for name, variable in dataset.data_vars.items()}
        return cls(datum=dataset["datum"].values, **arrays, **json.loads(dataset.attrs["meta"]))

    def _values(self) -> dict[str, Any]:
        names = [each.name for each in dataclasses.fields(self) if each.name != "datum"]
        return {name: getattr(self, name) for name in names}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: v for name, v in self._values().items() if isinstance(v, np.ndarray)}

    def _means(self) -> dict[str, Mean]:
        over_data = {n: v for n, v in self._arrays().items() if v.shape == (len(self),)}
        return {n: mean_and_se(v) for n, v in over_data.items() if v.dtype.kind in "biuf"}


@dataclass(frozen=True)
class Estimate(Finding, kind="Estimate"):
    """An estimate of log p(x), shown in the tables beside the bound on the same data.

    Attributes:
        log_px: The estimate, [n], nats.
        label: Its name in the terminal's table; if empty, the title.
        level: Its name in the chart of the bounds, for an estimate of all data; if empty, it is
            not drawn.
        independent: What it is called as a check of the bound that does not rest on the guide;
            empty if it is none.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [pvae.estimators.Quadrature()]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> isinstance(found.findings["quadrature"], Estimate)
        True
    """

    label: ClassVar[str] = ""
    level = ""
    independent = ""

    log_px: np.ndarray

    def summary(self, known: Known) -> dict[str, Any]:
        with np.errstate(invalid="ignore"):  # -inf - -inf
            difference = self.log_px - known.log_px[self.datum]
        above: Mean = mean_and_se(difference)
        return {"num_data": len(self), **mean_and_se(self.log_px), "above_log_px": above}

    def note(self, summary: dict[str, Any]) -> str:
        """Returns how it was computed and how to read it, for the report's table."""
        return ""


@dataclass(frozen=True)
class Unread(Finding):
    """A finding whose class is not imported. It is kept, and shown without its own row.

    Attributes:
        dataset: The content of its file.
    """

    dataset: Any

    @property
    def title(self) -> str:
        return f"{self.dataset.attrs['kind']}, whose class is not imported"

    def line(self, summary: dict[str, Any]) -> str:
        return f"not shown: {self.title}"

    def to_dataset(self) -> Any:
        return self.dataset

    @classmethod
    def from_dataset(cls, dataset: Any) -> Self:
        return cls(dataset["datum"].values, dataset)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: each.values for name, each in self.dataset.data_vars.items()}


def finding_of(dataset: Any) -> Finding:
    """Returns the finding that `Finding.to_dataset` wrote, by the imported class of its kind.

    A class that only the file names is not imported.
    """
    kind = dataset.attrs["kind"]
    found = [each for each in _subclasses(Finding) if each.kind == kind]
    return (found[-1] if found else Unread).from_dataset(dataset)


def _subclasses(kind: type[Finding]) -> list[type[Finding]]:
    own = kind.__subclasses__()
    return own + [each for one in own for each in _subclasses(one)]
