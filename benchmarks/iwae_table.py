"""Repeats Table 1 of Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders.

    python benchmarks/iwae_table.py [--data mnist] [--rows one-vae-1 two-iwae-5 ...]
    python benchmarks/iwae_table.py --data digits --budget 0.1

Each row is `pvae train` and `pvae evaluate` in its own run folder under --out. A finished row is
not run again, and a killed one continues. After each row, the table (Markdown and JSON) and the
commands' output are written to benchmarks/results.
"""

import argparse
import csv
import datetime
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import device_name, file_name, train_and_evaluate

import pvae

ONE = "--model VAE --model.latent_dim 50 --model.hidden_dims [200,200] --model.activation tanh \
--guide MeanField --guide.hidden_dims [200,200] --guide.activation tanh"
TWO = "--model HierarchicalVAE --guide BottomUp"  # 784-200-200-100 and 100-100-100-50, tanh

PUBLISHED = {
    "one-vae-1": (86.76, "19"),
    "one-vae-5": (86.47, "20"),
    "one-vae-50": (86.35, "20"),
    "one-iwae-5": (85.54, "22"),
    "one-iwae-50": (84.78, "25"),
    "two-vae-1": (85.33, "16+5"),
    "two-vae-5": (85.01, "17+5"),
    "two-vae-50": (84.78, "17+5"),
    "two-iwae-5": (83.89, "21+5"),
    "two-iwae-50": (82.90, "26+7"),
}
"""−log p(x) of MNIST, nats, and active units; a row's name is its layers, objective and k."""

SCHEDULES = {
    "paper": (3280, "--batch_size 20 --schedule burda"),
    "ours": (800, "--batch_size 100 --schedule cosine"),
}
"""Epochs and options; both use Adam with ε = 1e-4, Glorot's weights and the mean image."""

RATES = {"paper": {"one": "1e-3", "two": "1e-3"}, "ours": {"one": "3e-3", "two": "1.5e-3"}}
"""Adam's rates for one and two layers. At 3e-3 two layers lose what they have learnt."""


def options_of(row: str, schedule: str, budget: float, data: str) -> list[str]:
    """Returns the options of `pvae train` for a row."""
    layers, objective, k = row.split("-")
    epochs, options = SCHEDULES[schedule]
    epochs = max(1, round(budget * epochs))
    options += f" --epochs {epochs} --lr {RATES[schedule][layers]} --optim Adam --optim.eps 1e-4"
    options += f" --init glorot --num_particles {k}"
    # DReG is a gradient of the same bound with less noise; the paper uses the plain one.
    bound = "IWAE_ELBO" if schedule == "paper" else "DReG_ELBO"
    options += f" --loss {bound}" if objective == "iwae" else ""
    options += f" {ONE if layers == 'one' else TWO} --data {data}"
    return shlex.split(options)


def result(row: str, run: Path, data: str, device: str) -> dict[str, Any]:
    """Returns the numbers of a row, from its run folder."""
    seconds = json.loads(run.with_name(f"{run.name}.json").read_text())
    evaluation = pvae.Evaluation.load(run)
    found = json.loads((run / "evaluation.json").read_text())
    with (run / "history.csv").open() as file:
        epochs = sum(1 for _ in csv.DictReader(file))
    said: dict[str, Any] = {
        "row": row,
        "published": PUBLISHED[row][0] if data == "mnist" else None,
        "ours": -float(evaluation.log_px.mean()),
        "se": float(evaluation.log_px.std(ddof=1) / np.sqrt(len(evaluation))),
        "num_samples": evaluation.num_samples,
        "num_data": len(evaluation),
        "active_units": found["active_units"],
        "active_by_layer": [site["active_units"] for _, site in sorted(evaluation.sites.items())],
        "khat_above": found["khat"]["above_threshold"],
        "epochs": epochs,
        "seconds": round(sum(seconds.values())),
        "device": device,
    }
    for start in ("prior", "guide"):
        ais = evaluation.findings.get(f"ais_{start}")
        if ais is not None:
            difference = ais.log_px - evaluation.log_px[ais.datum]
            said[f"ais_{start}"] = {
                "num_data": len(difference),
                "minus_L": float(difference.mean()),
                "se": float(difference.std(ddof=1) / np.sqrt(len(difference))),
            }
    return said


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Returns the Markdown of the rows."""
    text = f"""# Importance-weighted autoencoders on {options.data}: −log p(x), nats per datum

