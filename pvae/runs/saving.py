"""Saves a trained pair as a folder to share: parameters, config, card; no code and no pickle."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyro

from pvae.errors import PvaeError, reason_of
from pvae.evaluation import Evaluation
from pvae.pair import (
    OwnParameters,
    Program,
    alone,
    given,
    modules,
    name_of,
    quiet,
    reach,
    trace_guide,
    trace_model,
)
from pvae.runs.build import build_pair
from pvae.runs.card import model_card
from pvae.runs.config import load_yaml
from pvae.runtime import atomic, own_random_state
from pvae.training import (
    FOLDER,
    WEIGHTS,
    config_of_pair,
    is_saved,
    keep_source,
    pair_state,
    read_state,
    restore_pair,
    write_config,
    write_weights,
)

__all__ = ["EXPORTED", "save"]

EXPORTED = "exported"
"""The folder of exported programs in a run or a saved pair."""

_CARD = "README.md"
_RESULTS = ("evaluation.json", "evaluation.nc")
_FILES = (WEIGHTS, _CARD, "config.yaml", *_RESULTS)


@alone
def save(
    pair: tuple[Program, Program] | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    data: Any = None,
    *,
    evaluation: Evaluation | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a trained pair as a folder that others can load with `pvae.load(folder)`.

    The folder has `model.safetensors`, the parameters and buffers of both programs, tied ones once;
    `config.yaml`, from which the pair is built again; `README.md`, a model card with the data, the
    bounds and the versions; the files of an evaluation; and in `source/` the files of programs
    that belong to no package. It is a run without its state of training: `pvae evaluate FOLDER`
    and `pvae run --from FOLDER` take it too.

    Args:
        pair: Model and guide; or the folder of a run, whose config and evaluation are taken. No
            code of the run is used.
        folder: A new or empty folder.
        data: What the pair was trained on: the result of `pvae.data.load` is named in the card and
            in the config. Or a batch, as for `pvae.check`. Only needed for programs that call
            `pyro.param`, whose values are in Pyro's store.
        evaluation: The pair's evaluation, for the card.
        overwrite: Whether to replace an older saved pair in the folder.

    Warns:
        UserWarning: pvae cannot build the pair again. Then `load(folder, model=..., guide=...)`
            sets the parameters of programs that its user makes. Or a run was trained after its
            evaluation, which is then left out.

    Raises:
        PvaeError: The folder holds anything but a saved pair, the pair is not one, or a file
            cannot be written.

    Example:
        >>> import tempfile, pvae
        >>> model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> folder = tempfile.mkdtemp()
        >>> pvae.save((model, guide), folder)
        >>> again, _ = pvae.load(folder)
        >>> all((a == b).all() for a, b in zip(again.parameters(), model.parameters()))
        True
    """
    out, why = Path(folder), ""
    if isinstance(pair, str | os.PathLike):
        if data is not None or evaluation is not None:
            raise PvaeError(
                f"The data and the evaluation of the run {pair} are in its folder: leave out data "
                "and evaluation."
            )
        run = Path(pair)
        (state, names), summary = read_state(run), _summary_of(run)
        config = load_yaml(run) if (run / "config.yaml").exists() else None
    else:
        run, (model, guide) = None, _as_pair(pair)
        names = [name_of(model), name_of(guide)]
        if evaluation is not None and [evaluation.model, evaluation.guide] != names:
            raise PvaeError(
                f"The evaluation is of {evaluation.model} and {evaluation.guide}, not of "
                f"{names[0]} and {names[1]}. Evaluate this pair."
            )
        state = pair_state(model, guide, _stored(model, guide, data))
        config, why = _config(model, guide, data, state)
        summary = None if evaluation is None else evaluation.summary()
    _check_folder(out, overwrite)
    write_weights(out / WEIGHTS, state, names)  # first: a folder with it may be overwritten
    written = {WEIGHTS, _CARD}
    for old in (FOLDER, EXPORTED):
        shutil.rmtree(out / old, ignore_errors=True)
    if config is not None:
        written.add("config.yaml")
        if run is None:
            write_config(out, config)
            keep_source(out, config)
        else:
            shutil.copyfile(run / "config.yaml", out / "config.yaml")
            if (run / FOLDER).is_dir():
                unused = shutil.ignore_patterns("__pycache__")
                shutil.copytree(run / FOLDER, out / FOLDER, ignore=unused)
    if evaluation is not None:
        evaluation.save(out)
        written.update(_RESULTS)
    elif summary is not None:
        for name in _RESULTS:
            if (run / name).exists():
                shutil.copyfile(run / name, out / name)
                written.add(name)
    with atomic(out / _CARD) as temporary:
        temporary.write_text(model_card(names, state, config, summary), encoding="utf-8")
    for name in {*_FILES} - written:
        (out / name).unlink(missing_ok=True)
    if config is None:
        why = why or "the run has no config.yaml"
        warnings.warn(
            f"pvae cannot build {names[0]} and {names[1]} again: {why}. Whoever loads {out} has to "
            "make them: pvae.load(folder, model=model, guide=guide).",
            stacklevel=3,
        )


