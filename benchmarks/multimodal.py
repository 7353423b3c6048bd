"""Two views of a datum by a product of experts: any of them from the other.

    python benchmarks/multimodal.py labels [--data mnist] [--epochs 40]
    PVAE_DATA=… python benchmarks/multimodal.py drawings [--epochs 150]
    PVAE_DATA=… python benchmarks/multimodal.py captions [--epochs 60]
    python benchmarks/multimodal.py labels --data digits --epochs 40

- labels: MVAE of an image and its label; images drawn from labels, and the error of labels from
  images by Bayes' rule, p(x, y) / Σ p(x, y');
- drawings: of the two drawings of an emoji, Google's and Twitter's; each from the other;
- captions: of an emoji and the words of its name; images drawn from captions, and captions told
  from images.

log p of one view given the other is the difference of two bounds, of both views and of one, so it
is an estimate and no bound. Each pair is a run folder under --out, which continues if it was
killed. The table and a picture are written to benchmarks/results.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import evaluated, rows_of_images, trained, write
from torch import Tensor

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.data.sources import root_folder
from pvae.distributions import heads

_SHOWN = 12


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=["labels", "drawings", "captions"])
    parser.add_argument("--data", default="mnist", help="of labels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--latent-dim", type=int, default=64)
    parser.add_argument(
        "--weight", type=float, default=10.0, help="of labels and words in training"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--num-data", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/multimodal"))
    return parser.parse_args()


def drawings() -> Data:
    """Loads pairs of drawings, of which a tenth is held out by a seed."""
    root = root_folder(None)
    both = [np.load(root / f"emoji_{who}32.npz")["x"] for who in ("google", "twitter")]
    order = np.random.default_rng(0).permutation(len(both[0]))
    tenth = len(order) // 10
    parts = {"test": order[:tenth], "train": order[tenth:]}
    return pvae.data.load(
        {
            f"x_{i}_{part}": both[i - 1][rows].astype(np.float32) / 255
            for part, rows in parts.items()
            for i in (1, 2)
        },
        observation="as_given",
    )


def loaded(options: argparse.Namespace) -> tuple[Data, dict[str, Any], dict[str, Any]]:
    """Returns the data, and the likelihoods and the options of the model."""
    if options.task == "labels":
        data = pvae.data.load(options.data, labels=True)
        return data, {"y": heads.Categorical(len(data.train.y.unique()))}, {"network": "dense"}
    colour = heads.DiscretizedLogistic(levels=256, scale="learned")
    if options.task == "drawings":
        return drawings(), {"x_1": colour, "x_2": colour}, {"network": "conv"}
    data = pvae.data.load("emoji", labels=True, observation="grey")
    parts = {part: getattr(data, part).only(["x", "caption"]) for part in ("train", "test")}
    data, words = replace(data, **parts), heads.Categorical(len(data.vocabulary))
    return data, {"x": colour, "caption": words}, {"network": "conv"}


def difference(both: Any, one: Any) -> str:
    """Returns the mean of log p(a, b) − log p(b) over the data, with its standard error."""
    values = both.log_px - one.log_px
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def only(data: Data, names: list[str]) -> dict[str, Tensor]:
    """Returns these fields of the test data."""
    return {n: t for n, t in zip(data.test.names, data.test.tensors(), strict=True) if n in names}


def captions(model: Any, guide: Any, data: Data, table: list[str]) -> str:
    """Tells captions from images, adds how many words are right, and returns some in words."""
    place, fields = next(model.parameters()).device, only(data, ["x", "caption"])
    truth = fields["caption"]
    with torch.no_grad():
        loc, _ = guide.encode(x=fields["x"].to(place))
        told = model.likelihood("caption", loc).base_dist.logits.argmax(-1).cpu()
    training = torch.as_tensor(data.train.fields["caption"])
    usual = training.mode(0).values.expand_as(truth)
    for name, guess in {"from images": told, "the most frequent": usual}.items():
        there = (truth > 0) | (guess > 0)
        right = 100 * ((truth == guess) & there).sum(1) / there.sum(1).clamp(min=1)
        se = right.std() / len(right) ** 0.5
        found = f"{right.mean():.1f} ± {se:.1f}"
        table.append(f"| words of the caption that are right, {name}, % | {found} | — |")
    words = data.vocabulary.text
    pairs = zip(truth[:_SHOWN], told[:_SHOWN], strict=True)
    lines = [f"- “{words(own)}”: “{words(guess)}”" for own, guess in pairs]
    head = "Captions, and those told from the image (the likeliest words at the mean of q(z|x)):"
    return "\n".join(["", head, "", *lines, ""])


def main() -> None:
    options = parsed()
    data, likelihoods, how = loaded(options)
    data = data if options.task == "labels" else replace(data, name=options.task)
    folder = options.out / f"{options.task}-{data.name}"
    folder.mkdir(parents=True, exist_ok=True)
    first, second = ("x_1", "x_2") if options.task == "drawings" else ("x", [*likelihoods][-1])
    shapes = {name: tuple(data.train.fields[name].shape[1:]) for name in (first, second)}
    weights = {} if options.task == "drawings" else {second: options.weight}
    torch.manual_seed(0)
    model = models.MVAE(shapes, likelihoods, options.latent_dim, weights=weights, **how)
    guide = guides.ProductOfExperts(model, **how)
    parts = pvae.data.drop_fields(data, [first, second])
    trained(
        folder / "mvae", (model, guide), parts, epochs=options.epochs, lr=options.lr,
        batch_size=options.batch_size, device=options.device,
    )  # fmt: skip

    found = {}
    for name, fields in {"both": [first, second], first: [first], second: [second]}.items():
        found[name] = evaluated(
            folder / name, (model, guide), only(data, fields), num_samples=options.num_samples,
            num_data=options.num_data, estimators=[], device=options.device,
        )  # fmt: skip
    a, b = ("google", "twitter") if options.task == "drawings" else (first, second)
    lines = [
        (f"log p({a}, {b})", found["both"]),
        (f"log p({a})", found[first]),
        (f"log p({b})", found[second]),
    ]
    table = [
        f"| {name} | {e.log_px.mean():.2f} ± {e.log_px.std(ddof=1) / len(e) ** 0.5:.2f} | "
        f"{np.median(e.khat):.2f} |"
        for name, e in lines
    ]
    table += [
        f"| log p({a} \\| {b}), a difference | {difference(found['both'], found[second])} | — |",
        f"| log p({b} \\| {a}), a difference | {difference(found['both'], found[first])} | — |",
    ]
    if options.task == "labels":
        few = {n: t[: options.num_data] for n, t in only(data, [first, second]).items()}
        labels = pvae.classify(model, guide, few, num_samples=100)
        wrong = 100 * (torch.as_tensor(labels.y) != few["y"]).double()
        se = float(wrong.std() / len(wrong) ** 0.5)
        table.append(f"| error of y by Bayes' rule, % | {float(wrong.mean()):.2f} ± {se:.2f} | — |")
    said = captions(model, guide, data, table) if options.task == "captions" else ""
    text = f"""# Two views by a product of experts: {options.task}

