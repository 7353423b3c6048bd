"""`pvae list`: what has a name, which guides go with which models, and the options of one name."""

import argparse
import inspect
from typing import Any

import pyro.infer

import pvae.guides
import pvae.models
import pvae.objectives
from pvae.cli.parser import new_parser, values
from pvae.cli.usage import UsageError
from pvae.data import SETS, load, names
from pvae.errors import nearest
from pvae.runs import GIVEN

__all__ = ["guides_of", "list_names", "models_of"]

_PRIORS = ("VAE", "MixturePriorVAE", "FlowPriorVAE", "VampPriorVAE", "PixelVAE", "PPCA")
_POSTERIORS = (
    "MeanField", "FullCovariance", "LowRank", "MixtureOfGaussians", "IAF", "SplineFlow",
    "SemiAmortised", "LinearGaussian",
)  # fmt: skip
_EXPLICIT = (
    "MADE", "PixelCNN", "GatedPixelCNN", "PixelRNN", "VideoPixelCNN", "Conditional",
    "HierarchicalCodes", "TextImageTransformer", "Classifier", "FrameBetween",
)  # fmt: skip

TOGETHER = (
    (_PRIORS, _POSTERIORS),
    (("VampPriorVAE",), ("SharedEncoder",)),
    (("Autoencoder", "SparseAutoencoder", "PPCA"), ("Code", "DenoisingCode", "ContractiveCode")),
    (("ConditionalVAE",), ("ConditionalMeanField",)),
    (("M2",), ("LabelThenCode",)),
    (("VAEAC",), ("MaskedMeanField",)),
    (("MVAE",), ("ProductOfExperts",)),
    (("NextFrames",), ("FramesMeanField",)),
    (("HierarchicalVAE",), ("BottomUp", "Ladder")),
    (("CategoricalVAE",), ("Categorical",)),
    (("GaussianMixture",), ("Responsibilities",)),
    (("VQVAE", "DALLE"), ("NearestCode",)),
    (("VQVAE2", "ConditionalVQVAE2"), ("NearestCodes",)),
    (_EXPLICIT, ("NoLatents",)),
)
"""Models and guides that have the same latent sites: any of the ones with any of the others."""

_DATA = {
    "cifar10_jpeg": "30,000 and 5,000 images of CIFAR-10 as JPEG, dequantize",
    "clips": "patches of three grey videos, 8 frames of 24×24, grey",
    "digits": "scikit-learn's digits, dynamic",
    "emoji": "emoji by two drawers with captions, dequantize",
    "glyphs": "letters with seven known factors, dynamic",
    "moving_digits": "videos of two of scikit-learn's digits, 16×16, dynamic",
    "moving_mnist": "videos of two of MNIST's digits, 64×64, dynamic",
    "moving_mnist_32": "the same, 32×32, dynamic",
}


_OF_PYRO = {
    "Trace_ELBO": "Pyro's ELBO: log p(x, z) − log q(z|x) of samples.",
    "TraceMeanField_ELBO": "Pyro's ELBO with the KL divergence in closed form, where it is known.",
}


def guides_of(model: str) -> list[str]:
    """Returns the guides of the package that go with a model."""
    return [guide for models, guides in TOGETHER if model in models for guide in guides]


def models_of(guide: str) -> list[str]:
    """Returns the models of the package that a guide goes with."""
    return [model for models, guides in TOGETHER if guide in guides for model in models]


def list_names(argv: list[str]) -> None:
    """Prints each name with one line about it, or the options of one name."""
    name = argv[0] if argv and not argv[0].startswith("-") else None
    parser = new_parser("list", "[NAME]")
    if name is None:
        values(parser, argv)
        _list_all()
    else:
        values(parser, argv[1:])
        _list_one(name)


def _kinds() -> dict[str, dict[str, Any]]:
    """Returns the models, the guides and the objectives by name."""
    found = {
        side: {name: getattr(module, name) for name in module.__all__}
        for side, module in (("model", pvae.models), ("guide", pvae.guides))
    }
    ours = {name: getattr(pvae.objectives, name) for name in pvae.objectives.__all__}
    ours |= {name: getattr(pyro.infer, name) for name in _OF_PYRO}
    ours.pop("ParticleELBO")
    found["loss"] = {
        name: kind
        for name, kind in ours.items()
        if isinstance(kind, type) and issubclass(kind, pyro.infer.ELBO)
    }
    return found


def _list_all() -> None:
    kinds = _kinds()
    for title, side in (("models", "model"), ("guides", "guide"), ("objectives", "loss")):
        print(f"{title} (--{side}):")
        for name, kind in sorted(kinds[side].items(), key=lambda each: each[0].lower()):
            print(f"  {name:<20} {_first_line(kind)}")
    print("data sets (--data):")
    for name in names():
        print(f"  {name:<20} {_of_data(name)}")
    print("or a .npy, .npz or .pt file; `pvae run --help` explains --data.observation")
    print("guides that go with models:")
    for models, guides in TOGETHER:
        print(f"  {', '.join(models)}:\n    {', '.join(guides)}")
    print("`pvae list NAME` shows the options of a name")


def _list_one(name: str) -> None:
    kinds = _kinds()
    side = next((side for side, found in kinds.items() if name in found), None)
    if side is None and name not in names():
        known = [*names(), *(each for found in kinds.values() for each in found)]
        raise UsageError(f"There is no {name} to list. {nearest(name, known)}")
    parser = new_parser("list")
    if side is None:
        print(f"{name}: {_of_data(name)}")
        parser.add_function_arguments(load, "data", skip={"source"}, fail_untyped=False)
        option = f"--data {name}"
    else:
        kind = kinds[side][name]
        print(f"{name}: {_first_line(kind)}")
        skip = GIVEN.get(side, set()) | ({"name"} if side != "loss" else set())
        parser.add_class_arguments(kind, side, skip=skip, fail_untyped=False)
        option = f"--{side} {name}"
    if side == "model":
        print(f"guides: {', '.join(guides_of(name))}")
    if side == "guide":
        print(f"models: {', '.join(models_of(name))}")
    print(f"options of `pvae run {option}`:")
    print(_options(parser, side or "data"), end="")


def _options(parser: argparse.ArgumentParser, prefix: str) -> str:
    """Returns the help on the options with a prefix."""
    if not any("." in action.dest for action in parser._actions):
        return "  none\n"
    text = parser.format_help()
    return text[text.index(f"\n  --{prefix}.") + 1 :]


def _of_data(name: str) -> str:
    known = SETS.get(name)
    return f"torchvision's {known.kind}, {known.observation}" if known else _DATA[name]


def _first_line(kind: Any) -> str:
    text = (inspect.getdoc(kind) or "").strip()
    return _OF_PYRO.get(kind.__name__) or text.partition("\n")[0]
