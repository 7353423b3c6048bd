"""Where in a program something failed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import small_pair

from pvae import SVI, PvaeError, check

SOURCE = """
def guide(x):
    return x @ x[:, :1]
"""


def _model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("folder", ["pvae", "pyro", "torch"])
def test_a_program_may_be_in_a_folder_of_any_name(folder):
    space = {}
    exec(compile(SOURCE, f"/home/someone/{folder}/first.py", "exec"), space)
    with pytest.raises(
        PvaeError, match=rf"\(at /home/someone/{folder}/first\.py:3\): RuntimeError"
    ):
        check(_model, space["guide"], torch.zeros(4, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):  # as in Pyro
        SVI(_model, space["guide"], torch.optim.Adam, Trace_ELBO()).step(torch.zeros(4, 3))


def test_models_and_guides_of_the_package_are_programs():
    x = torch.zeros(4, 1, 8, 8).double()
    with pytest.raises(PvaeError, match=r"\(at \S+guides.mean_field\.py:\d+\): RuntimeError"):
        check(*small_pair(), x)


@pytest.mark.parametrize("first", [True, False])
def test_the_last_site_before_a_failure_is_named_and_a_plate_is_none(first):
    def guide(x):
        if first:
            pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            raise KeyError("code")

    after = " after site 'a'" if first else ""
    with pytest.raises(PvaeError, match=rf"^The guide guide failed{after} when called with"):
        check(_model, guide, torch.zeros(4, 3))