| on {len(found["both"]):,} test data | mean ± se | median k̂ |
| --- | --- | --- |
{chr(10).join(table)}

Nats per datum; log p are bounds of {options.num_samples} samples, and the differences of two of
them are estimates. {options.epochs} epochs of all training data, each datum with both views or one
of them, drawn again for each minibatch; {options.latent_dim} latent dimensions, {how["network"]}
networks{f", weight {options.weight:g} of {second} in training" if weights else ""}.
{said}
"""
    device = pvae.runtime.device.find_device(options.device)
    path = write("multimodal", text, device, data, ["torch", "pyro-ppl", "pvae"])
    place = next(model.parameters()).device
    shown = {n: t[:_SHOWN].to(place) for n, t in only(data, [first, second]).items()}

    def told(site: str, seed: int | None = None, **given: Tensor) -> Tensor:
        """Returns a view given the other, at the mean of q(z), or at a draw from it."""
        with torch.no_grad():
            loc, scale = guide.encode(**given)
            if seed is not None:
                torch.manual_seed(seed)
                loc = loc + scale * torch.randn_like(loc)
        return pvae.decode(model, {"z": loc}, site=site)

    if options.task == "labels":
        classes = torch.arange(likelihoods["y"].levels, device=place)
        rows = {
            f"given {c}": torch.cat([told("x", seed, y=c[None]) for seed in range(_SHOWN)])
            for c in classes
        }
    elif options.task == "drawings":
        rows = {
            "Google's": shown["x_1"],
            "from Twitter's": told("x_1", x_2=shown["x_2"]),
            "Twitter's": shown["x_2"],
            "from Google's": told("x_2", x_1=shown["x_1"]),
        }
    else:
        rows = {"test data": shown["x"]} | {
            f"from their words, draw {i}": told("x", i, caption=shown["caption"]) for i in (1, 2, 3)
        }
    rows_of_images(path.with_suffix(".png"), rows)


if __name__ == "__main__":
    main()