def _as_pair(pair: Any) -> tuple[Program, Program]:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(callable, pair)):
        raise PvaeError(
            "Give save a pair, (model, guide), or the folder of a run: "
            "pvae.save((model, guide), folder)."
        )
    return pair[0], pair[1]


def _stored(model: Program, guide: Program, data: Any) -> set[str]:
    """Returns the names of the pair's parameters in Pyro's store, those of `pyro.param`."""
    store = pyro.get_param_store()._params
    own = {id(p) for module in modules(model, guide).values() for p in module.parameters()}
    others = sorted(name for name, leaf in store.items() if id(leaf) not in own)
    if not others or "param" not in reach(model, guide).names:
        return set()
    if data is None:
        raise PvaeError(
            f"The programs call pyro.param, and Pyro's store has {', '.join(others[:6])}"
            f"{', …' if others[6:] else ''}. To see which of these are the pair's, pvae has to run "
            "it: give some data, as in pvae.save((model, guide), folder, x)."
        )
    part, programs = given(data, {}, None, model, guide)
    batch = part.observe(slice(8))
    with own_random_state(0), quiet(model, guide), OwnParameters(model, guide) as owner:
        trace_model(programs[0], trace_guide(programs[1], *batch), *batch)
        return set(owner.stored)


def _config(
    model: Program, guide: Program, data: Any, state: dict[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """Returns a config that builds the pair; or None, and why there is none."""
    found = config_of_pair(model, guide, data)
    if found is None:
        return None, (
            "their classes or functions cannot be imported, or their constructors' arguments are "
            "not known or not plain"
        )
    config = {**found, "seed": 0}
    if not any(":" in found[side]["class_path"] for side in ("model", "guide")):
        try:  # not of a file, which would run again, and may train
            with own_random_state(0):
                restore_pair(*build_pair(config), {**state, "params": {}}, "memory")
        except PvaeError as error:
            return None, reason_of(error).rstrip(".")
    return config, ""


def _summary_of(run: Path) -> dict[str, Any] | None:
    """Returns a run's evaluation.json, unless the run was trained again after it."""
    path, checkpoint = run / "evaluation.json", run / "checkpoint.pt"
    if not path.exists():
        return None
    times = [p.stat().st_mtime for p in (checkpoint, run / "evaluation.nc") if p.exists()]
    if len(times) == 2 and times[0] > times[1]:
        warnings.warn(
            f"{run} was trained after its evaluation, which is left out. Run `pvae evaluate {run}` "
            "and save it again.",
            stacklevel=4,
        )
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PvaeError(
            f"{path} is damaged ({reason_of(error)}). `pvae report {run}` writes it again."
        ) from error


def _check_folder(out: Path, overwrite: bool) -> None:
    """Refuses a folder with any content, except a saved pair that may be overwritten."""
    try:
        content = sorted(path.name for path in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise PvaeError(f"Cannot use {out} as a folder: {error.strerror}.") from None
    if "checkpoint.pt" in content:
        raise PvaeError(f"{out} is the folder of a run. Choose a new folder for the saved pair.")
    if content and not is_saved(out):
        some = f"{', '.join(content[:3])}{', …' if content[3:] else ''}"
        raise PvaeError(f"{out} has content ({some}) but no saved pair. Choose a new folder.")
    if content and not overwrite:
        raise PvaeError(
            f"{out} has a saved pair already. Choose another folder, or pass overwrite=True."
        )
