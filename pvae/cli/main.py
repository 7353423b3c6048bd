"""The shell: `pvae run | train | evaluate | report | ...`, options from type hints."""

import contextlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvae.cli.folder import (
    RUN_FILES,
    check_folder,
    empty_folder,
    make_folder,
    remove_folder,
)
from pvae.cli.options import (
    HELP_OF,
    SIDES,
    UsageError,
    add_evaluation,
    estimators_of,
    load_data,
    names_of_evaluation,
    new_parser,
    options_of,
    parse,
    values,
)
from pvae.errors import PvaeError, nearest
from pvae.version import __version__

__all__ = ["main"]

HELP = """\
usage: pvae COMMAND [OPTIONS]

commands:
  run            train a pair, evaluate it and write the report
                 (with no option: digits, a dense VAE, a mean-field guide)
  train          train a pair
  evaluate RUN   bounds on log p(x) for a trained run
  report RUN     write the report of an evaluated run anew
  compare RUN RUN ...
                 bounds of evaluated runs on the same data, against the first
  list           the models, guides and data sets with a name
  new NAME       write a model, a guide and a test to begin with
  check MODEL GUIDE
                 say what a pair is, and what is wrong with it

options:
  -h, --help     show this message; `pvae COMMAND --help` lists a command's options
  --version      show the version

examples:
  pvae run --data mnist --model.latent_dim 20 --epochs 50
  pvae run --model path/to/file.py:MyModel --guide path/to/file.py:MyGuide
  pvae run --config runs/digits-VAE-1/config.yaml
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the shell's command line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit code: 0, 1 after a `PvaeError`, 2 for a command line that cannot be
        understood, 130 when interrupted. Any other exception is a bug and is let through.
    """
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"pvae: warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):  # cp1252, say, has no k̂
        sys.stdout.reconfigure(errors="replace")
    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except PvaeError as error:
        print(f"pvae: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = shown


def _main(argv: list[str]) -> int:
    from pvae.cli.own import check_pair, write_pair

    commands: dict[str, Callable[[list[str]], int | None]] = {
        "run": lambda rest: _run("run", rest),
        "train": lambda rest: _run("train", rest),
        "evaluate": _evaluate,
        "report": _report,
        "compare": _compare,
        "list": _list,
        "new": write_pair,
        "check": check_pair,
    }
    if argv and argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif argv and argv[0] == "--version":
        print(f"pvae {__version__}")
    elif argv and argv[0] in commands:
        return commands[argv[0]](argv[1:]) or 0
    elif argv:
        raise UsageError(f"there is no command {argv[0]}. {nearest(argv[0], commands)}")
    else:
        print(HELP, end="", file=sys.stderr)
        return 2
    return 0


def _run(command: str, argv: list[str]) -> None:
    with contextlib.ExitStack() as lock:  # the folder is this process's to the end
        _train(command, argv, lock)


def _train(command: str, argv: list[str], lock: contextlib.ExitStack) -> None:
    from pvae.pair import bind, name_of
    from pvae.runs import build_pair, parameters, resolve, shared
    from pvae.runtime import locked, processes
    from pvae.training import fit, glorot, keep_source, write_config

    config, early = parse(command, argv)
    _check_numbers(config)
    if processes()[1] > 1:
        raise UsageError(
            f"`pvae {command}` trains in one process; `torchrun ... -m pvae evaluate RUN` shares "
            "an evaluation out over several"
        )
    progress = config.pop("progress", True)
    if early.resume:
        lock.enter_context(locked(early.resume))
    if early.out:
        check_folder(Path(early.out), early.overwrite)
    data = load_data(config)
    print(f"data: {data.in_words}", flush=True)
    for side in SIDES:
        target = resolve(config[side]["class_path"], f"{side}s")
        if side == "guide" and shared(*(config[side]["class_path"] for side in SIDES)):
            continue
        if isinstance(target, type) and "event_shape" in parameters(target):
            init_args = config[side]["init_args"]
            config[side]["init_args"] = {"event_shape": list(data.event_shape)} | init_args
    model, guide = build_pair(config)
    options = options_of(fit, config) | {"progress": progress}  # a folder is made when all is built
    if early.resume:
        _lengthen(Path(early.resume), config)
    if not (early.resume and (Path(early.resume) / "checkpoint.pt").exists()):
        if config.get("init") == "glorot":
            x = data.train.only(["x"]).tensors() if "x" in data.train.fields else ()
            glorot(model, guide, *x)
        if hasattr(model, "start_from"):
            part, (start_from,) = bind(data.train, model.start_from)
            start_from(*part.tensors())
    if early.resume:
        out = Path(early.resume)
    else:
        out = make_folder(early.out, f"{data.name}-{name_of(model)}")
        lock.enter_context(locked(out))
        empty_folder(out, early.overwrite)
        write_config(out, config)
        keep_source(out, config)
    print(f"run folder: {out}", flush=True)
    try:
        fitted = fit(model, guide, data, **options, out=out, resume=bool(early.resume))
    except PvaeError:
        if not early.resume and not (out / "checkpoint.pt").exists():
            lock.close()
            remove_folder(out)  # nothing was trained, and the name is free again
        raise
    if command == "train":
        print(f"`pvae evaluate {_typed(out, config)}` evaluates the pair")
        return
    try:
        evaluation = _save_evaluation(out, model, guide, data, config | {"progress": progress})
        _write_report(out, evaluation, model, guide, data, fitted.history, config)
    except KeyboardInterrupt:
        run = _typed(out, config)
        hint = f"`pvae evaluate {run}`, then `pvae report {run}`"
        print(f"the trained pair is kept: {hint} do the rest", file=sys.stderr)
        raise


def _lengthen(run: Path, config: dict[str, Any]) -> None:
    """Writes another number of epochs into the config of a resumed run."""
    from pvae.runs import load_yaml
    from pvae.training import write_config

    former = load_yaml(run)
    if former.get("epochs") == config["epochs"]:
        return
    print(
        f"{config['epochs']} epochs in place of {former.get('epochs')}: from here on the learning "
        f"rate follows the schedule {config['schedule']!r} of a run of {config['epochs']} epochs"
    )
    write_config(run, former | {"epochs": config["epochs"]})


def _check_numbers(config: dict[str, Any]) -> None:
    from pvae.evaluation import check_counts
    from pvae.runtime import check_memory, check_seed

    try:
        check_counts(config.get("num_samples", 1), config.get("num_data"))
        estimators_of(config)
        check_memory(config.get("memory"))
        check_seed(config.get("seed", 0))
    except PvaeError as error:
        raise UsageError(f"--{error}") from None


def _require(run: Path, name: str, command: str) -> None:
    if not (run / name).is_file():
        raise PvaeError(f"{run} has no {name}: `{command}` makes it")


def _evaluate(argv: list[str]) -> None:
    from pvae.runs import read_config
    from pvae.runtime import locked, processes

    parser = new_parser("evaluate")
    parser.add_argument("run", metavar="RUN", type=str, help="The folder of a trained run.")
    add_evaluation(parser, {"out"})
    _add_trust(parser)
    given = values(parser, argv, defaults=False)
    trust = given.pop("trust", False)
    run = Path(given.pop("run"))
    if run.is_file():
        raise PvaeError(f"{run} is a file: name the run's folder")
    read_config(run, trust=trust)
    with locked(run if processes()[0] == 0 else None):
        _evaluate_run(run, given, trust)


def _evaluate_run(run: Path, given: dict[str, Any], trust: bool) -> None:
    import pvae
    from pvae.evaluation import half_done
    from pvae.runs import read_config
    from pvae.runtime import processes
    from pvae.training import write_config

    config = read_config(run, trust=trust)
    _require(run, "checkpoint.pt", f"pvae train --resume {run}")
    _check_numbers(given)
    # An evaluation is added to: its seed and num_samples hold unless others are typed.
    former = {}
    if half_done(run) is None:  # else its options are in the config
        with contextlib.suppress(PvaeError):
            evaluation = pvae.Evaluation.load(run)
            former = {"seed": evaluation.seed}
            if evaluation.bounds:  # a guide that gives a point has none
                former["num_samples"] = list(evaluation.bounds)
    # The config keeps the evaluation's options, for --config and for the next time. Options that
    # training has too (the seed, the device) stay those of the training.
    names = names_of_evaluation() - {"memory", "strategy"}
    asked = {key: value for key, value in given.items() if key in names}
    if asked and processes()[0] == 0:
        write_config(run, config | asked)
    data = load_data(config)
    if processes()[0] == 0:
        print(f"data: {data.in_words}", flush=True)
    model, guide = pvae.load(run, trust=trust)
    _save_evaluation(run, model, guide, data, config | former | given)
    if processes()[0] == 0:
        print(f"`pvae report {_typed(run, config)}` renders it")


def _add_trust(parser: Any) -> None:
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])


