"""What README.md and docs/ say is so: snippets run, commands parse, links lead somewhere."""

import contextlib
import dataclasses
import functools
import inspect
import io
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import pvae
from pvae.cli.command_line import parse
from pvae.cli.main import main
from pvae.distributions import heads

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*/*.md"))]
PAGES = [page for page in PAGES if page.parent.name not in ("notebooks", "results")]  # copies
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
PUBLIC = ("data", "distributions", "estimators", "guides", "models", "nn", "objectives", "plot")
WRITTEN = [page for page in PAGES if "```python" in page.read_text()]
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def quick(code: str) -> str:
    """The same snippet with fewer epochs and samples, and without a compiler."""
    code = re.sub(r"\bepochs=\d+", "epochs=1", code)
    code = re.sub(r"\bnum_samples=\d{3,}", "num_samples=100", code)
    return code.replace('"compiled"', '"eager"')


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and snippets that see a few of the digits."""
    load = pvae.data.load

    @functools.wraps(load)
    def load_few(*args, **options):
        data = load(*args, **options)
        few = {part: getattr(data, part).take(np.arange(128)) for part in ("train", "test")}
        return dataclasses.replace(data, **few)

    monkeypatch.setattr(pvae.data, "load", load_few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def files_of(page: Path, here: Path) -> None:
    """Writes the files that a page shows below a line that ends with their name."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if file := re.search(r"`(\w+\.py)`:$", text[: block.start()].rstrip()):
            (here / file[1]).write_text(block[2])


def run(page: Path, here: Path, names: dict) -> dict:
    """Runs the Python snippets of a page, one after the other."""
    files_of(page, here)
    for kind, code in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(quick(code), named(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_the_snippets_of_a_page_run(page, here, capsys):
    names: dict = {"__name__": "snippet"}
    if page.name == "train.md":  # goes on with the first pair
        run(README, here, names)
    run(page, here, names)
    if re.search(r"^print\(evaluation\)", page.read_text(), re.MULTILINE):
        assert "L_100" in capsys.readouterr().out
    if "loss" in names:
        assert 0 < names["loss"] < 92 * 64


def commands(page: Path) -> list[str]:
    """The `pvae` commands in the shell blocks of a page."""
    shell = "".join(code for kind, code in BLOCK.findall(page.read_text()) if kind == "sh")
    return re.findall(r"^(?:then |else )?(?:\.venv/bin/)?pvae ([^#\n]*)", shell, re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=named)
def test_the_commands_of_a_page_are_commands(page, here):
    files_of(page, here)
    for command in commands(page):
        name, *argv = shlex.split(command)
        if name in ("new", "list"):
            assert main([name, *argv]) == 0
        elif name in ("run", "train") and "--resume" not in argv:
            parse(name, argv)
        elif name == "check":
            assert main([name, *argv]) == 0
        else:  # needs a trained run: its options exist
            assert name in ("run", "train", "evaluate", "report", "compare")
            assert {word for word in argv if word.startswith("--")} <= options_of(name)


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that `pvae COMMAND --help` lists."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[\w.]+", said.getvalue()))


@pytest.mark.parametrize(
    ("page", "command"),
    [
        (README, "run --model first.py"),
        (ROOT / "docs/howto/own_pair.md", "run --model HierarchicalVAE"),
        (ROOT / "docs/howto/own_pair.md", "run --model.likelihood laplace.py"),
    ],
    ids=["first pair", "likelihood by name", "own likelihood"],
)
def test_commands_that_name_files_of_the_page_run(page, command, here):
    files_of(page, here)
    (found,) = (c for c in commands(page) if c.startswith(command))
    argv = re.sub(r" --epochs \d+", "", found.replace("run", "train", 1)).split()
    assert main([*argv, "--epochs", "1", "--out", "out", "--progress", "false"]) == 0
    assert (here / "out" / "checkpoint.pt").exists()


def test_every_option_is_one():
    text = "\n".join(page.read_text() for page in PAGES)
    found = set(re.findall(r"`(?:pvae run )?(--[\w.]+(?: [^`]+)?)`", text))
    assert {"--data mnist", "--seed 1", "--model.network conv --guide.network conv"} <= found
    for option in found:
        if option.startswith(("--help", "--config", "--resume", "--trust")):
            continue
        if option.startswith("--format"):  # of `pvae export`
            assert "--format" in options_of("export")
            continue
        option += "" if " " in option else " 0"
        argv = shlex.split(option.replace("--device auto", "--device cpu").replace("NAME", "mnist"))
        config, _ = parse("run", argv)
        assert config["model"]["class_path"] == "pvae.models.VAE"


def headings(page: Path) -> set[str]:
    """The anchors of a Markdown page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    plain = [re.sub(r"[^\w\- ]", "", h.lower()) for h in re.findall(r"^#+ (.*)$", text, re.M)]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(r"```(?:python|sh|diff).*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        copied = re.sub(r"^docs/(results/)", r"benchmarks/\1", path_of(page, target))
        there = ROOT / re.sub(r"^docs/(notebooks/)", r"\1", copied)
        assert there.exists(), f"{link} in {named(page)}"
        assert not anchor or anchor in headings(there), f"{link} in {named(page)}"


def path_of(page: Path, target: str) -> str:
    place = page.parent / target if target else page
    return Path(os.path.normpath(place)).relative_to(ROOT).as_posix()


def test_the_readme_is_short_and_counts_right():
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    counts = len(pvae.models.__all__), len(pvae.guides.__all__), len(heads.__all__) - 1
    assert "{} models, {} guides, {} likelihoods".format(*counts) in text


def test_every_public_name_has_a_page_with_an_example():
    text = "\n".join(page.read_text() for page in REFERENCE)
    listed = re.findall(r"^   (pvae[\w.]*)$", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    public = {f"pvae.{n}" for n in pvae.__all__ if not inspect.ismodule(getattr(pvae, n))}
    public -= {"pvae.__version__"}
    for room in PUBLIC:
        public |= {f"pvae.{room}.{name}" for name in programs_in(getattr(pvae, room))}
    public |= {f"pvae.distributions.heads.{name}" for name in programs_in(heads)}
    public -= {"pvae.distributions.heads.Head"}  # the same as pvae.distributions.Head
    assert public == set(listed)
    for name in sorted(public):
        made = functools.reduce(getattr, name.split(".")[1:], pvae)
        assert ">>>" in inspect.getdoc(made), name


def programs_in(module) -> set[str]:
    """The classes and functions among the public names of a module."""
    made = {name: getattr(module, name) for name in module.__all__}
    return {n for n, m in made.items() if inspect.isclass(m) or inspect.isroutine(m)}


def test_the_gallery_has_every_pair():
    text = (ROOT / "docs" / "gallery.md").read_text()
    for name in (*pvae.models.__all__, *pvae.guides.__all__):
        assert f"`{name}`" in text, name
