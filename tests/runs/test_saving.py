"""A pair that is saved to be shared: what the folder holds, and when it is refused."""

import json
import os

import pyro
import pytest
import torch
import yaml
from programs import PROGRAMS
from pyro.nn import PyroModule, PyroParam
from safetensors.torch import load_file, save_file
from small import quick_fit, same_state, small_pair, state_of
from torch import nn
from torch.distributions import constraints
from zoo import make

import pvae
from pvae import PvaeError
from pvae.pair import modules

X = torch.zeros(16, 1, 8, 8)


class Tied(PyroModule):
    """An output layer whose weight is the embedding's, a constrained scale and a buffer."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.size = size
        self.first, self.last = nn.Linear(size, size), nn.Linear(size, size)
        self.last.weight = self.first.weight
        self.scale = PyroParam(torch.tensor(0.3), constraints.positive)
        self.register_buffer("mean", torch.full((size,), 2.0))

    def forward(self, x):
        return self.last(self.first(x)) * self.scale + self.mean


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    pair, digits = small_pair(), pvae.data.load("digits")
    quick_fit(pair, digits, epochs=1, out=folder)
    evaluation = pvae.evaluate(*pair, digits, num_samples=20, estimators=[], progress=False)
    evaluation.save(folder)
    return folder, pair, evaluation


@pytest.mark.parametrize("name", ["VampPrior", "VQ-VAE", "ladder", "flow prior"])
def test_a_pair_of_the_package_is_built_again(tmp_path, name):
    *pair, _ = make(name)
    pvae.save(pair, tmp_path / "saved")
    again = pvae.load(tmp_path / "saved")
    assert same_state(state_of(pair), state_of(again))
    assert again[0] is not pair[0]


def test_tied_parameters_are_kept_once_and_constrained_ones_whole(tmp_path):
    model, guide = Tied(), Tied()
    guide.shared = model  # a guide that holds a part of the model
    with pytest.warns(UserWarning, match="cannot build Tied and Tied again"):
        pvae.save((model, guide), tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    weights = [name for name in kept if name.endswith("weight")]
    assert weights == ["guide.first.weight", "model.first.weight"]
    again, other = Tied(), Tied()
    other.shared = again
    pvae.load(tmp_path, model=again, guide=other)
    x = torch.randn(4, 3)
    assert torch.equal(again(x), model(x))
    assert torch.equal(other(x), guide(x))
    assert again.first.weight is again.last.weight


def test_the_values_of_pyro_param_are_saved_once_the_pair_has_run(tmp_path):
    pyro.clear_param_store()
    model, guide, batch, exact = PROGRAMS["global_param"]()
    model(*batch)
    expected = exact(*batch)
    (name,) = [n for n in pyro.get_param_store() if "$$$" not in n]
    pyro.param("a stranger's", torch.zeros(1))
    with pytest.raises(PvaeError, match="give some data"):
        pvae.save((model, guide), tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="cannot build"):
        pvae.save((model, guide), tmp_path, batch)
    pyro.clear_param_store()
    pvae.load(tmp_path, model=model, guide=guide)
    assert list(pyro.get_param_store()) == [name]
    assert torch.equal(exact(*batch), expected)


def test_a_run_is_saved_with_its_data_and_its_bounds(run, tmp_path):
    folder, pair, evaluation = run
    pvae.save(folder, tmp_path)
    assert same_state(state_of(pair), state_of(pvae.load(tmp_path)))
    names = {path.name for path in tmp_path.iterdir()}
    results = {"evaluation.json", "evaluation.nc"}
    assert names == {"README.md", "config.yaml", "model.safetensors", *results}
    _, front, text = (tmp_path / "README.md").read_text("utf-8").split("---\n", 2)
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == evaluation.summary()["elbo"]["mean"]
    last = evaluation.summary()["log_px"][-1]
    assert f"| L_20 | −{-last['mean']:.2f} ± {last['se']:.2f} |" in text
    for words in (evaluation.data["hash"], evaluation.verdict, "density: p(x)", "latent_dim=4"):
        assert words in text
    assert "pvae run --config FOLDER/config.yaml" in text
    assert f"torch: {torch.__version__}" in text


def test_the_evaluation_of_other_parameters_is_left_out(run, tmp_path):
    folder, _, _ = run
    copied = tmp_path / "run"
    copied.mkdir()
    for name in ("evaluation.json", "evaluation.nc", "config.yaml", "checkpoint.pt"):
        (copied / name).write_bytes((folder / name).read_bytes())
    os.utime(copied / "evaluation.nc", (0, 0))
    with pytest.warns(UserWarning, match="trained after its evaluation"):
        pvae.save(copied, tmp_path / "saved")
    assert "Not evaluated" in (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert not (tmp_path / "saved" / "evaluation.nc").exists()


def test_data_and_evaluation_of_a_pair_in_python(run, tmp_path):
    _, pair, evaluation = run
    pvae.save(pair, tmp_path, pvae.data.load("digits"), evaluation=evaluation)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation.summary()
    assert pvae.runs.read_config(tmp_path)["data"]["source"] == "digits"
    other = pvae.models.FlowPriorVAE((1, 8, 8)), pair[1]
    with pytest.raises(PvaeError, match="not of FlowPriorVAE"):
        pvae.save(other, tmp_path, evaluation=evaluation, overwrite=True)


def test_another_pair_starts_from_a_saved_one(tmp_path):
    pair = small_pair()
    pvae.save(pair, tmp_path)
    other = small_pair(seed=1)
    taken = pvae.warm_start(*other, tmp_path)
    assert len(taken) == len(state_of(pair))
    assert same_state(state_of(pair), state_of(other))


def test_only_a_saved_pair_is_overwritten(run, tmp_path):
    pair = small_pair()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(PvaeError, match=r"has content \(README.md\) but no saved pair"):
        pvae.save(pair, tmp_path, overwrite=True)
    save_file({"weight": X}, tmp_path / "model.safetensors")
    with pytest.raises(PvaeError, match="no saved pair"):
        pvae.save(pair, tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(PvaeError, match="is the folder of a run"):
        pvae.save(pair, run[0], overwrite=True)
    pvae.save(pair, tmp_path / "new")
    with pytest.raises(PvaeError, match="has a saved pair already"):
        pvae.save(pair, tmp_path / "new")
    other = small_pair(seed=1)
    pvae.save(other, tmp_path / "new", overwrite=True)
    assert same_state(state_of(other), state_of(pvae.load(tmp_path / "new")))


def test_what_is_not_a_pair_or_not_a_saved_one_is_refused(tmp_path):
    with pytest.raises(PvaeError, match=r"Give save a pair, \(model, guide\)"):
        pvae.save(small_pair()[0], tmp_path)
    save_file({"weight": X}, tmp_path / "model.safetensors")
    with pytest.raises(PvaeError, match=r"is not a pair that pvae\.save wrote"):
        pvae.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678 not safetensors")
    with pytest.raises(PvaeError, match="is damaged"):
        pvae.load(tmp_path)


def test_a_sparse_buffer_is_refused_by_name(tmp_path):
    model, guide = Tied(), Tied()
    model.mean = torch.eye(3).to_sparse()
    with pytest.raises(PvaeError, match=r"model\.mean was not saved: it is a sparse"):
        pvae.save((model, guide), tmp_path)
    assert "model" in modules(model, guide)
    assert not any(tmp_path.iterdir())
