"""compare(): the bounds of several runs on the same test data, datum by datum."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.compared import Bound, Compared, Difference
from pvae.evaluation.numbers import mean_and_se
from pvae.evaluation.result import Evaluation
from pvae.evaluation.wording import caution, count_data, in_words, words

__all__ = ["Comparison", "compare", "read_runs"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs on the same test data, each compared with the first, the reference.

    Attributes:
        runs: The runs, the reference first.
        num_samples: K, the largest that all runs have a bound for.
        data: `name`, `observation` and `hash` of the data.
        caveat: Why these numbers are not likelihoods; None if they are.
        notes: How far the differences can be trusted.
    """

    runs: tuple[Compared, ...]
    num_samples: int
    data: dict[str, str]
    caveat: str | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.runs[0].elbo.values)

    def table(self) -> str:
        """Returns the comparison for a terminal: a table, and what it says in words."""
        runs, width = self.runs, max(len(run.name) for run in self.runs) + 2
        number = text.number
        label = "not a likelihood, nats per datum" if self.caveat else "nats per datum"
        what = f"{self.data['name']} ({self.data['observation']}, {count_data(len(self))})"
        lines = [f"{what}: differences from {runs[0].name}, {label}"]
        columns = {
            f"L_{self.num_samples}": [r.log_px for r in runs],
            "ELBO": [r.elbo for r in runs],
        }
        columns |= {name: [run.scores[name] for run in runs] for name in runs[0].scores}
        width = max(width, *(len(title) + 2 for title in columns))
        for title, bounds in columns.items():
            differences = [bound.difference for bound in bounds]
            lines.append(
                f"{title:<{width}}{'mean':>9}{'± se':>8}{'difference':>12}{'± se':>8}"
                f"{'unpaired':>10}{'95% interval':>19}{'higher on':>11}"
            )
            places = text.decimals(*(bound.se for bound in bounds))
            fine = text.decimals(*(d.se for d in differences if d is not None))
            for run, bound, d in zip(runs, bounds, differences, strict=True):
                cells = [(number(bound.mean, places), 9), (number(bound.se, places), 8)]
                if d is not None:
                    cells += [(number(d.mean, fine, sign=True), 12), (number(d.se, fine), 8)]
                    cells += [(number(d.unpaired_se, fine), 10), (d.interval(fine), 19)]
                    cells += [(text.percent(d.higher), 11)]
                row = f"{run.name:<{width}}" + "".join(f"{cell:>{wide}}" for cell, wide in cells)
                lines.append(row)
        for run in runs:
            khat = f"k̂ above {run.khat_threshold:.2f} for {text.percent(run.above_threshold)}"
            samples = f"{run.num_samples} samples each, {khat} of the data"
            if run.constant:
                samples = "whose log w is the same for every sample"
            lines.append(f"{run.name}: {run.model} with {run.guide}, {samples}")
        said = [run.words for run in runs[1:]]
        return "\n".join([*lines, *said, *self.notes] + ([self.caveat] if self.caveat else []))

    def __str__(self) -> str:
        return self.table()


