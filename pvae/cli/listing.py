"""`pvae list`: the models, guides and data sets that have a name."""

import inspect

import pvae.guides
import pvae.models
from pvae.cli.options import new_parser, values
from pvae.data import SETS, names

__all__ = ["list_names"]


def list_names(argv: list[str]) -> None:
    """Prints each name with one line about it."""
    values(new_parser("list"), argv)
    for title, module in (("models", pvae.models), ("guides", pvae.guides)):
        print(f"{title}:")
        for name in sorted(module.__all__, key=str.lower):
            first_line = (inspect.getdoc(getattr(module, name)) or "").partition("\n")[0]
            print(f"  {name:<18} {first_line}")
    print("data sets:")
    own = {
        "cifar10_jpeg": "30,000 and 5,000 images of CIFAR-10 as JPEG, dequantize",
        "digits": "scikit-learn's digits, dynamic",
        "emoji": "emoji by two drawers with captions, dequantize",
        "glyphs": "letters with seven known factors, dynamic",
        "moving_digits": "videos of two of scikit-learn's digits, 16×16, dynamic",
        "moving_mnist": "videos of two of MNIST's digits, 64×64, dynamic",
        "moving_mnist_32": "the same, 32×32, dynamic",
    }
    for name in names():
        known = SETS.get(name)
        kind = f"torchvision's {known.kind}, {known.observation}" if known else own[name]
        print(f"  {name:<18} {kind}")
    print("or a .npy, .npz or .pt file; `pvae run --help` explains --data.observation")
