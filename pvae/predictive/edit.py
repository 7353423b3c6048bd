"""Edits of data: steps of their codes along the directions of attributes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split
from pvae.errors import PvaeError
from pvae.pair import Program, TensorSplit, alone, given, name_of
from pvae.predictive.encode import encode, encode_split
from pvae.predictive.generate import decode

__all__ = ["directions", "edit"]


@alone
def directions(
    guide: Program,
    data: Data | Split | TensorSplit | Tensor,
    attributes: Any = None,
    *,
    how: Literal["mean", "probe"] = "mean",
) -> dict[str, Tensor]:
    r"""Returns the direction of each attribute in the codes of data.

    .. math:: v = \bar z_{\text{with}} - \bar z_{\text{without}} \quad (\text{mean}), \qquad
        v = \frac{w}{\|w\|^2} \, w^\top (\bar z_{\text{with}} - \bar z_{\text{without}})
        \quad (\text{probe})

    The mean difference also contains what goes with the attribute in these data. The probe is the
    normal w of logistic regression, which leaves out what other dimensions tell as well. Both move
    the codes by as much along w, so that one step is that from data without to data with it.

    Args:
        guide: Pyro program q(z|x).
        data: A part of data, such as `data.train`; of a `pvae.data.Data` the test part.
            Or a tensor.
        attributes: 0 and 1, [N] or [N, A]; classes y as `y == 3`. None is the labels of the data,
            each class against the others; data whose label is unknown (negative or NaN) are then
            left out.
        how: `"mean"` or `"probe"`.

    Returns:
        For each latent site a tensor [A, *event], to be passed to `edit`.

    Raises:
        PvaeError: If an attribute is the same for all data or is not 0 or 1, a site is discrete, or
            all data have the same code.

    Source: Larsen et al. 2016, *Autoencoding beyond Pixels Using a Learned Similarity Metric*
    (arXiv:1512.09300), for the mean difference.

    Example:
        >>> import pvae
        >>> digits = pvae.data.load("digits")
        >>> guide = pvae.guides.MeanField((1, 8, 8), latent_dim=5)
        >>> pvae.directions(guide, digits.train, digits.train.y == 3)["z"].shape
        torch.Size([1, 5])
    """
    if how not in ("mean", "probe"):
        raise PvaeError(f"how={how!r} is not valid: give 'mean' or 'probe'.")
    part, (bound,) = given(data, {}, None, guide)
    codes = encode_split(bound, part)
    if not codes:
        raise PvaeError(f"The guide {name_of(guide)} has no latent site, so there are no codes.")
    size = len(next(iter(codes.values())))
    kept, has = _by_label(codes.y) if attributes is None else (..., _attributes(attributes, size))
    _refuse_constant(has)
    if all((code == code[:1]).all() for code in codes.values()):
        raise PvaeError(
            f"The guide {name_of(guide)} gives all data the same code, so no attribute has a "
            "direction."
        )
    found = {}
    for name, code in codes.items():
        if not np.issubdtype(code.dtype, np.floating):
            raise _discrete(name, guide)
        flat = code.reshape(len(code), -1).astype(np.float64)[kept]
        rows = np.stack([_direction(flat, each, how) for each in has.T])
        found[name] = torch.from_numpy(rows.astype(code.dtype)).reshape(-1, *code.shape[1:])
    return found


def _discrete(name: str, guide: Program) -> PvaeError:
    return PvaeError(
        f"Site {name!r} of the guide {name_of(guide)} is discrete: its codes cannot be moved along "
        "a direction."
    )


def _by_label(y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of the N labels are known, and the n known ones as booleans [n, C]."""
    if y is None or y.ndim != 1:
        raise PvaeError("The data have no labels: give attributes, 0 and 1, [N] or [N, A].")
    known = y >= 0  # not NaN either
    if not known.any():
        raise PvaeError(
            f"None of the {len(y)} labels is known (0 or more): give attributes, 0 and 1, [N] or "
            "[N, A]."
        )
    return known, y[known, None] == np.unique(y[known])