def compare(evaluations: Mapping[str, Evaluation]) -> Comparison:
    """Compares the bounds of two or more pairs that were evaluated on the same data.

    Each datum is its own control: most of the spread of log p(x) over the data is common to all
    runs and cancels in the difference, so the difference is known better than either mean.

    A difference between lower bounds is a difference between likelihoods only if both are equally
    tight; `words` says if they may not be. A density of x cannot be compared with a probability of
    x, and nothing here can tell them apart.

    Args:
        evaluations: Evaluations by name; the first is the reference.

    Returns:
        The differences at the largest K that all evaluations share, and those of the ELBO.

    Raises:
        PvaeError: If there are fewer than two, if their data differ, if one has no bound, or if
            some have a caveat and others none.

    Source: Box, Hunter & Hunter 2005, *Statistics for Experimenters*, ch. 3 (paired comparison).

    Example:
        >>> from pvae import compare, data, evaluate, guides, models
        >>> digits = data.load("digits")
        >>> shape, few = digits.event_shape, {"num_samples": 5, "progress": False}
        >>> found = {
        ...     name: evaluate(models.VAE(shape), guides.MeanField(shape), digits, **few)
        ...     for name in ("a", "b")
        ... }
        >>> compare(found).num_samples  # print it for the table
        5
    """
    _check(evaluations)
    shared = sorted(set.intersection(*(set(e.bounds) for e in evaluations.values())))
    if not shared:
        raise PvaeError(
            f"No K has a bound in all of {in_words(list(evaluations))}. Evaluate all with the same "
            "num_samples."
        )
    runs: list[Compared] = []
    scores = _scores(evaluations)
    for name, evaluation in evaluations.items():
        known = evaluation.khat[~np.isnan(evaluation.khat)]
        above = float((known > evaluation.khat_threshold).mean()) if len(known) else math.nan
        run = Compared(
            name=name,
            model=evaluation.model,
            guide=evaluation.guide,
            num_samples=evaluation.num_samples,
            khat_threshold=evaluation.khat_threshold,
            above_threshold=0.0 if evaluation.constant else above,
            constant=evaluation.constant,
            log_px=_bound(evaluation.bounds[shared[-1]], runs[0].log_px if runs else None),
            elbo=_bound(evaluation.elbo, runs[0].elbo if runs else None),
            scores={
                title: _bound(values[name], runs[0].scores[title] if runs else None)
                for title, values in scores.items()
            },
        )
        if d := run.log_px.difference:
            said = words(run, runs[0], d, f"L_{shared[-1]}") + caution(run, runs[0], d.verdict)
            run = replace(run, words=said)
        runs.append(run)
    parts = [evaluation.data for evaluation in evaluations.values()]
    return Comparison(
        runs=tuple(runs),
        num_samples=shared[-1],
        data={
            key: ", ".join(dict.fromkeys(part[key] for part in parts))
            for key in ("name", "observation", "hash")
        },
        caveat=next(iter(evaluations.values())).caveat,
        notes=tuple(_notes(evaluations, shared)),
    )


