"""new(): writes a pair of one's own to begin with, and its test."""

import keyword
from pathlib import Path
from string import Template

from pvae.errors import PvaeError
from pvae.runtime import atomic

__all__ = ["camel", "new"]

MODEL = '''\
"""The model: p(z) p(x|z)."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pvae.nn import MLP
from pyro.nn import PyroModule
from torch import Tensor


class ${Name}Model(PyroModule):
    """z ~ N(0, I), x ~ Bernoulli(sigmoid(f(z))).

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,); the shell takes it from the data.
        latent_dim: Z, the size of the code.
        hidden_dims: Widths of the decoder's hidden layers.
    """

    def __init__(
        self, event_shape: Sequence[int], latent_dim: int = 8, hidden_dims: Sequence[int] = (128,)
    ) -> None:
        super().__init__()
        self.event_dim = len(event_shape)
        self.decoder = MLP((latent_dim,), event_shape, hidden_dims)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            f = self.decoder(z)
            return pyro.sample("x", dist.Bernoulli(logits=f).to_event(self.event_dim), obs=x)
'''

GUIDE = '''\
"""The guide: q(z|x)."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch.nn.functional as F
from pvae.nn import MLP
from pyro.nn import PyroModule
from torch import Tensor


class ${Name}Guide(PyroModule):
    """q(z|x) = N(mu(x), diag sigma(x)^2).

    Args:
        event_shape: Shape of one datum, as the model's.
        latent_dim: Z, as the model's.
        hidden_dims: Widths of the encoder's hidden layers.
    """

    def __init__(
        self, event_shape: Sequence[int], latent_dim: int = 8, hidden_dims: Sequence[int] = (128,)
    ) -> None:
        super().__init__()
        self.encoder = MLP(event_shape, (2, latent_dim), hidden_dims)

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.encoder(x).unbind(-2)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1))
'''

TEST = '''\
"""The pair has no fault that pvae finds, trains, and has weights."""

import pvae
from ${name}_guide import ${Name}Guide
from ${name}_model import ${Name}Model


def test_${name}():
    digits = pvae.data.load("digits")
    (x,) = digits.test.tensors()
    model, guide = ${Name}Model(digits.event_shape), ${Name}Guide(digits.event_shape)
    pvae.check(model, guide, x)
    found = pvae.diagnose(model, guide, x[:64])
    assert not found.faults, found

    before = pvae.log_weights(model, guide, x, num_samples=10)
    pvae.fit(model, guide, digits, epochs=3, progress=False)
    after = pvae.log_weights(model, guide, x, num_samples=10)
    assert after.shape == (10, len(x))
    assert after.mean() > before.mean()  # the ELBO of the test data
'''

FILES = {"{}_model.py": MODEL, "{}_guide.py": GUIDE, "test_{}.py": TEST}


def new(name: str, out: str | Path = ".") -> list[Path]:
    """Writes a model, a guide and a test of the two, which run as they are.

    Args:
        name: A Python identifier. `ring` makes ring_model.py with the class RingModel,
            ring_guide.py with RingGuide, and test_ring.py.
        out: The folder to write them into; it is made where it is missing.

    Returns:
        The paths of the three files.

    Raises:
        PvaeError: If the name is not an identifier, a file is there already, or the folder cannot
            be written.

    Example:
        >>> import tempfile
        >>> [path.name for path in new("ring", tempfile.mkdtemp())]
        ['ring_model.py', 'ring_guide.py', 'test_ring.py']
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise PvaeError(
            f"{name!r} is no Python identifier, which names files and classes here: letters, "
            "digits and underscores, and no digit first, such as ring or my_vae."
        )
    paths = [Path(out) / file.format(name) for file in FILES]
    try:
        there = [path for path in paths if path.exists()]
        if there:
            raise PvaeError(
                f"{there[0]} is there already, and is not overwritten. Take another name, or "
                "another folder with --out."
            )
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PvaeError(
            f"cannot write into {out}: {error.strerror}. Name another folder with --out."
        ) from None
    text_of = {"name": name, "Name": camel(name)}
    for path, text in zip(paths, FILES.values(), strict=True):
        with atomic(path) as temporary:
            temporary.write_text(Template(text).substitute(text_of), "utf-8")
    return paths


def camel(name: str) -> str:
    """Returns a name as classes begin with it: MyVae for my_vae."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
