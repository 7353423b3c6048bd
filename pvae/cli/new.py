"""`pvae new`: writes a model, a guide and a test as a starting point."""

import keyword
from importlib.resources import files
from pathlib import Path
from string import Template

from pvae.cli.parser import new_parser, values
from pvae.errors import PvaeError

__all__ = ["new", "write_pair"]

_FILES = {"model": "{}_model.py", "guide": "{}_guide.py", "test": "test_{}.py"}  # of templates/


def write_pair(argv: list[str]) -> None:
    """Writes a model, a guide and a test, and prints commands that use them."""
    parser = new_parser("new", "NAME")
    parser.add_argument(
        "name", metavar="NAME", type=str, help="A Python identifier, such as ring or my_vae."
    )
    parser.add_argument(
        "--out", metavar="DIR", type=str, default=".", help="The folder for the files."
    )
    given = values(parser, argv)
    model, guide, test = new(given["name"], given["out"])
    name = _camel(given["name"])
    print(f"Wrote {model}, {guide} and {test}. Use them with")
    print(f"  pvae check {model}:{name}Model {guide}:{name}Guide")
    print(f"  pvae run --model {model}:{name}Model --guide {guide}:{name}Guide")
    print(f"  python -m pytest {test}")


def new(name: str, out: str | Path = ".") -> list[Path]:
    """Writes a model, a guide and their test, which run without changes.

    Args:
        name: A Python identifier. `ring` makes ring_model.py with the class RingModel,
            ring_guide.py with RingGuide, and test_ring.py.
        out: The folder to write them into; it is made if it is missing.

    Returns:
        The paths of the three files.

    Raises:
        PvaeError: The name is not an identifier, a file exists already, or the folder cannot be
            written.

    Example:
        >>> import tempfile
        >>> [path.name for path in new("ring", tempfile.mkdtemp())]
        ['ring_model.py', 'ring_guide.py', 'test_ring.py']
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise PvaeError(
            f"{name!r} is not a Python identifier. Use letters, digits and underscores, with no "
            "digit first, such as ring or my_vae."
        )
    paths = [Path(out) / file.format(name) for file in _FILES.values()]
    templates = files("pvae.cli") / "templates"
    texts = [
        Template((templates / f"{each}.txt").read_text("utf-8")).substitute(
            name=name, Name=_camel(name)
        )
        for each in _FILES
    ]
    try:
        if existing := [path for path in paths if path.exists()]:
            raise PvaeError(
                f"{existing[0]} exists already and is not overwritten. Choose another name, or "
                "another folder with --out."
            )
        Path(out).mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise PvaeError(
            f"Cannot write into {out}: {error.strerror}. Name another folder with --out."
        ) from None
    return paths


def _camel(name: str) -> str:
    """Returns a name in camel case: MyVae for my_vae."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
