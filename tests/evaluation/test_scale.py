"""The same numbers, bit for bit, whatever the chunks, the kills and the number of processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import assert_same, evaluate
from programs import linear_gaussian
from small import small_pair

import pvae
from pvae import Evaluation, PvaeError
from pvae.evaluation.work import FOLDER, Work, half_done
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

SCRIPT = textwrap.dedent(
    """
    import atexit, os, signal, sys, torch, pvae
    from pvae.estimators import AIS, NaiveMonteCarlo, Surgery
    from pvae.evaluation.work import Work

    torch.set_num_threads(1)
    out, survive = sys.argv[1], int(sys.argv[2])
    atexit.register(lambda: torch.distributed.is_initialized() and open(f"{out}.in", "w"))
    written, write = 0, Work._write

    def kill_after(self, *args):
        global written
        open(f"{out}.rank{self.rank}", "a").write("x")
        write(self, *args)
        written += 1
        if written == survive:
            os.kill(os.getpid(), signal.SIGKILL)

    Work._write = kill_after
    torch.manual_seed(0)
    model = pvae.models.VAE((1, 8, 8), latent_dim=4, hidden_dims=[16])
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=4, hidden_dims=[16])
    data = pvae.data.load("digits").test.tensors()[0][:150]
    ais = AIS(6, num_chains=4, num_temperatures=10, num_leapfrog=2)
    pvae.evaluate(
        model, guide, data, num_samples=[1, 7, 300], progress=False, out=out, device="cpu",
        estimators=[NaiveMonteCarlo(num_samples=20), Surgery(), ais],
    )
    """
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("scale") / "evaluate_it.py"
    path.write_text(SCRIPT)
    return path


def _run(script, out, survive=0, processes=1):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(script), str(out), str(survive)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def undisturbed_at(script):
    return script.parent / "undisturbed"


@pytest.fixture(scope="module")
def undisturbed(script):
    out = undisturbed_at(script)
    done = _run(script, out)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["evaluation.json", "evaluation.nc"]
    return Evaluation.load(out)


def test_two_processes_find_what_one_finds(script, undisturbed, tmp_path):
    done = _run(script, tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    assert not Path(f"{tmp_path}.in").exists()  # in a group at the end of Python, it may abort
    assert_same(Evaluation.load(tmp_path), undisturbed)
    assert not (tmp_path / FOLDER).exists()
    # The weights have five blocks, the prior five, the surgery one or more, AIS one each.
    alone = len(Path(f"{undisturbed_at(script)}.rank0").read_text())
    shares = [len(Path(f"{tmp_path}.rank{rank}").read_text()) for rank in (0, 1)]
    assert sum(shares) == alone  # each block by one of them
    assert min(shares) > alone / 4


def test_a_killed_evaluation_goes_on_where_it_was(script, undisturbed, tmp_path):
    for survive in (3, 4):  # within the weights, of five blocks; in what follows them
        assert _run(script, tmp_path, survive).returncode == -9
    kept = half_done(tmp_path)
    assert kept == 2  # those of the weights have been saved
    assert (tmp_path / "evaluation.nc").exists()
    assert _run(script, tmp_path).returncode == 0
    assert_same(Evaluation.load(tmp_path), undisturbed)
    assert half_done(tmp_path) is None


def test_an_evaluation_is_added_to(tmp_path, monkeypatch):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:40]
    options = {"num_samples": 50, "progress": False, "out": tmp_path}
    first = evaluate(*pair, x, **options)
    drawn = []
    stream = Sampler.stream
    monkeypatch.setattr(Sampler, "stream", lambda *a, **k: drawn.append(1) or stream(*a, **k))
    annealing = {"num_chains": 4, "num_temperatures": 5, "num_leapfrog": 2}
    second = evaluate(*pair, x, **options, ais=3, **annealing)
    probes = len(drawn)  # a single sample, which tells the pair from others
    assert probes == 1  # the weights were there already
    monkeypatch.setattr("pvae.evaluation.estimators.annealing.anneal", None)  # nor is AIS run again
    again = evaluate(*pair, x, **options, ais=3, **annealing)
    ours, theirs = (e.findings["ais_prior"] for e in (again, second))
    np.testing.assert_array_equal(ours.log_px, theirs.log_px)
    np.testing.assert_array_equal(first.log_px, second.log_px)
    assert set(second.findings) == {"prior", "surgery", "ais_prior", "ais_guide"}
    third = evaluate(*pair, x, **options)
    assert set(third.findings) == set(second.findings)  # nothing computed is lost
    assert len(drawn) == 3
    with pytest.warns(UserWarning, match="It is replaced, .* lost: .*AIS from the guide"):
        other = evaluate(*small_pair(seed=1), x, **options)
    assert len(drawn) > 5  # another pair: anew
    assert set(other.findings) == {"prior", "surgery"}


def test_half_done_in_the_shell(tmp_path, capsys):
    from pvae.cli.main import main

    run = tmp_path / "run"
    assert main(["train", "--epochs", "1", "--out", str(run), "--progress", "false"]) == 0
    with Work(run, {"of": "something else"}, False) as work:
        work.map("a", [np.arange(2)], lambda b: {"x": b})
    capsys.readouterr()
    assert main(["report", str(run)]) == 1
    assert "half done (1 blocks are kept)" in capsys.readouterr().err


def test_k_lists(tmp_path):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:10]
    result = evaluate(*pair, x, num_samples=[2, 3, 10], progress=False)
    assert list(result.bounds) == [2, 3, 10]
    rows = {row["num_samples"]: row["unused_samples"] for row in result.summary()["log_px"]}
    assert rows == {2: 0, 3: 1, 10: 0}
    for wrong in ([5, 5], [5, 2], [0, 3], []):
        with pytest.raises(PvaeError, match="must be at least 1 and increase"):
            evaluate(*pair, x, num_samples=wrong, progress=False)
    with pytest.raises(PvaeError, match="ais=-1"):
        evaluate(*pair, x, ais=-1, progress=False)


def test_every_unit_has_draws_of_its_own():
    model, guide, x, _ = linear_gaussian()
    x = x[:32]
    with Sampler(inspect(model, guide, x)) as sampler:
        assert sampler.unit((x,)) < 1100
        log_w = torch.cat([d.log_w for d in sampler.stream((x,), 2500, seed=0)])
        again = torch.cat([d.log_w for d in sampler.stream((x,), 2500, seed=0)])
        other = torch.cat([d.log_w for d in sampler.stream((x,), 2500, seed=0, first=32)])
        prior = torch.cat(list(sampler.prior_stream((x,), 200)))
    assert torch.equal(log_w, again)
    for values in (log_w, prior):
        assert len(values.unique()) == values.numel()
    assert not torch.isin(other, log_w).any()


def test_the_gap_follows_ais(tmp_path):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:40]
    options = {"num_samples": 20, "progress": False, "out": tmp_path, "num_chains": 4}
    short = evaluate(*pair, x, **options, num_temperatures=4, ais=8, gap=3)
    kept = evaluate(*pair, x, **options, num_temperatures=4, gap=5)
    assert len(kept.findings["ais_prior"]) == 8  # more data than the gap needs: not done again
    assert len(kept.findings["gap"]) == 5
    longer = evaluate(*pair, x, **options, num_temperatures=40, ais=8, gap=5)
    for result in (short, kept, longer):
        gap, ais = result.findings["gap"], result.findings["ais_guide"]
        at = np.isin(ais.datum, gap.datum)
        known = [result.log_px[gap.datum]]
        known += [result.findings[f"ais_{start}"].log_px[at] for start in ("prior", "guide")]
        # One estimator for all data: the best of each datum would be that of the luckiest draws.
        np.testing.assert_array_equal(gap.log_px, max(known, key=np.mean))
    assert (longer.findings["gap"].log_px != kept.findings["gap"].log_px).any()
