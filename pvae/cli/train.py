"""`pvae run` and `pvae train`: train a pair; `run` evaluates and reports it too."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from pvae.callbacks import LOGGERS
from pvae.cli.command_line import parse
from pvae.cli.evaluate import save_evaluation
from pvae.cli.folder import check_folder, empty_folder, make_folder, remove_folder, run_argument
from pvae.cli.options import check_given, check_numbers, listed, load_data, options_of, take_given
from pvae.cli.report import save_report
from pvae.data import Data
from pvae.errors import PvaeError
from pvae.pair import Program, bind, name_of
from pvae.runs import build_pair, load_yaml, parameters, resolve, shared
from pvae.runtime import Group, locked
from pvae.training import fit, freeze, glorot, keep_source, warm_start, write_config

__all__ = ["run", "train"]


def run(argv: list[str]) -> None:
    """Trains a pair, evaluates it and writes the report."""
    _train("run", argv)


def train(argv: list[str]) -> None:
    """Trains a pair."""
    _train("train", argv)


def _train(command: str, argv: list[str]) -> None:
    config, early = parse(command, argv)
    check_numbers(config)
    group = Group()
    progress = config.pop("progress", True)
    with contextlib.ExitStack() as lock:  # no other process may use the folder until the end
        if early.resume and group.first:
            lock.enter_context(locked(early.resume))
        if early.out and group.first:
            check_folder(Path(early.out), early.overwrite)
        loggers = [LOGGERS[name]() for name in listed(config.get("logger"))]
        names = take_given(config)
        data = load_data(config, trust=early.trust) if group.first else None
        group.gather(None)  # process 0 downloads what is missing
        if data is None:
            data = load_data(config, trust=early.trust)
        else:
            print(f"data: {data.in_words}", flush=True)
        _set_event_shape(config, data)
        model, guide = build_pair(config)
        check_given(names, data, model)
        options = options_of(fit, config) | {"progress": progress, "callbacks": loggers}
        if early.resume and group.first:
            _set_epochs(Path(early.resume), config["epochs"])
        if not (early.resume and (Path(early.resume) / "checkpoint.pt").exists()):
            _initialise(model, guide, data, config, say=group.first)
        freeze(model, guide, listed(config.get("freeze")))
        group.gather(None)  # all have read what an older run may have had there
        out = Path(early.resume) if early.resume else None
        if out is None and group.first:  # now that nothing in the options can fail any more
            out = make_folder(early.out, f"{data.name}-{name_of(model)}")
            lock.enter_context(locked(out))
            empty_folder(out, early.overwrite)
            write_config(out, config)
            keep_source(out, config)
        out = group.from_first(out)
        if group.first:
            print(f"run folder: {out}", flush=True)
        try:
            fitted = fit(model, guide, data, **options, out=out, resume=bool(early.resume))
        except PvaeError:
            if group.first and not early.resume and not (out / "checkpoint.pt").exists():
                lock.close()
                remove_folder(out)  # nothing was trained, so the name is free again
            raise
        name = run_argument(out, config)
        if command == "train":
            if group.first:
                print(f"Evaluate the pair with `pvae evaluate {name}`.")
            return
        try:
            options = config | {"progress": progress, "precision": "float32"}  # not the training's
            evaluation = save_evaluation(out, model, guide, data, options)
            if group.first:
                save_report(
                    out, evaluation, model=model, guide=guide, data=data,
                    history=fitted.history, config=config,
                )  # fmt: skip
        except KeyboardInterrupt:
            if group.first:
                print(
                    f"The trained pair is kept. Continue with `pvae evaluate {name}`, then "
                    f"`pvae report {name}`.",
                    file=sys.stderr,
                )
            raise


def _set_event_shape(config: dict[str, Any], data: Data) -> None:
    """Writes the data's shape into the arguments of constructors that take it."""
    names = {side: config[side]["class_path"] for side in ("model", "guide")}
    sides = ["model"] if shared(*names.values()) else list(names)
    for side in sides:
        target = resolve(names[side], f"{side}s")
        if isinstance(target, type) and "event_shape" in parameters(target):
            init_args = config[side]["init_args"]
            config[side]["init_args"] = {"event_shape": list(data.event_shape)} | init_args


def _set_epochs(run: Path, epochs: int) -> None:
    """Writes the number of epochs into the config of a resumed run."""
    former = load_yaml(run)
    if former.get("epochs") != epochs:
        write_config(run, former | {"epochs": epochs})


def _initialise(
    model: Program, guide: Program, data: Data, config: dict[str, Any], say: bool
) -> None:
    """Sets the initial parameters that depend on the data or on another run."""
    if config.get("init") == "glorot":
        x = data.train.only(["x"]).tensors() if "x" in data.train.fields else ()
        glorot(model, guide, *x)
    if hasattr(model, "start_from"):
        part, (start_from,) = bind(data.train, model.start_from)
        start_from(*part.tensors())
    for run in listed(config.get("from")):
        taken = warm_start(model, guide, run)
        if say:
            print(f"from {run}: {len(taken)} parameters and buffers", flush=True)
