"""The model card of a saved pair: a README.md with the front matter of Hugging Face's cards."""

import platform
from typing import Any

import pyro
import torch
import yaml
from torch import Tensor

from pvae.drawing import text
from pvae.version import __version__

__all__ = ["model_card"]


def model_card(
    names: list[str],
    state: dict[str, Any],
    config: dict[str, Any] | None,
    summary: dict[str, Any] | None,
) -> str:
    """Returns a model card: the pair, its data, its bounds, how to load and how to repeat it.

    Args:
        names: Of the model and the guide.
        state: The parameters and buffers of the pair.
        config: Builds the pair; None if pvae cannot.
        summary: The keys of `evaluation.json`; None if the pair was not evaluated.
    """
    data = _data(config, summary)
    on = f" on {data['name']}" if "name" in data else ""
    parts = [
        f"# {names[0]} and {names[1]}{on}",
        f"A pair of Pyro programs, saved by pvae {__version__}: a model, p(z) and p(x|z), and a "
        f"guide, q(z|x), with {_values(state):,} values of parameters and buffers in "
        "`model.safetensors`. FOLDER is below the folder of this file.",
        _table(("", "class", "arguments"), [_program(side, config, name) for side, name in
                                            zip(("model", "guide"), names, strict=True)]),
        "## Data\n\n" + (_list(data) or "Not known: the pair was saved without data."),
        "## Bounds on log p(x)\n\n" + _bounds(summary),
        "## Use\n\n" + _use(names, config),
        "## Repeat\n\n" + _repeat(config),
        "## Versions\n\n" + _list(_versions(config)),
    ]  # fmt: skip
    front = {
        "library_name": "pvae",
        "tags": ["pyro", "pytorch", "variational-autoencoder", "probabilistic-programming"],
    } | _index(names, data, summary)
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _values(state: dict[str, Any]) -> int:
    """Returns the number of values, tied ones once."""
    found = [v for values in state["modules"].values() for v in values.values()]
    found += [param["unconstrained"] for param in state["params"].values()]
    tensors = {(v.data_ptr(), v.shape): v for v in found if isinstance(v, Tensor)}
    return sum(v.numel() for v in tensors.values())


def _program(side: str, config: dict[str, Any] | None, name: str) -> tuple[str, str, str]:
    part = (config or {}).get(side) or {"class_path": name}
    given = {k: v for k, v in (part.get("init_args") or {}).items() if v is not None}
    arguments = ", ".join(f"{k}={v}" for k, v in given.items())
    return side, f"`{part['class_path']}`", f"`{arguments}`" if arguments else ""


def _data(config: dict[str, Any] | None, summary: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what is known of the data, from the evaluation and from the config."""
    of_config = (config or {}).get("data") or {}
    found = {"name": of_config["source"]} if "source" in of_config else {}
    found |= {k: v for k, v in of_config.items() if k != "source" and v}
    if summary is None:
        return found
    found |= summary["data"] | {"test data": summary["num_data"]}
    return {"name": found.pop("name"), "density": found.pop("density", "p(x)"), **found}


def _bounds(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "Not evaluated. `pvae evaluate FOLDER` computes them, if the data are known."
    density, size = summary["data"].get("density", "p(x)"), summary["num_data"]
    rows = [("ELBO", _number(summary["elbo"]))]
    rows += [(f"L_{each['num_samples']}", _number(each)) for each in summary["log_px"]]
    if bits := summary.get("bits_per_dim"):
        value = bits.get("mean")
        rows += [] if value is None else [("bits/dim", f"{value:.3f}")]
    said = (
        f"Lower bounds on log {density} in nats per datum, the mean over {size:,} test data ± its "
        "standard error over these data. L_K uses K importance samples."
    )
    if summary["exact"]:
        said = f"log {density} in nats per datum, exactly, over {size:,} test data ± its " \
               "standard error."  # fmt: skip
    khat = summary["khat"]
    if khat["median"] is not None:
        rows.append(
            ("k̂, median", f"{khat['median']:.2f} (above {khat['threshold']:.2f} for "
             f"{text.percent(khat['above_threshold'])} of the data)")
        )  # fmt: skip
    if summary["not_a_likelihood"]:
        said = f"**Not a likelihood:** {summary['not_a_likelihood']}\n\n{said}"
    return f"{said}\n\n{_table(('', 'value'), rows)}\n\n{summary['verdict']}"


def _number(estimate: dict[str, Any]) -> str:
    if estimate["mean"] is None:
        return "undefined"
    se = "" if estimate["se"] is None else f" ± {estimate['se']:.2f}"
    return f"{estimate['mean']:.2f}{se}".replace("-", "−")


def _use(names: list[str], config: dict[str, Any] | None) -> str:
    if config is None:
        return (
            "pvae cannot build these programs. Make them with the sizes that they were trained "
            "with; then\n\n"
            + _python("import pvae", 'pvae.load("FOLDER", model=model, guide=guide)')
            + "\n\nsets their parameters and buffers."
        )
    paths = [config[side]["class_path"] for side in ("model", "guide")]
    own = not all("." not in path or path.startswith("pvae.") for path in paths)
    trust = ", trust=True" if own else ""
    note = (
        "\n\n`trust=True` runs the code of the classes above"
        + (", which is in `source/`" if any(":" in path for path in paths) else "")
        + ". Read it first."
        if own
        else ""
    )
    return (
        _python(
            "import pvae",
            "",
            f'model, guide = pvae.load("FOLDER"{trust})',
            "codes = pvae.encode(guide, x)",
            "images = pvae.generate(model, 16)",
        )
        + note
    )


def _repeat(config: dict[str, Any] | None) -> str:
    if config is None or "data" not in config or "epochs" not in config:
        return "How the pair was trained is not recorded."
    return "The options are in `config.yaml`:\n\n```sh\npvae run --config FOLDER/config.yaml\n```"


def _versions(config: dict[str, Any] | None) -> dict[str, str]:
    trained = (config or {}).get("pvae")
    found = {"pvae": __version__}
    if trained and trained != __version__:
        found["pvae"] = f"{__version__} (trained with {trained})"
    return found | {
        "pyro": pyro.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _index(
    names: list[str], data: dict[str, Any], summary: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the results in the form that the Hub reads."""
    if summary is None:
        return {}
    metrics = [("elbo", "ELBO, nats per datum", summary["elbo"]["mean"])]
    metrics += [
        ("log_px", f"L_{b['num_samples']}, nats per datum", b["mean"]) for b in summary["log_px"]
    ]
    result = {
        "task": {"type": "density-estimation"},
        "dataset": {"type": str(data["name"]), "name": str(data["name"])},
        "metrics": [
            {"type": kind, "name": name, "value": value}
            for kind, name, value in metrics
            if value is not None
        ],
    }
    return {"model-index": [{"name": f"{names[0]} and {names[1]}", "results": [result]}]}


def _list(values: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )
