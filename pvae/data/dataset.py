"""Data: the parts of a dataset, and how they are observed."""

from dataclasses import dataclass
from typing import Literal

from pvae.data.frames import Frames
from pvae.data.masks import Mask
from pvae.data.split import Split
from pvae.data.vocabulary import Vocabulary
from pvae.drawing import card, text

__all__ = ["Data"]


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A dataset: its parts and how they are observed.

    Args:
        name: The dataset's or the file's name, without its folder.
        observation: "dynamic", "fixed", "threshold", "grey", "dequantize", "counts" or "as_given".
        seed: The data seed, which decides everything that is drawn once.
        levels: The number of integer levels of the source, or None.
        event_shape: The shape of one x, such as (1, 28, 28); of the first field if there is no x.
        support: The values of x: "binary" (0 or 1), "unit_interval" (0 to 1), "counts" (whole
            numbers) or "real". Only for "binary" is a Bernoulli likelihood a likelihood.
        train: The training part.
        validation: The part held out of training, or None.
        test: The test part.
        source: The name or path that the data were loaded from, or None for arrays.
        asked_levels: The argument `levels` of `load`.
        vocabulary: The words of the field caption, or None if there are no captions.
        mask: The argument `mask` of `load`.
        labelled: How many training data have kept their labels; None for all.
        balanced: Whether every class has kept as many.
        frames: The argument `frames` of `load`.
        window: The length of the windows of frames, or None without `frames`.
        asked_validation: The argument `validation` of `load`: with `frames`, a number of videos.

    Example:
        >>> import pvae
        >>> digits = pvae.data.load("digits")
        >>> digits.name, digits.observation, digits.support, len(digits.train), digits.validation
        ('digits', 'dynamic', 'binary', 1500, None)
    """

    name: str
    observation: str
    seed: int
    levels: int | None
    event_shape: tuple[int, ...]
    support: Literal["binary", "unit_interval", "counts", "real"]
    train: Split
    validation: Split | None
    test: Split
    source: str | None = None
    asked_levels: int | None = None
    vocabulary: Vocabulary | None = None
    mask: Mask | None = None
    labelled: int | None = None
    balanced: bool = True
    frames: Frames | None = None
    window: int | None = None
    asked_validation: int = 0

    def __repr__(self) -> str:
        return f"<Data: {self.in_words}>"

    def _repr_html_(self) -> str:
        """Returns the parts and how x is observed for a notebook."""
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        rows = [
            (name, text.count(len(part)), part.in_words, "no" if part.y is None else "yes")
            for name, part in parts.items() if part is not None
        ]  # fmt: skip
        head = ("", "data", "a batch has", "labels")
        return card(self.name, rows, head=head, words=[self.in_words])

    @property
    def in_words(self) -> str:
        """The data and how x is made from them, in one line.

        Example:
            >>> import pvae
            >>> pvae.data.load("digits", observation="threshold").in_words
            'digits, 1500 training and 297 test data [1, 8, 8]; x is 1 where k / 16 > 0.5, else 0'
        """
        p = "the value" if self.levels is None else f"k / {self.levels - 1}"
        binary = self.levels == 2 or self.support == "binary"
        how = {
            "dynamic": f"; x is 1 with probability {p}, else 0, drawn for each training minibatch",
            "fixed": f"; x is 1 with probability {p}, else 0, drawn once",
            "threshold": f"; x is 1 where {p} > 0.5, else 0",
            "grey": "; x is the value itself, 0 or 1" if binary else f"; x is {p}",
            "dequantize": f"; x is (k + u) / {self.levels}, u uniform on [0, 1)",
            "counts": "; x is the count itself",
            "as_given": "",
        }[self.observation]
        held_out = f", {len(self.validation)} validation" if self.validation else ""
        between = f"the middle one of {self.window} frames, given the first and the last"
        after = f"the {(self.window or 0) - 1} frames after a still"
        cut = {"between": f"; x is {between}", "next": f"; x is {after}"}.get(self.frames, "")
        masked = f"; masks {self.mask!r}" if self.mask else ""
        kept = f" ({self.labelled} labelled)" if self.labelled else ""
        sizes = f"{len(self.train)} training{kept}{held_out} and {len(self.test)} test data"
        return f"{self.name}, {sizes} {self.train.shape_in_words}{cut}{how}{masked}"
