"""Initial parameters: Glorot's weights, and an output that is the mean of the data."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError
from pvae.pair import Program, alone, modules

__all__ = ["glorot"]

_LAYERS = (
    nn.Linear,
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@torch.no_grad()
@alone
def glorot(model: Program, guide: Program, x: Tensor | None = None) -> None:
    r"""Draws the weights of a pair's networks as Glorot & Bengio do, with zero biases.

    .. math:: W_{ij} \sim \mathrm{Uniform}(-a, a), \qquad
        a = \sqrt{\frac{6}{n_\text{in} + n_\text{out}}}

    for all linear and convolutional layers that the model and the guide reach. PyTorch's default
    has a third of this variance in a square layer, so that the signal fades in deep networks with
    tanh. If data are given and the model has a method `set_output_bias`, as `VAE` has, the mean of
    p(x|z) starts at the mean of the data.

    Random numbers come from torch's global generator. In the shell this is `--init glorot`.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        x: Data [N, *event_shape], or None to leave the output bias at zero.

    Raises:
        PvaeError: If the pair has no linear or convolutional layer, or one is lazy.

    Source: Glorot & Bengio 2010, *Understanding the difficulty of training deep feedforward
    neural networks*; Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*.

    Example:
        >>> from pvae import data, guides, models
        >>> digits = data.load("digits")
        >>> model = models.VAE((1, 8, 8), activation="tanh")
        >>> guide = guides.MeanField((1, 8, 8), activation="tanh")
        >>> glorot(model, guide, *digits.train.tensors())
    """
    found = {
        f"{path}.{name}".removesuffix("."): layer
        for path, module in modules(model, guide).items()
        for name, layer in module.named_modules()
        if isinstance(layer, _LAYERS)
    }
    if not found:
        raise PvaeError(
            "Neither model nor guide has a linear or convolutional layer: there are no weights to "
            "draw."
        )
    if lazy := [name for name, layer in found.items() if is_lazy(layer.weight)]:
        raise PvaeError(
            f"{lazy[0]} is a lazy layer, which has no size before its first call. Run the pair "
            "once with pvae.check(model, guide, x), or give the layer its size."
        )
    for layer in found.values():
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if x is not None and hasattr(model, "set_output_bias"):
        model.set_output_bias(x)