def _typed(run: Path, config: dict[str, Any]) -> str:
    """Returns a run for a command line, with `--trust` if its config needs it."""
    from pvae.runs import names_of, trusted

    return f"{run}" if trusted(names_of(config)) else f"{run} --trust"


def _report(argv: list[str]) -> None:
    import pvae
    from pvae.runs import read_config, read_history

    parser = new_parser("report")
    parser.add_argument("run", metavar="RUN", type=str, help="The folder of an evaluated run.")
    parser.add_argument(
        "--site", metavar="NAME", type=str | None,
        help="The observed site that pictures show (default: that with the most values).",
    )  # fmt: skip
    _add_trust(parser)
    given = values(parser, argv)
    run, trust = Path(given["run"]), given["trust"]
    config = read_config(run, trust=trust)
    _require(run, "checkpoint.pt", f"pvae train --resume {run}")
    evaluation = pvae.Evaluation.load(run)
    evaluation.save_summary(run)
    model, guide = pvae.load(run, trust=trust)
    history, site = read_history(run), given.get("site")
    _write_report(run, evaluation, model, guide, load_data(config), history, config, site)


def _compare(argv: list[str]) -> None:
    parser = new_parser("compare")
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=str,
        help="Two or more folders of evaluated runs; the first is the reference.",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", type=str, default="compare.html", help="The page to write."
    )
    given = values(parser, argv)
    if len(given["runs"] or []) < 2:
        raise UsageError("a comparison needs two runs or more: `pvae compare RUN RUN`")
    if Path(given["out"]).is_dir():
        raise UsageError(f"--out {given['out']}: this is a folder; name a file, such as a.html")
    out = Path(given["out"])
    if out.name in RUN_FILES or (out.exists() and out.suffix != ".html"):
        raise UsageError(f"--out {out}: this is another file; name a new one, such as a.html")

    from pvae.evaluation import compare, read_runs
    from pvae.report import write_comparison

    comparison = compare(read_runs(given["runs"]))
    print(comparison.table())
    print(f"figure: {write_comparison(given['out'], comparison)}")


