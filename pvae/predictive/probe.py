"""How well classes can be read from a guide's codes: linear and nearest-neighbour probes."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvae.data import Data
from pvae.errors import PvaeError
from pvae.pair import Program, TensorSplit, alone, bind, name_of
from pvae.predictive.encode import encode
from pvae.runtime import own_random_state

__all__ = ["Probe", "Probes", "probe"]

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Probe:
    """How well classes can be read from one set of features.

    Attributes:
        features: What the features are.
        dim: How many there are.
        linear: Test accuracy of logistic regression on standardised features.
        knn: Test accuracy of the nearest neighbours' vote, by Euclidean distance.
    """

    features: str
    dim: int
    linear: float
    knn: float


@dataclasses.dataclass(frozen=True)
class Probes:
    """The probes of a guide's codes, and of the data as yardsticks.

    Attributes:
        rows: Each site's code; all sites together where there are several; PCA of the data to as
            many dimensions; the data themselves.
        num_train: How many training data the classifiers saw.
        num_test: How many test data the accuracies are over.
        num_neighbors: How many neighbours vote.
    """

    rows: tuple[Probe, ...]
    num_train: int
    num_test: int
    num_neighbors: int

    def se(self, accuracy: float) -> float:
        """Returns the standard error of an accuracy over the test data."""
        return (accuracy * (1 - accuracy) / self.num_test) ** 0.5

    def __str__(self) -> str:
        width = max(len(row.features) for row in self.rows)
        lines = [
            f"test accuracy on {self.num_test:,} data, {self.num_train:,} training data",
            f"{'features':{width}}   dim         linear   {f'{self.num_neighbors}-NN':>13}",
        ]
        for row in self.rows:
            cells = (f"{a:.3f} ± {self.se(a):.3f}" for a in (row.linear, row.knn))
            lines.append(f"{row.features:{width}} {row.dim:5}  " + "   ".join(cells))
        return "\n".join(lines)


@alone
def probe(
    guide: Program,
    data: Data,
    *,
    num_train: int = 10_000,
    num_test: int = 10_000,
    num_neighbors: int = 5,
    seed: int = 0,
) -> Probes:
    """Measures how well the classes of the data can be read from a guide's codes.

    Two classifiers of scikit-learn learn from training codes and are scored on test codes:
    logistic regression on standardised features (its default penalty), and the vote of the
    nearest neighbours, on unchanged codes. The same is done with the data's own values, and
    with their PCA to as many dimensions as the codes have. Nothing was chosen on the test data.

    Args:
        guide: Pyro program q(z|x).
        data: A dataset with labels in its training and test parts. Data whose label is unknown
            (negative) are left out.
        num_train: Largest number of training data, drawn without replacement.
        num_test: Largest number of test data.
        num_neighbors: How many neighbours vote.
        seed: Seed of the draw, and of x if it is drawn again for each minibatch.

    Raises:
        PvaeError: If no label is known, or only one class, or there is no latent site.

    Example:
        >>> import pvae
        >>> guide = pvae.guides.MeanField((1, 8, 8), latent_dim=5)
        >>> [row.features for row in pvae.probe(guide, pvae.data.load("digits")).rows]
        ['z', 'PCA', 'x']
    """
    for name, value in (("num_train", num_train), ("num_test", num_test)):
        if value < 2:
            raise PvaeError(f"{name}={value}: it must be at least 2.")
    with own_random_state(seed):
        train, y, bound = _drawn(guide, data, "train", num_train)
        test, y_test, _ = _drawn(guide, data, "test", num_test)
    if not 1 <= num_neighbors <= len(y):
        raise PvaeError(
            f"num_neighbors={num_neighbors}: it must be from 1 to the {len(y)} training data."
        )
    if len(np.unique(y)) < 2:
        raise PvaeError(
            f"All {len(y)} training data have the label {y[0]}: give data of at least two classes."
        )
    sites = _features(encode(bound, train), encode(bound, test))
    if not sites:
        raise PvaeError(f"The guide {name_of(guide)} has no latent site, so there are no codes.")
    if len(sites) > 1:
        both = [np.concatenate(part, 1) for part in zip(*sites.values(), strict=True)]
        sites[" and ".join(sites)] = tuple(both)
    x = tuple(part.tensors()[0].flatten(1).cpu().numpy() for part in (train, test))
    dims = sorted({train.shape[1] for train, _ in sites.values()}, reverse=True)
    features = [*sites.items()]
    features += [("PCA", _pca(*x, dim)) for dim in dims if dim < min(x[0].shape)]
    rows = [
        Probe(name, a.shape[1], *_accuracies(a, y, b, y_test, num_neighbors))
        for name, (a, b) in [*features, ("x", x)]
    ]
    return Probes(tuple(rows), len(y), len(y_test), num_neighbors)


def _drawn(guide: Program, data: Data, name: str, size: int) -> tuple[TensorSplit, Array, Program]:
    """Draws data of a part, with their labels, and binds the guide to them."""
    part = getattr(data, name, None)
    y = getattr(part, "y", None)
    if y is None:
        raise PvaeError(
            f"A probe needs labels, and the {name} part of the data has none. Hand in a dataset "
            "with labels, such as pvae.data.load('digits')."
        )
    if y.ndim != 1 or y.is_floating_point():
        raise PvaeError(
            f"A probe needs classes, integers [N], and the labels of the {name} part are "
            f"{y.dtype} {list(y.shape)}."
        )
    y, rows = y.cpu(), part.known.cpu().nonzero()[:, 0]
    if len(rows) < 2:
        raise PvaeError(
            f"A probe needs classes, and {len(rows)} of the {len(y)} labels of the {name} part "
            "are known (0 or more)."
        )
    if len(rows) > size:
        rows = rows[torch.randperm(len(rows))[:size].sort().values]
    part, (guide,) = bind(part, guide)
    return TensorSplit(part.observe(rows)), y[rows].numpy(), guide


def _features(train: dict[str, Array], test: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    found = {}
    for name in train:
        a, b = train[name], test[name]
        if a.ndim == 1 and not np.issubdtype(a.dtype, np.floating):  # a class: one column for each
            classes = np.union1d(a, b)
            a, b = (np.equal.outer(code, classes).astype(np.float32) for code in (a, b))
        found[name] = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return found


def _pca(train: Array, test: Array, dim: int) -> tuple[Array, Array]:
    from sklearn.decomposition import PCA

    pca = PCA(dim, random_state=0).fit(train)
    return pca.transform(train), pca.transform(test)


def _accuracies(
    train: Array, y: Array, test: Array, y_test: Array, num_neighbors: int
) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    knn = KNeighborsClassifier(num_neighbors)
    return tuple(float(c.fit(train, y).score(test, y_test)) for c in (linear, knn))
