"""Finding: what one estimator found, as arrays over the data that can be stored and read back."""

import dataclasses
import json
from typing import Any, Self

import numpy as np

__all__ = ["Finding"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one estimator found about some of the data.

    Attributes:
        datum: Positions of the data in the evaluated part, [n]; arrays of leading size n are
            over these data.
    """

    datum: np.ndarray

    def __len__(self) -> int:
        return len(self.datum)

    def to_dataset(self) -> Any:
        """Returns an xarray Dataset: arrays as variables over `datum`, the rest as attributes."""
        import xarray

        arrays, attrs = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "datum":
                continue
            if isinstance(value, np.ndarray):
                named = field.metadata.get("dims", ("datum",))
                rest = (f"{field.name}_dim_{i}" for i in range(len(named), value.ndim))
                dims = [*named, *rest][: value.ndim]
                arrays[field.name] = (tuple(dims), value)
            else:
                attrs[field.name] = value
        return xarray.Dataset(
            arrays, coords={"datum": self.datum}, attrs={"meta": json.dumps(attrs)}
        )

    @classmethod
    def from_dataset(cls, dataset: Any) -> Self:
        """Reads what `to_dataset` made."""
        arrays = {name: variable.values for name, variable in dataset.data_vars.items()}
        return cls(datum=dataset["datum"].values, **arrays, **json.loads(dataset.attrs["meta"]))
