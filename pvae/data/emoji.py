"""Emoji: pictures of two drawers, with categories and captions of their names."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvae.data import files
from pvae.data.vocabulary import Vocabulary, words_of

__all__ = ["base_name", "read"]

_DRAWERS = "google", "twitter"
_HOLDS = {
    "x": "images uint8 [N, 3, 32, 32]",
    "name": "names",
    "y": "numbers of categories",
    "sub": "numbers of subcategories",
    "subcategories": "their names",
}
_WHO = {
    "adult", "adults", "boy", "child", "girl", "man", "men", "people", "person", "persons",
    "woman", "women",
}  # fmt: skip


def base_name(name: str) -> str:
    """Returns the name of an emoji without skin tone, who is shown, and direction.

    Example:
        >>> base_name("woman running facing right"), base_name("man running: dark skin tone")
        ('running', 'running')
    """
    plain = re.sub(r"(medium[- ])?(light|dark|medium) skin tone|facing right", "", name.lower())
    return " ".join(word for word in words_of(plain.partition(", ")[0]) if word not in _WHO)


def read(root: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Vocabulary]:
    """Returns the training part, the test part, and the words of the captions.

    Both parts have `x`, uint8 [N, 3, 32, 32]; `y`, the category, int64 [N]; and `caption`, int64
    [N, L]: the drawer, the subcategory and the name, as in "twitter animal mammal cow face". A
    caption leaves out words of the subcategory in the name, and words that fewer than two emoji of
    the training part have.

    The emoji of one `base_name`, by both drawers, are in one part. A tenth of the base names, drawn
    once, is the test part.

    Raises:
        PvaeError: If a file is missing or damaged.
    """
    drawn = [files.arrays(root / f"emoji_{who}32.npz", "emoji", _HOLDS) for who in _DRAWERS]
    parts = [np.array([base_name(name) for name in each["name"].tolist()]) for each in drawn]
    bases = np.unique(np.concatenate(parts))
    # NumPy freezes RandomState's stream for good, so the split is the same in every version.
    held_out = np.random.RandomState(0).permutation(bases)[: len(bases) // 10]
    test = np.concatenate([np.isin(part, held_out) for part in parts])
    said = [
        [drawer, *_said(name, str(each["subcategories"][sub]))]
        for drawer, each in zip(_DRAWERS, drawn, strict=True)
        for name, sub in zip(each["name"].tolist(), each["sub"].tolist(), strict=True)
    ]
    uses = Counter(
        word for words in {tuple(w[1:]) for w, out in zip(said, test, strict=True) if not out}
        for word in set(words)
    )  # fmt: skip
    known = {word for word, number in uses.items() if number > 1} | set(_DRAWERS)
    said = [[word for word in words if word in known] for words in said]
    vocabulary = Vocabulary(("", *sorted(known)), max(map(len, said)))
    fields = {
        "x": torch.from_numpy(np.concatenate([each["x"] for each in drawn])),
        "y": torch.from_numpy(np.concatenate([each["y"] for each in drawn])).long(),
        "caption": vocabulary.tokens([" ".join(words) for words in said]),
    }
    rows = torch.from_numpy(test)
    train, held = ({n: f[part] for n, f in fields.items()} for part in (~rows, rows))
    return train, held, vocabulary


def _said(name: str, subcategory: str) -> list[str]:
    kind = words_of(subcategory)
    return kind + [word for word in words_of(name) if word not in kind]
