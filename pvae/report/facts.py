"""The facts of a report: sizes, options that apply, dates, durations and versions."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from pvae.drawing import text
from pvae.evaluation import Evaluation, rounded_in_words
from pvae.report.subject import Subject
from pvae.version import __version__

__all__ = ["applying", "made", "sizes", "versions"]

_NEEDS = {
    "channels": ("network", {"conv"}),
    "hidden_dims": ("network", {"dense"}),
    "label_samples": ("bayes_rule", None), "rejected": ("bayes_rule", None),
    "inpaint_data": ("inpaint", None), "foreign_data": ("foreign", None),
    "patience": ("data.validation", None), "data.balanced": ("data.labelled", None),
}  # fmt: skip
_OF_ANNEALING = ("num_chains", "num_temperatures", "num_leapfrog")
_NOTHING = ("", "0", "0.0", "False", text.NONE, "None")


def applying(options: Mapping[str, str]) -> dict[str, str]:
    """Returns the options that have an effect: without unset ones and those of what is not used.

    Args:
        options: Values by dotted name, as `pvae.drawing.text.flatten` gives them.

    Example:
        >>> applying({"model.network": "dense", "model.channels": "[64]", "ais": "0", "lr": "1"})
        {'model.network': 'dense', 'lr': '1'}
    """

    def applies(name: str) -> bool:
        side, _, last = name.rpartition(".")
        key = name if name in _NEEDS else last
        if name in _OF_ANNEALING:
            return any(options.get(each, "0") not in _NOTHING for each in ("ais", "bdmc"))
        if key not in _NEEDS:
            return True
        other, wanted = _NEEDS[key]
        other = f"{side}.{other}" if side and key == last else other
        if other not in options:
            return True
        value = options[other]
        return value in wanted if wanted else value not in _NOTHING

    def is_set(name: str, value: str) -> bool:
        return value not in _NOTHING or name.endswith("seed")  # a seed of 0 is one

    return {k: v for k, v in options.items() if is_set(k, v) and applies(k)}


def sizes(
    evaluation: Evaluation,
    subject: Subject,
    history: list[dict[str, Any]],
    config: dict[str, Any] | None,
) -> list[tuple[str, str]]:
    """Returns the sizes and options of the pair, its data and its training."""
    parts = subject.data if hasattr(subject.data, "train") else None
    held = getattr(parts, "validation", None)
    config = config or {}
    facts = {
        "model arguments": _arguments(config.get("model")),
        "guide arguments": _arguments(config.get("guide")),
        "observation": evaluation.data.get("observation"),
        "density": evaluation.data.get("density"),
        "one x": text.shape(subject.event) if subject.size else None,
        "training data": text.count(len(parts.train)) if parts else None,
        "validation data": text.count(len(held)) if held is not None else None,
        "evaluated data": text.count(len(evaluation.log_px)),
        "precision of the model": evaluation.precision
        and rounded_in_words(evaluation.precision, evaluation.num_samples),
        "epochs": text.count(len(history)) if history else config.get("epochs"),
        "batch size": config.get("batch_size"),
        "parameters": text.count(n) if (n := subject.parameters()) else None,
        "training seed": config.get("seed"),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _arguments(part: Any) -> str | None:
    """Returns the arguments of a model or a guide that apply, except the data's shape."""
    given = part.get("init_args") if isinstance(part, dict) else None
    plain = {
        name: str(value) for name, value in (given or {}).items()
        if value is not None and name != "event_shape" and not isinstance(value, dict)
    }  # fmt: skip
    kept = {n: v for n, v in plain.items() if n in applying({**plain, n: v}) or v in ("0", "False")}
    return ", ".join(f"{name} {value}" for name, value in kept.items()) or None


def made(evaluation: Evaluation, trained: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Returns when the pair was trained and evaluated, how long it took, and on what device."""
    found = (("trained", trained), ("evaluated", evaluation.made))
    return [(what, in_words(each)) for what, each in found if each]


def in_words(record: Mapping[str, Any]) -> str:
    """Returns a record of `pvae.runtime.Watch` in words.

    Example:
        >>> in_words({"date": "2026-11-28 09:30 UTC", "seconds": 192.0, "device": "CPU, 1 thread"})
        '2026-11-28 09:30 UTC, in 3 min 12 s, on CPU, 1 thread'
    """
    took = f"in {_duration(record['seconds'])}" if "seconds" in record else ""
    on = f"on {record['device']}" if "device" in record else ""
    return ", ".join(filter(None, (record.get("date", ""), took, on)))


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{text.count(hours)} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def versions() -> list[tuple[str, str]]:
    """Returns the versions of what computed the numbers."""
    found = [("pvae", __version__)]
    for name in ("pyro-ppl", "torch"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("Python", platform.python_version())]