def _attributes(given: Any, size: int) -> np.ndarray:
    """Returns attributes as booleans [N, A]."""
    has = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    has = has[:, None] if has.ndim == 1 else has
    if has.ndim != 2 or len(has) != size or not np.isin(has, (0, 1)).all():
        raise PvaeError(
            f"attributes of shape {list(has.shape)} are not valid: give 0 and 1 for each of the "
            f"{size} data, [N] or [N, A]."
        )
    return has.astype(bool)


def _refuse_constant(has: np.ndarray) -> None:
    for i, column in enumerate(has.T):
        if column.all() or not column.any():
            raise PvaeError(
                f"Attribute {i} is {int(column[0])} for all {len(has)} data, so it has no "
                "direction."
            )


def _direction(codes: np.ndarray, has: np.ndarray, how: str) -> np.ndarray:
    step = codes[has].mean(0) - codes[~has].mean(0)
    if how == "mean":
        return step
    from sklearn.linear_model import LogisticRegression

    scale = codes.std(0)
    scale[scale == 0] = 1.0
    w = LogisticRegression(max_iter=1000).fit(codes / scale, has).coef_[0] / scale
    return w * (w @ step) / (w @ w) if w.any() else step


@alone
def edit(
    model: Program,
    guide: Program,
    *batch: Any,
    along: Mapping[str, Tensor],
    by: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    site: str | None = None,
) -> Tensor:
    r"""Returns the means of p(x|z) after steps along directions.

    .. math:: z' = E_{q(z|x)}[z] + \sum_j a_j v_j

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        *batch: B data, as the pair is called with them.
        along: v for each latent site, [A, *event], from `directions`. Other sites keep their codes.
        by: The amounts a of each of S edits, [S, A]; or [A] for one edit.
        site: Whose mean; None is the observed site with the most values for each datum.

    Returns:
        Tensor [B, S, *event], or [B, *event] for one edit.

    Raises:
        PvaeError: If shapes do not fit, or the guide has no such site.

    Example:
        >>> import torch
        >>> from pvae import edit, guides, models
        >>> pair = models.VAE((1, 8, 8), 5), guides.MeanField((1, 8, 8), 5)
        >>> v = {"z": torch.randn(2, 5)}  # two attributes
        >>> by = [[0.0, 0.0], [1.0, 0.0], [1.0, -0.5]]
        >>> edit(*pair, torch.zeros(4, 1, 8, 8), along=v, by=by).shape
        torch.Size([4, 3, 1, 8, 8])
    """
    codes = encode(guide, *batch)
    amounts = torch.as_tensor(by, dtype=torch.get_default_dtype())
    each = amounts.reshape(1, -1) if amounts.ndim == 1 else amounts
    moved, size = {}, len(next(iter(codes.values()), ()))
    for name in along:
        if name not in codes:
            raise PvaeError(
                f"The guide {name_of(guide)} has no latent site {name!r}; its sites are "
                f"{', '.join(codes) or 'none'}."
            )
    for name, code in codes.items():
        code = code[:, None].expand(-1, len(each), *code.shape[1:])
        if (v := along.get(name)) is not None:
            if not code.is_floating_point():
                raise _discrete(name, guide)
            if each.ndim != 2 or v.shape != (each.shape[1], *code.shape[2:]):
                raise PvaeError(
                    f"The directions of {name!r} have shape {list(v.shape)}, for {each.shape[-1]} "
                    f"amounts and codes {list(code.shape[2:])}: give [A, *event] and [S, A]."
                )
            code = code + torch.tensordot(each.to(code), v.to(code), 1)
        moved[name] = code.flatten(0, 1)
    rows = [
        t.repeat_interleave(len(each), 0) if isinstance(t, Tensor) and len(t) == size else t
        for t in batch
    ]
    x = decode(model, moved, *rows, site=site).unflatten(0, (size, len(each)))
    return x[:, 0] if amounts.ndim == 1 else x
