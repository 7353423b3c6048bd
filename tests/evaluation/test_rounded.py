"""A lower precision of the model's products: measured, reported, or refused."""

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from small import small_pair
from zoo import make

import pvae
from pvae import PvaeError
from pvae.cli import main
from pvae.estimators import NaiveMonteCarlo
from pvae.evaluation import half_done
from pvae.evaluation.estimators import importance
from pvae.evaluation.work import Work
from pvae.importance import Sampler
from pvae.pair import inspect
from pvae.runtime import in_precision

FEW = {"num_data": 20, "num_samples": 50, "progress": False}


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits")


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch):
    """A CPU without bfloat16 computes the same numbers, only slowly."""
    monkeypatch.setattr("pvae.runtime.precision.able", lambda device: True)


def exact_pair():
    """The guide is the posterior, so that the bound has no Monte Carlo error."""
    weights = 2.0 * torch.eye(4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x, 0.2**0.5).to_event(1))

    return model, guide


def test_the_difference_is_that_of_the_bounds(digits):
    pair = small_pair()
    high = pvae.evaluate(*pair, digits, estimators=[], **FEW)
    low = pvae.evaluate(*pair, digits, estimators=[], precision="bf16", **FEW)
    difference = low.log_px - high.log_px
    assert high.precision is None
    assert np.abs(difference).min() > 0
    told = low.precision
    assert (told["products"], told["num_data"]) == ("bf16", 20)
    assert told["difference"] == pytest.approx(difference.mean(), rel=1e-6)
    assert told["se"] == pytest.approx(difference.std(ddof=1) / 20**0.5, rel=1e-6)
    assert told["moved"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-6)
    assert told["monte_carlo_se"] == pytest.approx(np.sqrt((high.log_px_se**2).mean()), rel=1e-6)
    assert "products in bfloat16 move L_50 by" in low.table()
    assert json.loads(json.dumps(low.summary()))["precision"] == told
    notes = pvae.compare({"a": high, "b": low}).table()
    assert "in different precisions: a in float32, b in bf16" in " ".join(notes.split())


def test_only_the_model_is_rounded_and_other_estimators_are_not(digits):
    pair = small_pair()
    wanted = {"estimators": [NaiveMonteCarlo(num_samples=20)], **FEW}
    high, low = (pvae.evaluate(*pair, digits, precision=p, **wanted) for p in ("float32", "bf16"))
    np.testing.assert_array_equal(high.findings["prior"].log_px, low.findings["prior"].log_px)
    x = digits.test.tensors()[0][:8]
    with Sampler(inspect(*pair, x)) as sampler:
        draws = {}
        for precision in ("float32", "bf16"):
            with sampler.lowered(precision):
                draws[precision] = next(sampler.stream((x,), 5, seed=0))
    torch.testing.assert_close(draws["bf16"].means, draws["float32"].means, rtol=0, atol=0)
    assert not torch.equal(draws["bf16"].log_w, draws["float32"].log_w)


def test_what_moves_the_bound_by_more_than_its_error_is_refused(tmp_path, monkeypatch):
    x = 2 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    options = {"num_samples": 20, "estimators": [], "progress": False, "out": tmp_path}
    block, calls = importance._block, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return block(*args)

    monkeypatch.setattr(importance, "_block", stop)
    with pytest.raises(KeyboardInterrupt):
        pvae.evaluate(*exact_pair(), x, **options)
    assert half_done(tmp_path) == 2
    for _ in range(2):
        with pytest.raises(PvaeError, match=r"'bf16' moves L_20 of a datum by .*'float32'"):
            pvae.evaluate(*exact_pair(), x, precision="bf16", **options)
        assert half_done(tmp_path) in (2, None), "the older evaluation is lost"
        assert (pvae.evaluate(*exact_pair(), x, **options).khat == -np.inf).all()


def test_pairs_without_a_monte_carlo_error():
    digits = torch.rand(3, 1, 8, 8)
    with pytest.raises(PvaeError, match="or there is only one sample"):
        pvae.evaluate(*small_pair(), digits, num_samples=1, precision="bf16")
    *codes, _ = make("VQ-VAE")
    with pytest.raises(PvaeError, match="log w is the same for every sample"):
        pvae.evaluate(*codes, digits, num_samples=50, precision="bf16")
    _, guide = exact_pair()

    def impossible(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.factor("nothing", torch.full((len(x),), -torch.inf))

    with pytest.raises(PvaeError, match="none of 3 data has a finite bound"):
        pvae.evaluate(
            impossible, guide, torch.randn(3, 4), num_samples=9, precision="bf16", progress=False
        )
    # There is no log w that could be rounded.
    *points, _ = make("autoencoder")
    found = pvae.evaluate(*points, digits, precision="bf16", progress=False)
    assert found.precision is None


def test_a_compiled_model_is_not_rounded_twice(monkeypatch):
    """Compiled code writes its products to out=, which a mode would replace by a copy."""
    a, b, out = torch.rand(3, 4), torch.rand(4, 5), torch.zeros(3, 5)
    with in_precision("bf16"):
        torch.mm(a, b, out=out)
        lowered = torch.einsum("ij,jk->ik", a, b)
    assert torch.equal(out, a @ b)
    assert not torch.equal(lowered, out)
    modes = []

    def compile(program, inputs, options):
        def run(*tensors):
            modes.append(torch._C._len_torch_function_stack())
            return program(*tensors)

        return run

    monkeypatch.setattr(torch._inductor, "compile", compile)
    pair, x = small_pair(), torch.rand(8, 1, 8, 8).round()
    with Sampler(inspect(*pair, x)) as sampler, sampler.lowered("bf16"):
        eager = next(sampler.stream((x,), 40, seed=0)).log_w
        with sampler.tuned((x,), 40, compiled=True):
            compiled = next(sampler.stream((x,), 40, seed=0)).log_w
    assert set(modes) == {0}
    torch.testing.assert_close(compiled, eager)


def test_hardware_that_cannot():
    with pytest.raises(PvaeError, match="'tf32' has no effect here: this CPU has no TF32"):
        pvae.evaluate(*exact_pair(), torch.randn(3, 4), precision="tf32", device="cpu")
    with pytest.raises(PvaeError, match="give 'float32', 'tf32' or 'bf16'"):
        pvae.evaluate(*exact_pair(), torch.randn(3, 4), precision="fp8")


def test_in_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--num_samples", "20", "--num_data", "12", "--surgery", "false", "--progress", "false"]
    small = ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--epochs", "1"]
    assert main(["run", *small, *quick, "--precision", "bf16", "--out", "a"]) == 0
    assert pvae.Evaluation.load("a").precision is None  # that was the training's
    with pytest.warns(UserWarning, match="It is replaced"):
        assert main(["evaluate", "a", "--precision", "bf16", *quick]) == 0
    assert pvae.Evaluation.load("a").precision["products"] == "bf16"
    capsys.readouterr()
    # What is added later keeps the precision, also if it is interrupted and asked for again.
    add = ["evaluate", "a", "--bdmc", "2", "--num_temperatures", "3", *quick]
    with monkeypatch.context() as patch:
        patch.setattr(Work, "saved", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(add)
    assert half_done("a")
    capsys.readouterr()
    assert main(add) == 0
    assert "products in bfloat16" in capsys.readouterr().out
    assert main(["report", "a"]) == 0
    assert "products in bfloat16 move L_20" in (tmp_path / "a" / "report.html").read_text()
