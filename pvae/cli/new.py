"""new(): writes the model, the guide and the test of a new pair."""

import keyword
from importlib.resources import files
from pathlib import Path
from string import Template

from pvae.errors import PvaeError
from pvae.runtime import atomic

__all__ = ["camel", "new"]

FILES = {"model": "{}_model.py", "guide": "{}_guide.py", "test": "test_{}.py"}
"""For each file in `templates/`, the name of what is made of it."""


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
    paths = [Path(out) / file.format(name) for file in FILES.values()]
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
    for path, template in zip(paths, FILES, strict=True):
        text = (files("pvae.cli") / "templates" / f"{template}.txt").read_text("utf-8")
        with atomic(path) as temporary:
            temporary.write_text(Template(text).substitute(text_of), "utf-8")
    return paths


def camel(name: str) -> str:
    """Returns a name in camel case: MyVae for my_vae."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
