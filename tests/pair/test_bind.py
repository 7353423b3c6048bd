"""Which fields of the data each program receives, read from its signature."""

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.utils import data as torch_data

import pvae
from pvae import PvaeError
from pvae.data import as_data
from pvae.pair import bind, name_of


def takes(*names, **more):
    """Returns a program with these arguments, which returns what it was given."""
    names = [*names, *(f"{name}={value!r}" for name, value in more.items())]
    made = {}
    exec(f"def program({', '.join(names)}): return locals()", made)
    return made["program"]


XYZ = {name: torch.full((3,), float(i)) for i, name in enumerate(("x", "mask", "tokens"))}
LABELLED = {"x": torch.zeros(3), "y": torch.ones(3)}
OF_XYZ = [
    (takes("tokens", "x"), {"tokens", "x"}),
    (takes("x", size=1), {"x"}),
    (takes(x=None, tokens=None, size=None), {"x", "tokens"}),
    (takes("x", "*", "mask"), {"x", "mask"}),
    (takes("x", beta=0.1), {"x"}),
    (takes("**fields"), {"fields"}),
    (poutine.scale(takes("mask"), 2.0), {"mask"}),
    (AutoNormal(takes("mask", "x")), {"mask", "x"}),
]


@pytest.mark.parametrize("program", [takes("a", "b", "c"), takes("*batch"), takes("x", "*rest"),
                                     takes("a", "b", "c", d=None)])  # fmt: skip
def test_other_names_are_filled_by_position(program):
    part, (same,) = bind(as_data(XYZ), program)
    assert same is program
    assert part.names == ("x", "mask", "tokens")


@pytest.mark.parametrize(("program", "taken"), OF_XYZ)
def test_a_program_gets_the_fields_that_it_names(program, taken):
    part, (bound,) = bind(as_data(XYZ), program)
    if isinstance(program, AutoNormal):
        assert set(part.names) == taken
        return
    got = bound(*part.tensors())
    got = got if taken != {"fields"} else got["fields"]
    fields = {name: value for name, value in got.items() if isinstance(value, torch.Tensor)}
    assert fields.keys() == (XYZ.keys() if taken == {"fields"} else taken)
    assert all(torch.equal(value, XYZ[name]) for name, value in fields.items())
    assert name_of(bound) == name_of(program)


def test_fields_reach_a_program_that_takes_any_name():
    part, (bound,) = bind(as_data(XYZ), takes("x", "**rest"))
    got = bound(*part.tensors())
    assert torch.equal(got["x"], XYZ["x"])
    assert got["rest"].keys() == {"mask", "tokens"}


def test_a_field_does_not_take_the_place_of_another_argument_where_it_has_its_own():
    with pytest.raises(PvaeError, match="cannot be called with the fields of the data"):
        bind(as_data(LABELLED), takes("x", "mask", y=None))


@pytest.mark.parametrize("kind", [lambda x: {"x": x}, torch_data.TensorDataset])
def test_rows_beside_the_data_are_refused(kind):
    data = kind(torch.zeros(6, 2))
    # They would stay in their order while minibatches are shuffled.
    with pytest.raises(PvaeError, match="Argument mask has as many rows as there are data, 6"):
        pvae.fit(
            lambda x, mask: None, lambda x, mask: None, data, mask=torch.ones(6), progress=False
        )


def test_what_neither_names_is_neither_read_nor_hashed():
    part, (model, _) = bind(as_data(XYZ), takes("x", size=1), takes("x"))
    assert part.names == ("x",)
    assert part.hash == as_data({"x": XYZ["x"]}).hash
    assert not hasattr(model, "func")  # nothing stands between the loop and the program


def test_the_size_of_a_draw_is_no_place_for_data(recwarn):
    draws = takes(tokens=None, x=None, size=None)
    _, (bound, _) = bind(as_data(XYZ), draws, takes("x", size=None))
    assert bound(size=5) == {"tokens": None, "x": None, "size": 5}
    part, _ = bind(as_data(LABELLED), takes(x=None, size=None), takes("x"))
    assert part.names == ("x",)
    assert not recwarn.list


def test_labels_go_where_the_second_argument_is_and_only_there():
    _, (model, guide) = bind(as_data(LABELLED), takes("x", labels=None), takes("x"))
    assert torch.equal(model(*LABELLED.values())["labels"], LABELLED["y"])
    assert guide(*LABELLED.values()).keys() == {"x"}


@pytest.mark.parametrize(
    ("y", "program", "warns"),
    [
        (torch.arange(3), takes("x", mask=None), True),
        (torch.ones(3), takes("x", weights=None), True),
        (torch.arange(3), takes("x", "mask"), False),  # it cannot be called otherwise
        (torch.arange(3), takes("x", "*more", mask=None), False),
        (torch.arange(3), takes("x", class_label=None), False),
        (torch.arange(3), takes("x", mask=None, y=None), False),
        (torch.ones(3, dtype=torch.bool), takes("x", mask=None), False),
        (torch.ones(3, 2), takes("x", mask=None), False),
    ],
)
def test_labels_that_reach_an_optional_argument_of_another_name_are_said(
    y, program, warns, recwarn
):
    loader = torch_data.DataLoader(torch_data.TensorDataset(torch.zeros(3, 2), y), batch_size=2)
    _, (model, _) = bind(as_data(loader), program, takes("x"))
    said = [str(w.message) for w in recwarn.list]
    assert len(said) == warns, said
    if warns:
        (name,) = model(torch.zeros(3, 2), y).keys() - {"x"}
        assert f"y of the data, one number ({str(y.dtype)[6:]}) for each datum" in said[0]
        assert f"to the argument {name} of program(x, {name}=None), because" in said[0]


def test_a_field_that_might_have_been_meant_is_named():
    with pytest.warns(UserWarning, match=r"does not receive mask, tokens.*program\(x, m=None\)"):
        bind(as_data(XYZ), takes("x", m=None), takes("x"))


@pytest.mark.parametrize(
    "program", [takes("a", "b"), takes("x", "b"), takes("tokens", "b", "c"), takes(*"abcd")]
)
def test_what_is_ambiguous_is_refused(program):
    fields = r"x torch.float32 \[\], mask .*, tokens".replace("torch.", "")
    with pytest.raises(PvaeError, match=rf"program\(.*fields of the data, {fields}"):
        bind(as_data(XYZ), program)


def test_labels_that_are_not_handed_over_are_mentioned():
    data = pvae.data.load({"x": np.zeros((9, 2)), "m": np.zeros(9), "y": np.zeros(9)})
    with pytest.raises(PvaeError, match="With labels=True, the labels y are among the fields"):
        bind(data.test, takes("x", "y"))