def read_runs(folders: Iterable[str | os.PathLike[str]]) -> dict[str, Evaluation]:
    """Reads evaluated run folders, by name; names include parents until they differ.

    Raises:
        PvaeError: If there are fewer than two folders, the same one twice, or one without an
            evaluation.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise PvaeError("A comparison needs two runs or more: `pvae compare RUN RUN`.")
    places = [folder.resolve() for folder in folders]
    if twice := [
        f"{f}" for f, place in zip(folders, places, strict=True) if places.count(place) > 1
    ]:
        raise PvaeError(f"The same folder is given more than once: {in_words(twice)}.")
    for folder in folders:
        if not folder.is_dir():
            raise PvaeError(f"There is no run folder {folder}.")
    names, depth = [place.name for place in places], 1
    while len(set(names)) < len(names):
        depth += 1
        names = [
            "/".join(place.parts[-depth:]) if names.count(name) > 1 else name
            for place, name in zip(places, names, strict=True)
        ]
    return {name: Evaluation.load(folder) for name, folder in zip(names, folders, strict=True)}


def _check(evaluations: Mapping[str, Evaluation]) -> None:
    if not isinstance(evaluations, Mapping):
        raise PvaeError("compare takes a dict of evaluations by name, {'a': first, 'b': second}.")
    if len(evaluations) < 2:
        raise PvaeError("A comparison needs two evaluations or more.")
    points = [name for name, evaluation in evaluations.items() if "code" in evaluation.findings]
    if points:
        raise PvaeError(
            f"{in_words(points)} {'has' if len(points) == 1 else 'have'} no bound on log p(x) to "
            "compare: the guide gives a point, which has no density. Compare what `pvae evaluate "
            "RUN --ais 100` says of each, or train a guide with a density for the same model, such "
            "as MeanField."
        )
    labelled = [name for name, evaluation in evaluations.items() if evaluation.caveat]
    others = [name for name in evaluations if name not in labelled]
    if labelled and others:
        raise PvaeError(
            f"The numbers of {in_words(labelled)} are not a likelihood and those of "
            f"{in_words(others)} are, so they cannot be compared. Train all on the same kind of "
            "data (--data.observation)."
        )
    densities = {name: e.data.get("density", "p(x)") for name, e in evaluations.items()}
    if len(set(densities.values())) > 1:
        each = ", ".join(f"{name} of {density}" for name, density in densities.items())
        raise PvaeError(
            f"The runs are not of the same density: {each}. What is given costs nothing to "
            "explain, so their numbers cannot be compared."
        )
    if len({(e.data["hash"], len(e)) for e in evaluations.values()}) > 1:
        parts = ", ".join(
            f"{name} on {e.data['name']} ({e.data['observation']}, {count_data(len(e))}, hash "
            f"{e.data['hash'][:8]}…)"
            for name, e in evaluations.items()
        )
        raise PvaeError(
            f"The runs were not evaluated on the same data: {parts}. Evaluate all on the same "
            "data with the same --data.seed: repeat a run with the data options of the other, as "
            "in `pvae run --config RUN/config.yaml --data.seed SEED`."
        )


def _bound(values: np.ndarray, reference: Bound | None = None) -> Bound:
    mean, se = _mean_and_se(values)
    if reference is None:
        return Bound(values, mean, se, None)
    with np.errstate(invalid="ignore"):  # -inf - -inf
        d = values - reference.values
    d_mean, d_se = _mean_and_se(d)
    half = float(stdtrit(len(d) - 1, 0.975)) * d_se if len(d) > 1 else math.nan
    difference = Difference(
        values=d,
        mean=d_mean,
        se=d_se,
        unpaired_se=math.hypot(se, reference.se),
        low=d_mean - half,
        high=d_mean + half,
        higher=float((values > reference.values).mean()),
    )
    return Bound(values, mean, se, difference)


def _scores(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores of findings that all runs have on the same data, by title and run."""
    found: dict[str, dict[str, np.ndarray]] = {}
    first = next(iter(evaluations.values()))
    for key, finding in first.findings.items():
        others = {name: e.findings.get(key) for name, e in evaluations.items()}
        if all(o is not None and np.array_equal(o.datum, finding.datum) for o in others.values()):
            scores = {name: other.scores() for name, other in others.items()}
            for title in finding.scores():
                if all(title in each for each in scores.values()):
                    found[title] = {name: each[title] for name, each in scores.items()}
    return found


def _mean_and_se(values: np.ndarray) -> list[float]:
    return [math.nan if v is None else v for v in mean_and_se(values).values()]


def _notes(evaluations: Mapping[str, Evaluation], shared: Sequence[int]) -> Iterator[str]:
    k = shared[-1]
    sampled = {name: e for name, e in evaluations.items() if not e.constant}
    if len({e.num_samples for e in sampled.values()}) > 1:
        each = ", ".join(f"{name} {e.num_samples}" for name, e in sampled.items())
        yield (
            f"The runs have different numbers of samples ({each}). They are compared at K = {k}, "
            "the largest K with a bound in all of them; k̂ is from all samples of a run. "
            "Evaluate all with the same --num_samples for tighter bounds."
        )
    products = {name: (e.precision or {}).get("products") for name, e in evaluations.items()}
    if len(set(products.values())) > 1:
        each = ", ".join(f"{name} in {kind or 'float32'}" for name, kind in products.items())
        yield (
            f"The models' products were computed in different precisions: {each}. Each evaluation "
            "says by how much its bound moved."
        )
    if len(shared) > 1 and sampled:
        before = shared[-2]
        rises = ", ".join(
            f"{name} by {text.number(_bound(e.bounds[k]).mean - _bound(e.bounds[before]).mean)}"
            for name, e in sampled.items()
        )
        yield (
            f"From K = {before} to K = {k} the bounds rose, in nats: {rises}. A bound that still "
            "rises is not tight; the one that rises most is likely to be the loosest."
        )
    yield (
        "± is a standard error over the data. It includes the choice of test data and the "
        "evaluation's samples, but not the training: another --seed changes a run too. Compare "
        "several seeds before you credit a design."
    )
    if len(evaluations) > 2:
        yield "Each interval covers its own difference with 95%, not all of them together."
