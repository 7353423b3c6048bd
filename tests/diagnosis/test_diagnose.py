"""diagnose() names the fault in every broken pair, and finds none in a right one."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from broken import BROKEN, B, Guide, Model, data
from broken_weights import BROKEN_WEIGHTS
from oracles import ORACLES, SUMS
from programs import PROGRAMS
from small import quick_fit, same_state, small_pair, state_of
from zoo import ZOO, make

import pvae
from pvae.cli.main import main
from pvae.diagnosis.densities import _excess
from pvae.diagnosis.diagnose import diagnose


def digits(observation=None):
    return pvae.data.load("digits", observation=observation).test.observe(slice(0, 64))


FAULTS = BROKEN | BROKEN_WEIGHTS


@pytest.mark.parametrize("pair", FAULTS, ids=lambda pair: pair.__name__)
def test_the_fault_is_named_with_what_to_change(pair):
    model, guide, batch, loss = pair()
    found = diagnose(model, guide, batch, loss=loss)
    fault, remedy = FAULTS[pair]
    assert len(found.faults) == 1, found
    named = re.search(fault, found.faults[0])
    assert named, found
    assert re.search(remedy, found.faults[0][named.start() :]), found


def test_twenty_pairs_are_broken_and_what_they_break_is_not():
    assert len(FAULTS) >= 30
    found = diagnose(Model(), Guide(), data())
    assert not found.faults + found.notes
    assert str(found).endswith("no fault found")


@pytest.mark.parametrize("name", ZOO)
def test_the_pairs_of_the_package_have_none(name):
    model, guide, observation = make(name)
    found = diagnose(model, guide, *digits(observation))
    assert not found.faults, found


@pytest.mark.parametrize("name", [*PROGRAMS, *ORACLES, *SUMS])
def test_right_pairs_of_every_style_have_none(name):
    pyro.clear_param_store()
    model, guide, batch, _ = (PROGRAMS | ORACLES | SUMS)[name]()
    found = diagnose(model, guide, *batch)
    if name.startswith("decoder"):  # networks that nobody registers, and so nobody trains
        assert len(found.faults) == 1
        assert "no program registers it" in found.faults[0]
    else:
        assert not found.faults, found
    pyro.clear_param_store()


def test_a_trained_pair_has_none_whatever_the_seed():
    pair = small_pair()
    quick_fit(pair, pvae.data.load("digits"), epochs=20)
    for seed in range(5):
        found = diagnose(*pair, *digits(), seed=seed)
        assert not found.faults, found


def test_what_is_found_about_a_right_pair():
    model, guide = small_pair()
    facts = "\n".join(diagnose(model, guide, *digits()).facts)
    for fact in (
        r"guide: z ~ Normal, event \(4,\), plates 'data' at dim -1 of size 64",
        r"model: observed x ~ Bernoulli, event \(1, 8, 8\)",
        "objective: TraceMeanField_ELBO",
        f"parameters: {sum(p.numel() for m in (model, guide) for p in m.parameters()):,} numbers",
        "particles: by plate, data counted by 'data'",
    ):
        assert re.search(fact, facts), facts
    elbo, l_50 = (float(number) for number in re.findall(r"-\d+\.\d\d", facts))
    assert -64 < elbo < l_50 < -35


def test_a_pair_stays_as_it_was():
    pair = small_pair()
    pair[1].eval()
    for p in pair[0].parameters():
        p.grad = torch.full_like(p, 3.0)
    before, noise = state_of(pair), torch.get_rng_state()
    diagnose(*pair, *digits())
    assert same_state(before, state_of(pair))
    assert torch.equal(noise, torch.get_rng_state())
    assert all((p.grad == 3).all() for p in pair[0].parameters())
    assert all(p.grad is None for p in pair[1].parameters())
    assert (pair[0].training, pair[1].training) == (True, False)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("autoencoder", r"gives a point.*no bound on log p\(x\)"),
        ("two layers", "TraceMeanField_ELBO would be wrong.*'z_1' depends on 'z_2'"),
        ("ladder", None),
        ("dense", None),
    ],
)
def test_what_is_legal_and_may_not_be_meant_is_a_note(name, note):
    model, guide, observation = make(name)
    notes = diagnose(model, guide, *digits(observation)).notes
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])


def test_what_is_said_about_fields_is_a_note():
    def model(x, mask=None):
        return Model.forward(pair[0], x)

    pair = Model(), Guide()
    rows = torch.utils.data.TensorDataset(data(), torch.arange(B))
    notes = diagnose(model, pair[1], rows).notes
    assert re.search(r"field y of the data.*argument mask of model\(x, mask=None\)", notes[0])


def test_layers_behind_one_that_starts_at_zero_have_a_gradient():
    class Zero(Model):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 6))
            torch.nn.init.zeros_(self.net[1].weight)

    pair = Zero(), Guide()
    before = state_of(pair)
    assert not diagnose(*pair, data()).faults
    assert same_state(before, state_of(pair))


def test_batch_normalisation_with_running_statistics_is_right_and_learns_nothing():
    class Normalising(Guide):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(6), self.net)

        def encode(self, x):
            return super().encode(x.reshape(-1, 6))

    pair = Model(), Normalising()
    before = state_of(pair)
    assert "1.net.0.running_mean" in before
    found = diagnose(*pair, data())
    assert not found.faults, found
    assert same_state(before, state_of(pair))


def test_a_plate_that_subsamples_weighs_no_term_wrongly():
    x = 0.01 * data()  # of a density far above one: 1000 times log p(x) is larger than it

    def model(x):
        with pyro.plate("data", 1000 * B, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = torch.zeros_like(x) * z.sum(-1, keepdim=True)
            pyro.sample("x", dist.Normal(loc, 0.01).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 1000 * B, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.1).to_event(1))

    assert not diagnose(model, guide, x).faults


@pytest.mark.parametrize("shift", [-1.5, 0.0, 1.5])
@pytest.mark.parametrize("dim", [1, 2, 20, 60])
def test_a_density_that_is_not_that_of_its_draws_by_how_much(dim, shift):
    torch.manual_seed(0)
    q = dist.Normal(torch.linspace(-1, 1, dim), 0.7).to_event(1)
    low, high = _excess(q.sample([1024, 16]), lambda u: q.log_prob(u) + shift)
    tolerance = 0.1 if dim < 20 else 0.5
    assert low == pytest.approx(-shift, abs=tolerance) or (low < -shift and shift > 0)
    assert high == pytest.approx(shift, abs=tolerance) or (high < shift and shift < 0)
    assert (max(low, high) > 0.5) == (shift != 0)


@pytest.mark.parametrize(
    "q",
    [
        dist.Laplace(0.0, 1.0),
        dist.StudentT(2.0),
        dist.Cauchy(0.0, 1.0),
        dist.Uniform(-1.0, 1.0),
        dist.Gumbel(0.0, 3.0),
        dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([0.9, 0.1])),
            dist.Normal(torch.tensor([0.0, 9.0]), torch.tensor([0.1, 1.0])),
        ),
    ],
    ids=lambda q: type(q).__name__,
)
def test_no_alarm_for_densities_far_from_gaussian(q):
    def log_prob(u):
        return torch.where(q.support.check(u), q.log_prob(u.clamp(-1, 1)), -math.inf)

    log_q = log_prob if isinstance(q, dist.Uniform) else q.log_prob
    for seed in range(20):
        torch.manual_seed(seed)
        for dim in (1, 3):
            u = q.sample([1024, 16, dim])
            assert max(_excess(u, lambda u: log_q(u).sum(-1))) < 0.5


def test_a_density_of_another_shape_is_seen():
    torch.manual_seed(0)
    for scale in (0.3, 3.0):
        claimed = dist.Normal(torch.zeros(2), scale).to_event(1)
        u = torch.randn(1024, 16, 2)
        assert max(_excess(u, claimed.log_prob)) > 0.5


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shell_fails_on_a_fault(here, capsys):
    assert main(["check", "VAE", "MeanField", "--model.latent_dim", "3"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("no fault found\n")
    assert "model: z ~ Normal, event (3,)" in said
    pair = ["check", "--model.latent_dim", "3", "--guide.latent_dim", "4"]
    assert main(pair) == 1
    said = capsys.readouterr().out
    assert "fault: Site 'z'" in said
    assert said.endswith("1 fault found\n")
    chain = ["check", "HierarchicalVAE", "BottomUp"]
    assert main(chain) == 0
    assert "note: TraceMeanField_ELBO would be wrong" in capsys.readouterr().out
    assert main([*chain, "--loss", "TraceMeanField_ELBO"]) == 1
    assert "fault: TraceMeanField_ELBO would be wrong" in capsys.readouterr().out


def test_the_shell_checks_the_pair_of_a_run(here, capsys):
    small = ["--model.hidden_dims", "[9]", "--guide.hidden_dims", "[9]", "--model.latent_dim", "3"]
    run = ["train", *small, "--epochs", "1", "--loss", "Trace_ELBO", "--progress", "false"]
    assert main([*run, "--out", "run"]) == 0
    assert main(["check", "--config", "run/config.yaml"]) == 0
    said = capsys.readouterr().out
    assert "event (3,)" in said
    assert "objective: Trace_ELBO" in said
    assert "parameters: 1,321 numbers" in said


def test_data_of_ones_own(here, capsys):
    torch.save(torch.rand(200, 5), "mine.pt")
    assert main(["check", "--data", "mine.pt"]) == 0
    said = capsys.readouterr().out
    assert "observed x ~ Bernoulli, event (5,)" in said
    assert "note: This is not a likelihood" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["VAE"], "A pair has two programs"),
        (["VAE", "MeanField", "third"], "A pair has two programs"),
        (["--out", "x"], "There is no option --out: a check writes nothing"),
        (["--resume=x"], "There is no option --resume"),
        (["--epochs", "3"], "There is no option --epochs"),
        (["--data.seed", "x"], "--data.seed: Expected an int"),
    ],
)
def test_a_command_line_that_is_none(argv, said, here, capsys):
    assert main(["check", *argv]) == 2
    assert said in capsys.readouterr().err