| row | published (active) | ours ± se | difference | active | k̂ too high | AIS − L, from prior | from guide | epochs | minutes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501
    for row in rows:
        published = difference = "—"
        if row["published"] is not None:
            published = f"{row['published']:.2f} ({PUBLISHED[row['row']][1]})"
            difference = f"{row['ours'] - row['published']:+.2f}".replace("-", "−")
        khat = row["khat_above"]
        ais = [row.get("ais_prior"), row.get("ais_guide")]
        cells = [
            row["row"].replace("-", ", "),
            published,
            f"{row['ours']:.2f} ± {row['se']:.2f}",
            difference,
            "+".join(map(str, row["active_by_layer"])),
            "—" if khat is None else f"{100 * khat:.0f} %",  # below 100 samples there is none
            *(f"{a['minus_L']:+.2f} ± {a['se']:.2f}".replace("-", "−") if a else "—" for a in ais),
            str(row["epochs"]),
            f"{row['seconds'] / 60:.0f}",
        ]
        text += f"| {' | '.join(cells)} |\n"
    command = shlex.join(["python", "benchmarks/iwae_table.py", *sys.argv[1:]])
    limit, rates = os.environ.get("OMP_NUM_THREADS"), RATES[options.schedule]
    return f"""{text}
Published is Burda et al. 2016, Table 1, where 5,000 samples estimate log p(x), as here unless the
command says otherwise. Minutes are wall time of training and evaluation. If k̂ is too high, L_K is a
lower bound in expectation, but not an estimate of log p(x). AIS − L compares annealing with L_K, on
the same data and for the trained pair. Both are lower bounds in expectation, and the higher one is
closer: above zero there are too few samples, below zero the annealing is too short.

- Schedule: {options.schedule}, {SCHEDULES[options.schedule][1]}, Adam with ε = 1e-4 at
  {rates["one"]} for one layer and {rates["two"]} for two, Glorot's weights, output bias from the
  mean image; budget {options.budget:g}.
- Device: {rows[0]["device"]}.
- `{f"OMP_NUM_THREADS={limit} " if limit else ""}{command}`, {datetime.date.today()}.
"""


def as_seen(log: Path) -> str:
    """Returns what a terminal shows at the end, and the progress bar at every 20th epoch."""
    lines = []
    for line in log.read_bytes().decode().split("\n"):  # read_text would take \r for \n
        *frames, last = line.split("\r")
        epochs = {}
        for frame in frames:
            found = re.match(r"epoch (\d+)/", frame)
            if found and int(found[1]) % 20 == 0:
                epochs.setdefault(found[1], frame.rstrip())
        lines += [*epochs.values(), last.rstrip()]
    kept = [e for e in lines if e and not re.search(r"[WI]\d{4} \d\d:", e)]  # torch's remarks
    return "\n".join(kept) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--rows", nargs="*", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="ours")
    parser.add_argument("--budget", type=float, default=1.0, help="share of the schedule's epochs")
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--ais", type=int, default=500, help="data for annealing; 0 for none")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/iwae_table"))
    options = parser.parse_args()
    if not options.budget > 0:
        parser.error(
            f"--budget {options.budget} is not valid: give a positive number, 1 for all epochs"
        )
    place = pvae.runtime.device.find_device("auto")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    kind = options.data if options.schedule == "ours" else f"{options.data}-{options.schedule}"
    kind += "" if options.budget == 1 else f"-budget-{options.budget:g}"
    path = results / f"iwae_table_{kind}_{file_name(place)}.md"
    folder = options.out / f"{options.data}-{options.schedule}-{options.budget:g}"
    for number, row in enumerate(options.rows, 1):
        run = folder / row
        print(f"[{number}/{len(options.rows)}] {row}: {run}.log shows the progress", flush=True)
        train = options_of(row, options.schedule, options.budget, options.data)
        train += ["--precision", options.precision]
        evaluate = ["--num_samples", str(options.num_samples), "--ais", str(options.ais)]
        evaluate += ["--prior_samples", "0", "--surgery", "false"]
        train_and_evaluate(run, train, evaluate)
        done = [each for each in PUBLISHED if (folder / each / "evaluation.json").exists()]
        rows = [result(e, folder / e, options.data, device_name(place)) for e in done]
        path.write_text(table(rows, options))
        path.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
        logs = [f"== {e}\n{as_seen(folder / f'{e}.log')}" for e in done]
        path.with_suffix(".log").write_text("\n".join(logs))
    print(f"\n{path.read_text()}\nwritten to benchmarks/results/{path.name}, .json and .log")


if __name__ == "__main__":
    main()
