"""What diagnose() says of parameters without a gradient: a note, unless a whole side has none."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from broken import Guide, Model, data
from torch import nn

from pvae.diagnosis.diagnose import diagnose


class WithBase(Model):
    """The decoder's output is added to that of a network which is not to be trained."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.base = nn.Linear(6, 6)
        if how == "frozen":
            self.base.requires_grad_(False)

    def observe(self, f, x):
        if self.how == "no_grad":
            with torch.no_grad():
                base = self.base(x)
        elif self.how == "detached":
            base = self.base(x).detach()
        elif self.how == "other half":
            base = 0.0
        else:
            base = self.base(x)
        super().observe(f + base, x)


@pytest.mark.parametrize("how", ["no_grad", "detached", "other half"])
def test_what_this_minibatch_does_not_train_is_a_note(how):
    found = diagnose(WithBase(how), Guide(), data())
    assert not found.faults, found
    (note,) = found.notes
    assert note.startswith("Parameter model.base.weight (and 1 more) gets no gradient")
    assert ".detach()" in note


def test_a_frozen_network_is_not_mentioned():
    for how in ("frozen", "trained"):
        found = diagnose(WithBase(how), Guide(), data())
        assert not found.faults + found.notes, found


def test_a_parameter_of_no_numbers_is_not_mentioned():
    class Marked(Model):
        def __init__(self):
            super().__init__()
            self.device_marker = nn.Parameter(torch.empty(0))

    found = diagnose(Marked(), Guide(), data())
    assert not found.faults + found.notes, found


def test_a_guide_that_was_trained_before_is_a_note():
    class Frozen(Guide):
        def encode(self, x):
            with torch.no_grad():
                return super().encode(x)

    found = diagnose(Model(), Frozen(), data())
    assert not found.faults, found
    assert "guide.net.weight" in found.notes[0]


def test_a_network_that_is_never_called_is_a_note():
    class Hidden(Model):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(2, 2)

    found = diagnose(Hidden(), Guide(), data())
    assert not found.faults, found
    assert "model.hidden.weight (and 1 more)" in found.notes[0]
    assert "network that is not called" in found.notes[0]


@pytest.mark.parametrize("calls", ["with gradients", "without", "not at all"])
def test_a_network_that_no_program_registers(calls):
    features = nn.Linear(6, 6)

    class Featured(Guide):
        def encode(self, x):
            if calls == "not at all":
                return super().encode(x)
            with torch.set_grad_enabled(calls == "with gradients"):
                x = pick()(x)
            return super().encode(x)

    def pick():
        return features

    def guide(x):
        pick()
        return inner(x)

    inner = Featured()

    def registered(x):
        pyro.module("inner", inner)
        return guide(x)

    found = diagnose(Model(), registered, data())
    assert bool(found.faults) == (calls == "with gradients"), found
    if found.faults:
        assert "is not trained: no program registers it" in found.faults[0]


def test_nothing_of_a_model_is_trained():
    class Rounded(Model):
        def observe(self, f, x):
            pyro.sample("x", dist.Normal(f.round(), 1.0).to_event(1), obs=x)

    (fault,) = diagnose(Rounded(), Guide(), data()).faults
    assert "does not depend on any parameter of the model" in fault
