"""`pvae export`: encoder and decoder of a trained pair as files that run without pvae."""

from pathlib import Path
from typing import Literal

import pvae
from pvae.cli.folder import EXPORTED, require_checkpoint
from pvae.cli.options import load_data
from pvae.cli.parser import new_parser, values
from pvae.cli.usage import HELP_OF
from pvae.exported import export as export_pair
from pvae.runs import read_config

__all__ = ["export"]


def export(argv: list[str]) -> None:
    """Exports the encoder and the decoder of a run or of a saved pair."""
    parser = new_parser("export", "RUN")
    parser.add_argument(
        "run", metavar="RUN", type=str, help="The folder of a trained run or of a saved pair."
    )
    parser.add_argument(
        "--format", type=Literal["onnx", "torch"], default="onnx",
        help="onnx (needs `pip install 'pvae[export]'`) or torch, an archive of torch.export.",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=str | None, help=HELP_OF["export"])
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    given = values(parser, argv)
    run, trust = Path(given["run"]), given["trust"]
    config = read_config(run, trust=trust)
    require_checkpoint(run)
    data = load_data(config, trust=trust)
    model, guide = pvae.load(run, trust=trust)
    out = given.get("out") or run / EXPORTED
    for part in export_pair(model, guide, data, out, format=given["format"]):
        print(part)
