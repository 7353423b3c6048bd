"""`pvae report` and `pvae compare`: write a run's report, and the page of several runs."""

import shlex
import warnings
from pathlib import Path
from typing import Any

import pvae
from pvae.cli.folder import RUN_FILES, require_checkpoint
from pvae.cli.options import load_data
from pvae.cli.parser import new_parser, values
from pvae.cli.repeat import command_of
from pvae.cli.usage import HELP_OF, UsageError
from pvae.errors import PvaeError
from pvae.evaluation import read_runs
from pvae.report import write_comparison
from pvae.runs import read_config, read_history, read_made

__all__ = ["compare", "report", "save_report"]


def report(argv: list[str]) -> None:
    """Writes the report of an evaluated run, or one page of several runs."""
    parser = new_parser("report", "RUN [RUN ...]")
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=str,
        help="The folder of an evaluated run. Several are compared on one page, the first is the "
        "reference.",
    )  # fmt: skip
    parser.add_argument(
        "--site", metavar="NAME", type=str | None,
        help="The observed site that the pictures show (default: the site with the most values).",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", type=str, default="compare.html", help="The page of several runs."
    )
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    given = values(parser, argv)
    runs, trust = given["runs"] or [], given["trust"]
    if not runs:
        raise UsageError("Name the folder of an evaluated run: `pvae report RUN`.")
    if len(runs) > 1:
        _several(runs, given["out"], trust, given.get("site"))
        return
    run = Path(runs[0])
    config = read_config(run, trust=trust)
    require_checkpoint(run)
    evaluation = pvae.Evaluation.load(run)
    evaluation.save_summary(run)
    model, guide = pvae.load(run, trust=trust)
    save_report(
        run, evaluation, model=model, guide=guide, data=load_data(config, trust=trust),
        history=read_history(run), config=config, site=given.get("site"),
    )  # fmt: skip


def save_report(run: Path, evaluation: Any, **context: Any) -> None:
    """Writes a run's report; `context` has the other arguments of `pvae.write_report`."""
    context |= {"trained": read_made(run), "command": command_of(context["config"])}
    pvae.write_report(run / "report.html", evaluation, **context)
    print(f"report: {run / 'report.html'}")


def compare(argv: list[str]) -> None:
    """Prints the comparison of several evaluated runs and writes it as a page."""
    parser = new_parser("compare", "RUN RUN ...")
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=str,
        help="Two or more folders of evaluated runs; the first is the reference.",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", type=str, default="compare.html", help="The page to write."
    )
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    given = values(parser, argv)
    if len(given["runs"] or []) < 2:
        raise UsageError("A comparison needs two or more runs: `pvae compare RUN RUN`.")
    _several(given["runs"], given["out"], given["trust"])


def _several(runs: list[str], page: str, trust: bool, site: str | None = None) -> None:
    """Prints the comparison of several runs, and writes it as one page."""
    out = Path(page)
    if out.is_dir():
        raise UsageError(f"--out {out}: this is a folder. Name a file, such as a.html.")
    if out.name in RUN_FILES or (out.exists() and out.suffix != ".html"):
        raise UsageError(f"--out {out}: this is another file. Name a new file, such as a.html.")
    evaluations = read_runs(runs)
    comparison = pvae.compare(evaluations)
    parts = {}
    for name, run in zip(evaluations, runs, strict=True):
        density = evaluations[name].data.get("density", "p(x)")
        parts[name] = _parts(Path(run), trust) | {"density": density, "site": site}
    command = shlex.join(["pvae", "report", *runs])
    print(comparison.table())
    print(f"figure: {write_comparison(out, comparison, parts, command)}")


def _parts(run: Path, trust: bool) -> dict[str, Any]:
    """Returns what is known of a run; what cannot be read is left out, with a warning."""
    found: dict[str, Any] = {}
    try:
        found["history"] = read_history(run)
        found["config"] = config = read_config(run, trust=trust)
        found["command"] = command_of(config)
        model, guide = pvae.load(run, trust=trust)
        found |= {"model": model, "guide": guide, "data": load_data(config, trust=trust)}
    except PvaeError as error:
        warnings.warn(f"{run}: the page has no pictures of this run. {error}", stacklevel=2)
    return found
