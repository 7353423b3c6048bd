"""Checkpoints that are read but not what pvae wrote: one message that names the entry."""

import copy

import pytest
import torch
from small import small_pair

import pvae
from pvae import PvaeError
from pvae.training import schema
from pvae.training.checkpoint import read_checkpoint
from pvae.training.schema import check_checkpoint

X = torch.zeros(20, 1, 8, 8)


def fit(folder, **options):
    options = {"epochs": 2, "batch_size": 10, "progress": False, **options}
    return pvae.fit(*small_pair(), X, out=folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder)
    return read_checkpoint(folder / "checkpoint.pt")


def places(value, way=(), most=3):
    """The ways to a checkpoint's entries, the first few of each container."""
    if way:
        yield way
    keys = list(value) if isinstance(value, dict) else range(len(value))
    keys = keys if not way else list(keys)[:most]
    for key in keys:
        if isinstance(value[key], dict | list | tuple):
            yield from places(value[key], (*way, key))
        else:
            yield (*way, key)


def message(use):
    """What an error of pvae's says; any other one is a fault."""
    try:
        use()
    except PvaeError as error:
        return str(error)
    return ""


def changed(contents, way, new):
    contents = copy.deepcopy(contents)
    node = contents
    for key in way[:-1]:
        if isinstance(node[key], tuple):
            node[key] = list(node[key])
        node = node[key]
    if new is ...:
        del node[way[-1]]
    else:
        node[way[-1]] = new
    return contents


ODD = [
    ...,
    None,
    "odd",
    1.5,
    -1,
    [],
    {},
    [[]],
    {"a": 1},
    torch.zeros(2),
    torch.zeros(2, device="meta"),
]


def test_whatever_is_missing_or_odd_is_one_message(whole, tmp_path):
    path, refused, way = tmp_path / "checkpoint.pt", 0, None
    for way in places(whole):
        if way[0] == "format":
            continue
        for odd in ODD:
            contents = changed(whole, way, odd)
            said = message(lambda contents=contents: check_checkpoint(contents, path))
            if said:
                refused += 1
                assert way[0] in said
                continue
            # What is taken has to work; what belongs to another pair is said to.
            torch.save(contents, path)
            model, guide = small_pair()
            refused += bool(message(lambda m=model, g=guide: pvae.load(tmp_path, model=m, guide=g)))
            if way[0] != "optimiser":
                refused += bool(message(lambda: fit(tmp_path, resume=True)))
    assert refused > 500
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("way", "odd", "named"),
    [
        (("state",), ..., "state"),
        (("state", "modules", "model"), 3, "state.modules.model"),
        (("progress",), [1, 2], "progress"),
        (("progress", 0), 1.5, "progress.0"),
        (("random", "torch"), torch.zeros(5, dtype=torch.uint8), "random.torch"),
        (("random", "numpy", 2), 625, "random.numpy"),
        (("random", "python", 1), [0] * 3, "random.python"),
        (("history", 1, "elbo"), "odd", "history"),
        (("settings", "epochs"), None, "settings.epochs"),
        (("optimiser", "param_groups", 0, "params"), None, "optimiser"),
        (("best",), {"modules": {}}, "best"),
        (("best_at",), [1.0], "best_at"),
        (("pair",), ["VAE"], "pair"),
    ],
)
def test_the_entry_is_named(whole, tmp_path, way, odd, named):
    torch.save(changed(whole, way, odd), tmp_path / "checkpoint.pt")
    for use in (lambda: pvae.load(tmp_path), lambda: fit(tmp_path, resume=True)):
        with pytest.raises(PvaeError, match=rf"not a valid checkpoint: {named} is missing or has"):
            use()


@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        (None, True),
        ({"name": "positive"}, True),
        ({"class": "_Interval", "arguments": {"lower_bound": 0.0, "upper_bound": 2}}, True),
        ({"name": "Constraint"}, False),
        ({"name": "torch"}, False),
        ({"name": ["positive"]}, False),
        ({"class": "_Interval"}, False),
        ("positive", False),
    ],
)
def test_constraints_are_constraints(whole, tmp_path, constraint, fits):
    param = {"unconstrained": torch.zeros(2), "constraint": constraint}
    contents = changed(whole, ("state", "params"), {"scale": param})
    if fits:
        assert check_checkpoint(contents, tmp_path)["state"]["params"]
    else:
        with pytest.raises(PvaeError, match=r"state\.params\.scale\.constraint"):
            check_checkpoint(contents, tmp_path)


def test_versions_are_named_and_older_ones_migrate(whole, tmp_path, monkeypatch):
    newer = {**whole, "format": f"pvae checkpoint {schema.VERSION + 1}"}
    with pytest.raises(PvaeError, match=r"newer pvae \(version 2.*Update pvae"):
        check_checkpoint(newer, tmp_path)
    older = {**{k: v for k, v in whole.items() if k != "pair"}, "format": "pvae checkpoint 0"}
    with pytest.raises(PvaeError, match="of version 0, which pvae no longer reads"):
        check_checkpoint(older, tmp_path)
    monkeypatch.setitem(schema.MIGRATIONS, 0, lambda contents: {**contents, "pair": ["A", "B"]})
    assert check_checkpoint(older, tmp_path)["pair"] == ["A", "B"]
    for none in ({}, [], {"format": 1}, {"format": "pvae checkpoint x"}, {"format": "1"}):
        with pytest.raises(PvaeError, match="is not a checkpoint that this version"):
            check_checkpoint(none, tmp_path)
