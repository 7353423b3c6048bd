"""`pvae report` and `pvae compare`: write a run's report, and compare runs."""

from pathlib import Path
from typing import Any

import pvae
from pvae.cli.folder import RUN_FILES, require_checkpoint
from pvae.cli.options import load_data, new_parser, values
from pvae.cli.usage import HELP_OF, UsageError
from pvae.evaluation import read_runs
from pvae.report import write_comparison
from pvae.runs import read_config, read_history

__all__ = ["compare", "report", "save_report"]


def report(argv: list[str]) -> None:
    """Writes the report and the summary of an evaluated run."""
    parser = new_parser("report", "RUN")
    parser.add_argument("run", metavar="RUN", type=str, help="The folder of an evaluated run.")
    parser.add_argument(
        "--site", metavar="NAME", type=str | None,
        help="The observed site that the pictures show (default: the site with the most values).",
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    given = values(parser, argv)
    run, trust = Path(given["run"]), given["trust"]
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
    given = values(parser, argv)
    if len(given["runs"] or []) < 2:
        raise UsageError("A comparison needs two or more runs: `pvae compare RUN RUN`.")
    out = Path(given["out"])
    if out.is_dir():
        raise UsageError(f"--out {out}: this is a folder. Name a file, such as a.html.")
    if out.name in RUN_FILES or (out.exists() and out.suffix != ".html"):
        raise UsageError(f"--out {out}: this is another file. Name a new file, such as a.html.")
    comparison = pvae.compare(read_runs(given["runs"]))
    print(comparison.table())
    print(f"figure: {write_comparison(out, comparison)}")
