"""Images from text: a transformer over captions and image codes, and the pair that draws."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pvae.distributions import Autoregressive, OneHot, heads, reads_values
from pvae.errors import PvaeError
from pvae.models.vq_vae import VQVAE, _CodePrior
from pvae.nn import TextTransformer

__all__ = ["DALLE", "TextImageTransformer"]


class TextImageTransformer(PyroModule):
    r"""A causal transformer over the words of a caption c, then the codes of an image.

    .. math:: p(c, x) = \prod_{i=1}^L p(c_i \mid c_{<i}) \, \prod_t p(x_t \mid x_{<t}, c)

    c has L words, integers 0 … V − 1, and x is a map of codes, integers 0 … K − 1, row by row. All
    factors come from the same layers (`pvae.nn.TextTransformer`). It has no latent variables, and
    its guide is `pvae.guides.NoLatents`: the ELBO is log p(c, x), the sum over words and codes.

    It is the second stage of DALL-E: its data are the codes of a trained VQVAE with their captions,
    `pvae.codes(run, labels=True)`. `DALLE` draws images with it.

    Args:
        event_shape: Shape of the codes, (h, w).
        num_codes: K.
        num_words: V, the size of the vocabulary; `len(data.vocabulary)`.
        length: L, the words of a caption; `data.vocabulary.length`. A shorter caption ends in
            padding, word 0, which is modelled as any word.
        channels: Features of a step, a multiple of `num_heads`.
        num_layers: Number of blocks of attention and MLP.
        num_heads: Number of heads of the attention.
        dropout: Share of features that training sets to zero before they are added.

    Shape:
        `model(x, caption)` takes x [B, h, w] and caption [B, L] and returns x. `model(size=n)`
        draws n captions and their codes [n, h, w]; `model(caption=c, size=n)` draws codes of the
        captions c, [n, L] or [L].

    Raises:
        PvaeError: If a size is not valid, or captions are missing, have another length or unknown
            words, or are not n.

    Source: Ramesh et al. 2021, *Zero-Shot Text-to-Image Generation* (arXiv:2102.12092), which
    weights the terms of the codes 7 times as much as those of the words; here all weigh one.

    Example:
        >>> import torch
        >>> model = TextImageTransformer((4, 4), num_codes=8, num_words=20, length=5)
        >>> model(caption=torch.zeros(16, 5, dtype=torch.long), size=16).shape
        torch.Size([16, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_codes: int = 512,
        num_words: int = 256,
        length: int = 8,
        channels: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_words < 2:
            raise PvaeError(
                f"num_words={num_words}: a vocabulary has at least two words, and the first of "
                "them is padding."
            )
        self.event_shape, self.length = tuple(event_shape), length
        self.word = heads.Categorical(num_words).sized((length,))
        self.code = heads.Categorical(num_codes).sized(self.event_shape)
        self.network = TextTransformer(
            self.event_shape,
            self.code.out_shape,
            num_words,
            length,
            channels=channels,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            num_values=num_codes,
        )

    def forward(
        self, x: Tensor | None = None, caption: Tensor | None = None, *, size: int = 1
    ) -> Tensor:
        caption, size = self.rows(x, caption, size)
        with pyro.plate("data", size):
            caption = pyro.sample("caption", self.captions(), obs=caption)
            return pyro.sample("x", self.distribution(caption), obs=x)

    def captions(self) -> Autoregressive:
        """Returns p(c), batch shape [] and event shape [L]."""
        return Autoregressive(self.network.text, self.word)

    def distribution(self, caption: Tensor) -> Autoregressive:
        """Returns p(x|c), batch shape [...] and event shape [h, w], for captions c [..., L]."""
        if reads_values() and not (known := self.word.support.check(caption)).all():
            raise PvaeError(
                f"A caption has the word {caption[~known][0].item()}, but this model has the words "
                f"0 to {self.word.levels - 1}: num_words={self.word.levels}. Take captions from "
                "the vocabulary that it was trained with."
            )
        return Autoregressive(self.network, self.code, caption)

    def log_px(self, x: Tensor, caption: Tensor) -> Tensor:
        """Returns log p(x|c), [...], exactly, for x [..., h, w] and c [..., L], in nats."""
        return self.distribution(caption).log_prob(x)

    def rows(
        self, x: Tensor | None, caption: Tensor | None, size: int
    ) -> tuple[Tensor | None, int]:
        """Returns captions [n, L], or None if there are none, and n, the number of data.

        Raises:
            PvaeError: If x has no captions, they have another length, or their number is not n.
        """
        if x is not None and caption is None:
            raise PvaeError(
                "There is no caption for x: call model(x, caption), with labels=True for data by "
                "name. Without x, model(size=n) draws captions too."
            )
        if caption is not None and caption.shape[-1:] != (self.length,):
            raise PvaeError(
                f"caption has shape {tuple(caption.shape)}; this model takes captions of "
                f"{self.length} words, [n, {self.length}]. Pad shorter ones with word 0; for "
                "longer ones make the model with a larger length."
            )
        one = caption is None or caption.ndim == 1
        if x is not None:
            size = len(x)
        elif size == 1 and not one:
            size = len(caption)
        if not one and len(caption) != size:
            raise PvaeError(
                f"There are {len(caption)} captions for {size} data. Give one for each, or a "
                f"single one of shape [{self.length}] for all."
            )
        return caption if caption is None else caption.expand(size, -1), size


class DALLE(VQVAE):
    r"""The VQ-VAE's decoder with codes that a transformer draws for a caption c.

    .. math:: z &\sim p(z \mid c) \\ x \mid z &\sim p(x \mid f_\theta(e(z)))

    Given captions, as `model(x, caption)`, its bound is one on log p(x | c). Without, it draws c
    from the transformer first, c ∼ p(c). Its guide is `pvae.guides.NearestCode`, so that the ELBO
    is log p(x | z(x)) + log p(z(x) | c).

    It is made of two trained stages: a VQVAE of the images, from which it starts
    (`pvae.warm_start`), and a transformer of their codes and captions.

    Args:
        event_shape: Shape of one image, (C, H, W).
        prior: A trained `TextImageTransformer` of the codes.
        num_codes: K.
        **options: Those of `VQVAE`, as in the first stage.

    Shape:
        `model(x, caption)` takes x [B, *event_shape] and caption [B, L] and returns x.
        `model(caption=c, size=n)` draws an image for each of n captions c [n, L], or n images for
        one caption c [L]; `model(size=n)` draws captions too.

    Raises:
        PvaeError: As `VQVAE` and `TextImageTransformer`; or if the prior has no captions.

    Source: Ramesh et al. 2021, *Zero-Shot Text-to-Image Generation* (arXiv:2102.12092).

    Example:
        >>> import torch
        >>> prior = TextImageTransformer((7, 7), num_codes=128, num_words=20, length=5)
        >>> model = DALLE((1, 28, 28), prior, num_codes=128)
        >>> model(caption=torch.zeros(3, 5, dtype=torch.long), size=3).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        prior: TextImageTransformer,
        num_codes: int = 512,
        **options: Any,
    ) -> None:
        if not isinstance(prior, TextImageTransformer):
            raise PvaeError(
                f"prior={type(prior).__name__} is not a model of captions and codes: give a "
                "TextImageTransformer. VQVAE takes priors without text."
            )
        super().__init__(event_shape, num_codes, **options)
        place = prior.network.start.device
        no_words = torch.zeros(prior.length, dtype=torch.long, device=place)
        self.code_prior = _CodePrior(prior, self.map_shape, num_codes, no_words)

    def forward(
        self, x: Tensor | None = None, caption: Tensor | None = None, *, size: int = 1
    ) -> Tensor:
        density = self.code_prior.density
        caption, size = density.rows(x, caption, size)
        with pyro.plate("data", size):
            if caption is None:
                caption = pyro.sample("caption", density.captions())
            z = pyro.sample("z", self.prior(caption))
            return pyro.sample("x", self.likelihood(z), obs=x)

    def prior(self, caption: Tensor) -> OneHot:
        """Returns p(z|c), batch shape [...] and event shape [h, w, K], for captions c [..., L]."""
        return self.code_prior(caption)
