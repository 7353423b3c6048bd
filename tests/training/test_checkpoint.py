"""Checkpoints: what they carry, and every way in which one can be wrong."""

import pickle

import pyro
import pytest
import torch
from programs import PROGRAMS
from torch import nn
from torch.distributions import constraints

import pvae
from pvae import PvaeError
from pvae.training.checkpoint import read_checkpoint


def _pair(latent_dim=3):
    return (
        pvae.models.VAE((1, 8, 8), latent_dim=latent_dim, hidden_dims=[8]),
        pvae.guides.MeanField((1, 8, 8), latent_dim=latent_dim, hidden_dims=[8]),
    )


@pytest.fixture
def run(tmp_path):
    pair = _pair()
    x = torch.zeros(32, 1, 8, 8)
    pvae.fit(*pair, x, epochs=2, batch_size=16, out=tmp_path, progress=False)
    return tmp_path, pair


def test_load_gives_the_trained_pair(run):
    folder, (model, guide) = run
    new_model, new_guide = pvae.load(folder, **dict(zip(("model", "guide"), _pair(), strict=True)))
    for old, new in ((model, new_model), (guide, new_guide)):
        for name, value in old.state_dict().items():
            assert torch.equal(value, new.state_dict()[name])


def test_another_pair_is_refused_and_left_as_it_was(run):
    folder, _ = run
    model, guide = _pair(latent_dim=4)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    said = r"belongs to another pair.*shape \(8, 3\) in the checkpoint, \(8, 4\) in the pair"
    with pytest.raises(PvaeError, match=said):
        pvae.load(folder, model=model, guide=guide)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    with pytest.raises(PvaeError, match="belongs to another pair"):
        pvae.load(folder, model=nn.Linear(2, 2), guide=guide)


def test_a_run_of_a_notebook_needs_its_pair(run):
    with pytest.raises(PvaeError, match=r"VAE, MeanField.*pvae\.load\(run, model=model"):
        pvae.load(run[0])
    with pytest.raises(PvaeError, match="both"):
        pvae.load(run[0], model=_pair()[0])


def test_missing_and_truncated(run):
    folder, _ = run
    with pytest.raises(PvaeError, match="no checkpoint yet"):
        pvae.load(folder / "nowhere")
    path = folder / "checkpoint.pt"
    (folder / "other").mkdir()
    with pytest.raises(PvaeError, match=r"other cannot be read: Is a directory\.$"):
        read_checkpoint(folder / "other")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PvaeError, match=r"truncated or not a checkpoint|not read"):
            read_checkpoint(path)
    path.write_text("epoch,elbo\n1,2\n")
    with pytest.raises(PvaeError, match="checkpoint"):
        read_checkpoint(path)
    torch.save({"something": 1}, path)
    with pytest.raises(PvaeError, match="not a checkpoint that this version"):
        read_checkpoint(path)


class _Evil:
    def __reduce__(self):
        return (open, ("/tmp/pvae-evil-was-here", "w"))


def test_a_checkpoint_that_runs_code_is_not_read(run, tmp_path):
    import pathlib

    marker = pathlib.Path("/tmp/pvae-evil-was-here")
    marker.unlink(missing_ok=True)
    path = run[0] / "checkpoint.pt"
    torch.save({"format": "pvae checkpoint 1", "state": _Evil()}, path)
    with pytest.raises(PvaeError, match="could run code"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(PvaeError):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_checkpoint_is_plain_containers(run):
    def walk(thing):
        if isinstance(thing, dict):
            assert type(thing) is dict or type(thing).__name__ == "OrderedDict"
            for key, value in thing.items():
                assert isinstance(key, str | int)
                walk(value)
        elif isinstance(thing, list | tuple):
            for value in thing:
                walk(value)
        else:
            assert thing is None or isinstance(thing, torch.Tensor | int | float | str | bool)

    walk(read_checkpoint(run[0] / "checkpoint.pt"))


def test_closures_and_their_params_come_back_with_constraints(tmp_path):
    model, guide, batch, exact = PROGRAMS["global_param"](seed=3)
    pvae.fit(model, guide, batch, epochs=5, batch_size=16, lr=0.05, out=tmp_path, progress=False)
    before = exact(*batch)
    value = pyro.param("noise_3").item()
    pyro.clear_param_store()
    model, guide, _, exact = PROGRAMS["global_param"](seed=3)
    pvae.load(tmp_path, model=model, guide=guide)
    assert pyro.param("noise_3").item() == pytest.approx(value)
    torch.testing.assert_close(exact(*batch), before)
    assert pyro.get_param_store()._constraints["noise_3"] is constraints.positive


@pytest.mark.parametrize(
    "constraint",
    [
        constraints.positive,
        constraints.unit_interval,
        constraints.simplex,
        constraints.interval(-1.0, 2.0),
        constraints.greater_than(3.0),
        constraints.independent(constraints.positive, 1),
        constraints.lower_cholesky,
    ],
    ids=str,
)
def test_constraints_survive(tmp_path, constraint):
    from pvae.training.checkpoint import _constraint_from_plain, _constraint_to_plain

    torch.save(_constraint_to_plain(constraint), tmp_path / "c.pt")
    plain = torch.load(tmp_path / "c.pt", weights_only=True)
    back = _constraint_from_plain("p", plain)
    raw = torch.randn(3, 3)
    one, other = (
        torch.distributions.transform_to(constraint),
        torch.distributions.transform_to(back),
    )
    assert torch.equal(one(raw), other(raw))
