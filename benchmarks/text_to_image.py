"""Images from captions, in stages: a VQ-VAE, and a transformer over captions and its codes.

    python benchmarks/text_to_image.py --data glyphs [--epochs 25] [--prior-epochs 40]
    PVAE_DATA=… python benchmarks/text_to_image.py --data emoji --epochs 80 --prior-epochs 50
    python benchmarks/text_to_image.py --data glyphs --few 300 --epochs 2 --prior-epochs 2

1. VQVAE and NearestCode on the images;
2. TextImageTransformer on captions and codes of 1;
3. the same transformer, trained again with all captions empty;
4. DALLE, the pair of 1 with the prior of 2, and with that of 3.

−log p(x | caption) of the test data is bounded with their captions, with captions of other test
data, and without captions. Each stage is a run folder under --out. A finished one is not trained
again, and a killed one continues. The table, and a picture of images drawn from captions of the
test data, are written to benchmarks/results.
"""

import argparse
import math
import textwrap
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

_SHOWN = 10  # captions in the picture
_DRAWN = 8  # images for each


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="glyphs", choices=["glyphs", "emoji"])
    parser.add_argument("--epochs", type=int, default=25, help="of the VQ-VAE")
    parser.add_argument("--prior-epochs", type=int, default=40, help="of a transformer, at most")
    parser.add_argument("--patience", type=int, default=20, help="of a transformer")
    parser.add_argument("--num-codes", type=int, default=128)
    parser.add_argument("--code-dim", type=int, default=16)
    parser.add_argument("--features", type=int, default=192, help="of the transformer")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--few", type=int, help="data of each part, to try it out")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/text_to_image"))
    return parser.parse_args()


def loaded(options: argparse.Namespace) -> Data:
    """Returns images with captions, 5 % of the training data for validation."""
    how = {"labels": True, "observation": "grey" if options.data == "emoji" else None}
    data = pvae.data.load(options.data, **how)
    data = pvae.data.load(options.data, validation=len(data.train) // 20, **how)
    if options.few is None:
        return data
    few = torch.arange(options.few)
    parts = {part: getattr(data, part) for part in ("train", "validation", "test")}
    return replace(data, **{name: part.take(few[: len(part)]) for name, part in parts.items()})


def with_captions(data: Data, change: Any) -> Data:
    """Returns the data with other captions [N, L] in each part."""
    parts = {}
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        fields = {**part.fields, "caption": change(part.fields["caption"])}
        parts[name] = replace(part, fields=fields)
    return replace(data, source=None, **parts)


def quantised(data: Data, options: argparse.Namespace, prior: Any = None) -> Any:
    """Returns a VQ-VAE, or with a prior the pair that draws from captions."""
    colour = data.event_shape[0] == 3
    sizes = {
        "num_codes": options.num_codes,
        "code_dim": options.code_dim,
        "channels": (128, 64),
        **({"likelihood": "logistic_mixture", "levels": 256} if colour else {}),
    }
    torch.manual_seed(0)
    if prior is None:
        model = models.VQVAE(data.event_shape, **sizes)
    else:
        model = models.DALLE(data.event_shape, prior, **sizes)
    return model, guides.NearestCode(model, data.event_shape, channels=(64, 128))


def transformer(codes: Data, options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    return models.TextImageTransformer(
        codes.event_shape,
        num_codes=options.num_codes,
        num_words=len(codes.vocabulary),
        length=codes.vocabulary.length,
        channels=options.features,
        num_layers=options.layers,
        dropout=options.dropout,
    )


def mean(values: np.ndarray, unit: float = 1.0, digits: int = 2) -> str:
    """Returns a mean with its standard error."""
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean() / unit:.{digits}f} ± {error / unit:.{digits}f}"


def drawn(model: Any, data: Data, device: torch.device) -> dict[str, Tensor]:
    """Returns a row for each of some captions: a test image, a gap, and images drawn from it."""
    captions, rows = data.test.fields["caption"], {}
    places = torch.arange(0, len(captions), max(1, len(captions) // (2 * _SHOWN))).tolist()
    for seed, place in enumerate(places):
        words = textwrap.fill(data.vocabulary.text(captions[place]), 26)
        if words in rows or len(rows) == _SHOWN:
            continue
        given = captions[place].expand(_DRAWN, -1).to(device)
        (real, *_) = data.test.observe([place])
        gap = torch.full_like(real, 1.0 if real.shape[1] == 3 else 0.0)
        images = pvae.generate(model, _DRAWN, caption=given, seed=seed).detach().cpu()
        rows[words] = torch.cat([real.cpu(), gap.cpu(), images])
    return rows


def main() -> None:
    options = parsed()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    data = loaded(options)
    how = {name: getattr(options, name) for name in ("batch_size", "lr", "device", "precision")}

    vq = trained(folder / "vq", quantised(data, options), data, epochs=options.epochs,
                 patience=options.epochs, **how)  # fmt: skip
    codes = pvae.codes(vq, data)

    def composed(name: str, codes: Data) -> Any:
        density = transformer(codes, options)
        stop = {"epochs": options.prior_epochs, "patience": options.patience}
        trained(folder / name, (density, guides.NoLatents()), codes, **stop, **how)
        pair = quantised(data, options, density)
        pvae.warm_start(*pair, folder / "vq")
        return pair

    def bounds(name: str, pair: Any, data: Data) -> np.ndarray:
        only = {"num_samples": 1, "estimators": [], "device": options.device}
        return evaluated(folder / name, pair, data, **only).elbo

    def no_words(captions: Tensor) -> Tensor:
        return torch.zeros_like(captions)

    def others(captions: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return captions[torch.randperm(len(captions), generator=draw)]

    text = composed("text", codes)
    without = composed("no_text", with_captions(codes, no_words))
    swapped, empty = with_captions(data, others), with_captions(data, no_words)
    found = {
        "its caption": bounds("own", text, data),
        "the caption of another test image": bounds("other", text, swapped),
        "no caption, trained so": bounds("none", without, empty),
        "uniform p(z)": bounds("uniform", vq, data),
    }
    dims = math.prod(data.event_shape)
    rows = "\n".join(
        f"| {name} | {mean(-log_p)} | {mean(-log_p, dims * math.log(2), 3)} | "
        f"{mean(found['its caption'] - log_p) if name != 'its caption' else ''} |"
        for name, log_p in found.items()
    )
    body = f"""# Images from captions: {options.data}

| p(z) given | −log p(x, z(x) \\| given), nats | bits/dim | gain of the caption, nats |
| --- | --- | --- | --- |
{rows}

Test data, {len(data.test)}; ± is the standard error over the data, of gains datum by datum. The bound
on −log p(x | caption) is that of the one code z(x) that the encoder gives, a map of
{" × ".join(map(str, codes.event_shape))} codes out of {options.num_codes}. All rows have the same decoder. Captions have up to
{codes.vocabulary.length} of {len(codes.vocabulary) - 1} words; {options.layers} layers of {options.features} features.

"""  # noqa: E501
    device = pvae.runtime.device.find_device(options.device)
    path = write("text_to_image", body, device, data, ["torch", "pyro-ppl", "pvae"])
    rows_of_images(path.with_suffix(".png"), drawn(text[0].to(device), data, device))


if __name__ == "__main__":
    main()
