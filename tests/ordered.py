"""Autoregressive networks and spaces of data, small enough for a test."""

import itertools

import torch

from pvae import nn
from pvae.distributions import Autoregressive, heads

# A function of shapes for each.
NETWORKS = {
    "MADE": lambda *a, **k: nn.MADE(*a, hidden_dims=[40, 40], **k),
    "MADE, random order": lambda *a, **k: nn.MADE(*a, hidden_dims=[40], order="random", **k),
    "MADE, no direct": lambda *a, **k: nn.MADE(*a, hidden_dims=[200], direct=False, **k),
    "PixelCNN": lambda *a, **k: nn.PixelCNN(*a, channels=24, num_blocks=3, kernel_size=3, **k),
    "GatedPixelCNN": lambda *a, **k: nn.GatedPixelCNN(*a, channels=24, num_layers=3, **k),
    "PixelCNN++": lambda *a, **k: nn.PixelCNNPlusPlus(*a, channels=8, num_blocks=2, **k),
    "Row LSTM": lambda *a, **k: nn.PixelRNN(*a, "row", channels=24, num_layers=2, **k),
    "Diagonal BiLSTM": lambda *a, **k: nn.PixelRNN(*a, "diagonal", channels=24, num_layers=2, **k),
    "CausalTransformer": lambda *a, **k: nn.CausalTransformer(*a, channels=8, num_layers=2, **k),
    "WaveNet": lambda *a, **k: nn.WaveNet(*a, channels=6, num_layers=6, num_cycles=1, **k),
}
JOINT = [name for name in NETWORKS if "MADE" not in name]  # take f of whole pixels
PARTIAL = ["PixelCNN", "Row LSTM", "Diagonal BiLSTM"]  # f does not depend on all that is earlier
VECTORS = [
    name for name in NETWORKS if "Pixel" not in name and "LSTM" not in name
]  # take x of any shape


def takes(name, event_shape, *, jointly):
    """Whether a network gives f of whole pixels, or of single values, for x of some shape."""
    if jointly:
        return name in JOINT
    return name != "PixelCNN++" or event_shape[0] == 1


def make(name, event_shape, out_shape=None, **options):
    """Returns the network in evaluation mode, in double precision, its weights not small."""
    torch.manual_seed(0)
    network = NETWORKS[name](event_shape, out_shape, **options).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


def space(values, shape):
    """Returns all data of a shape whose entries take some values."""
    num = torch.Size(shape).numel()
    found = torch.tensor(list(itertools.product(values, repeat=num)))
    return found.view(-1, *shape)


def distribution(name, head, shape, context=None, **options):
    head = head.sized(shape).double()
    given = {} if context is None else {"context_shape": context.shape[1:]}
    return Autoregressive(make(name, shape, head.out_shape, **given, **options), head, context)


# All data of a small space, and its head.
SPACES = {
    "binary": (heads.Bernoulli(), space([0.0, 1.0], (1, 2, 2)), {}),
    "levels": (heads.Softmax(3), space([0.0, 0.5, 1.0], (1, 3, 1)), {}),
    "codes": (heads.Categorical(3), space([0, 1, 2], (1, 1, 3)), {"num_values": 3}),
    "colours": (heads.Bernoulli(), space([0.0, 1.0], (3, 1, 2)), {}),
    "logistics": (heads.LogisticMixture(3, 2), space([0.0, 0.5, 1.0], (2, 2, 1)), {}),
}
CASES = [
    (name, which)
    for name in NETWORKS
    for which, (_, every, _) in SPACES.items()
    if takes(name, every.shape[1:], jointly=which == "logistics")
]
DRAWN = [(n, s) for n, s in CASES if s in ("codes", "colours", "logistics")]


def head_and_network(head, shape=(4,), **options):
    head = head.sized(shape)
    return nn.MADE(shape, head.out_shape, **options), head
