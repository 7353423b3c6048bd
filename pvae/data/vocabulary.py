"""The words of captions, and their numbers."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["Vocabulary", "words_of"]


def words_of(text: str) -> list[str]:
    """Returns the words of a text in lower case, without accents, apostrophes and punctuation.

    Example:
        >>> words_of("Côte d’Ivoire: flag")
        ['cote', 'divoire', 'flag']
    """
    plain = unicodedata.normalize("NFKD", text.lower())
    return re.findall(r"[a-z0-9]+", "".join(c for c in plain if c.isascii() and c != "'"))


@dataclass(frozen=True)
class Vocabulary:
    """The words of captions. A caption is a row of L tokens, each the place of a word.

    Token 0 stands for no word, and fills a caption up to L tokens.

    Args:
        words: The word of each token; the first is empty.
        length: L.

    Example:
        >>> import pvae
        >>> words = pvae.data.load("glyphs", labels=True).vocabulary
        >>> words.tokens("small bold serif letter q")
        tensor([ 1,  4,  7,  9, 26,  0])
        >>> words.text(words.tokens("small bold serif letter q"))
        'small bold serif letter q'
    """

    words: tuple[str, ...]
    length: int

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, captions of up to {self.length})"

    def tokens(self, caption: str | Sequence[str]) -> Tensor:
        """Returns the tokens of one caption, int64 [L], or of several, [n, L].

        Raises:
            PvaeError: If a word is not known, or a caption has more than L words.
        """
        if not isinstance(caption, str):
            return torch.stack([self.tokens(each) for each in caption])
        found = words_of(caption)
        known = {word: token for token, word in enumerate(self.words)}
        if unknown := [word for word in found if word not in known]:
            close = " or ".join(difflib.get_close_matches(unknown[0], self.words[1:]))
            raise PvaeError(
                f"The caption {caption!r} has the unknown word {unknown[0]!r}. "
                + (f"Did you mean {close}? " if close else "")
                + f"The vocabulary has {len(self) - 1} words, which are in its attribute words."
            )
        if len(found) > self.length:
            raise PvaeError(
                f"The caption {caption!r} has {len(found)} words; captions have up to "
                f"{self.length}. Give a shorter one."
            )
        return torch.tensor([known[w] for w in found] + [0] * (self.length - len(found)))

    def text(self, tokens: Tensor) -> str:
        """Returns the caption of one row of tokens, [L]."""
        return " ".join(self.words[i] for i in tokens.tolist() if i)