def _list(argv: list[str]) -> None:
    import pvae.data
    import pvae.guides
    import pvae.models
    from pvae.data import SETS

    values(new_parser("list"), argv)
    for title, module in (("models", pvae.models), ("guides", pvae.guides)):
        print(f"{title}:")
        for name in sorted(module.__all__, key=str.lower):
            print(f"  {name:<18} {_first_line(getattr(module, name))}")
    print("data sets:")
    for name in pvae.data.names():
        known = SETS.get(name)
        kind = f"torchvision's {known.kind}" if known else "scikit-learn's digits"
        text = f"{kind}, {known.observation if known else 'dynamic'}"
        print(f"  {name:<18} {text}")
    print("or a .npy, .npz or .pt file; `pvae run --help` says how data are observed")


def _first_line(target: object) -> str:
    return (inspect.getdoc(target) or "").partition("\n")[0]


def _save_evaluation(run: Path, model: Any, guide: Any, data: Any, config: dict[str, Any]) -> Any:
    import pvae
    from pvae.runtime import processes

    options = options_of(pvae.evaluate, config) | {"estimators": estimators_of(config)}
    evaluation = pvae.evaluate(model, guide, data, **options, out=run)
    if processes()[0] == 0:
        print(evaluation.table())
    return evaluation


def _write_report(
    run: Path,
    evaluation: Any,
    model: Any,
    guide: Any,
    data: Any,
    history: Any,
    config: Any,
    site: str | None = None,
) -> None:
    from pvae.report import write_report

    path = run / "report.html"
    write_report(
        path, evaluation, model=model, guide=guide, data=data, history=history, config=config,
        site=site,
    )  # fmt: skip
    print(f"report: {path}")
