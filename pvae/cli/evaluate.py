"""`pvae evaluate`: bounds log p(x) for a trained run."""

import contextlib
from pathlib import Path
from typing import Any

import pvae
from pvae.cli.folder import require_checkpoint, run_argument
from pvae.cli.options import (
    add_evaluation,
    check_numbers,
    estimators_of,
    load_data,
    names_of_evaluation,
    options_of,
)
from pvae.cli.parser import new_parser, values
from pvae.cli.usage import HELP_OF
from pvae.data import Data
from pvae.errors import PvaeError
from pvae.evaluation import Evaluation, asked_before, half_done
from pvae.pair import Program
from pvae.runs import read_config
from pvae.runtime import locked, processes
from pvae.training import write_config

__all__ = ["evaluate", "save_evaluation"]


def evaluate(argv: list[str]) -> None:
    """Evaluates a trained run, or adds to its evaluation."""
    parser = new_parser("evaluate", "RUN")
    parser.add_argument("run", metavar="RUN", type=str, help="The folder of a trained run.")
    add_evaluation(parser, {"out"})
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    given = values(parser, argv, defaults=False)
    trust, run = given.pop("trust", False), Path(given.pop("run"))
    if run.is_file():
        raise PvaeError(f"{run} is a file: name the run's folder.")
    read_config(run, trust=trust)
    with locked(run if processes()[0] == 0 else None):
        _evaluate(run, given, trust)


def _evaluate(run: Path, given: dict[str, Any], trust: bool) -> None:
    config = read_config(run, trust=trust)
    require_checkpoint(run)
    check_numbers(given)
    # The new evaluation continues or adds to the old one, whose seed, num_samples and precision
    # are the defaults.
    former = {name: value for name, value in asked_before(run).items() if value != []}
    if half_done(run) is None:
        with contextlib.suppress(PvaeError):
            evaluation = Evaluation.load(run)
            former = {"seed": evaluation.seed}
            if evaluation.precision:
                former["precision"] = evaluation.precision["products"]
            if evaluation.bounds:  # a guide of points has none
                former["num_samples"] = list(evaluation.bounds)
    # The config keeps the options of the evaluation, for --config and for the next evaluation.
    # Options that training has too (the seed, the device) keep the values of the training.
    names = names_of_evaluation() - {"memory", "strategy"}
    kept = {key: value for key, value in given.items() if key in names}
    first = processes()[0] == 0
    if kept and first:
        write_config(run, config | kept)
    data = load_data(config, trust=trust)
    if first:
        print(f"data: {data.in_words}", flush=True)
    model, guide = pvae.load(run, trust=trust)
    config.pop("precision", None)  # of the training
    save_evaluation(run, model, guide, data, config | former | given)
    if first:
        print(f"Write the report with `pvae report {run_argument(run, config)}`.")


def save_evaluation(
    run: Path, model: Program, guide: Program, data: Data, config: dict[str, Any]
) -> Evaluation:
    """Evaluates a pair into a run folder, and prints the table."""
    options = options_of(pvae.evaluate, config) | {"estimators": estimators_of(config)}
    evaluation = pvae.evaluate(model, guide, data, **options, out=run)
    if processes()[0] == 0:
        print(evaluation.table())
    return evaluation
