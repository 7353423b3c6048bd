"""Whole steps as one CUDA graph, with a stand-in for CUDA that runs the function again."""

import gc
import weakref

import pyro
import pytest
import torch
from asking import evaluate
from programs import linear_gaussian
from pyro.infer import Trace_ELBO
from small import same_state, state_of, take_steps
from stepping import X, fresh_pair

import pvae
import pvae.training.compiled_step as compiled
from pvae import SVI, PvaeError
from pvae.compile.cuda_graph import Replay, can_replay


@pytest.fixture
def captures(monkeypatch, uncompiled):
    """Takes the way of a GPU on the CPU; returns how often each capture was replayed."""
    counts = []

    def capture(run):
        outputs, number = run(), len(counts)
        counts.append(0)

        def replay():
            counts[number] += 1
            for mine, new in zip(outputs, run(), strict=True):
                mine.copy_(new)

        return replay, outputs

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", capture)
    for place in (
        "pvae.training.compiled_step", "pvae.importance.chunks", "pvae.importance.path",
        "pvae.training.loop",
    ):  # fmt: skip
        monkeypatch.setattr(f"{place}.can_replay", lambda device: True)
    monkeypatch.setattr("pvae.training.svi._on_gpu", lambda loss: isinstance(loss, torch.Tensor))
    return counts


def _agree(captures, before=None, **options):
    options = {"before": before, "steps": 12, **options}
    found = []
    for mode in ("eager", "compiled"):
        pair = fresh_pair()
        losses, svi = take_steps(pair, mode, X, **options)
        found.append((losses, state_of(pair)))
    (eager, ours), (replayed, theirs) = found
    assert replayed == pytest.approx(eager, rel=1e-7)  # a rate on the device is float32
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-8)
    assert svi.compiled
    return svi


@pytest.mark.filterwarnings("error:Annealing runs")
def test_annealing_replays_one_capture(captures, monkeypatch):
    pair, found = linear_gaussian(), []
    x = pair[2][:40]
    for worth in (10**9, 1):
        monkeypatch.setattr("pvae.evaluation.estimators.annealing._WORTH_COMPILING", worth)
        some = {"num_samples": 2, "ais": 40, "num_chains": 40, "num_temperatures": 8}
        found.append(evaluate(*pair[:2], x, progress=False, **some).findings["ais_prior"].log_px)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert len(captures) == 2  # from the prior, from the guide
    assert min(captures) > 2 * 2 * 7


def test_replayed_steps_are_eager_ones(captures):
    _agree(captures)
    assert captures == [1 + 10]  # the trial; and all steps but the first two, which are checked


def test_a_schedule_is_sent_to_the_device(captures):
    def before(i, svi):
        svi.optim.set_lr(1 / (1 + i))
        svi.kl_weight = 0.1 * (i + 1)

    svi = _agree(captures, before)
    assert len(captures) == 1
    assert type(svi.optim.groups[0]["lr"]) is float
    assert not svi.optim.groups[0]["capturable"]


def test_what_is_constant_in_a_capture_is_captured_anew(captures):
    def before(i, svi):
        if i == 4:
            svi.clip_norm = 0.01
        if i == 8:
            svi.optim.groups[0]["weight_decay"] = 0.1

    _agree(captures, before)
    assert captures == [1 + 2, 1 + 4, 1 + 4]


def test_a_restored_optimiser_is_captured_anew(captures):
    def before(i, svi):
        if i == 5:
            svi.optim.load_state_dict(svi.optim.state_dict())

    _agree(captures, before)
    assert len(captures) == 2


def test_optimisers_that_cannot_be_captured(captures):
    _agree(captures, optim=torch.optim.RMSprop)
    assert captures == []
    _agree(captures, optim=pyro.optim.ClippedAdam({"lr": 1e-3}))
    assert captures == []


@pytest.mark.parametrize("clip", [None, {"clip_norm": 0.01}])
def test_pyro_optimisers_are_captured(captures, clip):
    _agree(captures, optim=pyro.optim.Adam({"lr": 1e-3}, clip))
    assert captures == [1 + 10]


def test_what_is_not_finite_is_masked_and_found_later(captures):
    pair = fresh_pair()
    svi = SVI(*pair, torch.optim.Adam, Trace_ELBO(), mode="compiled")
    torch.manual_seed(1)
    for _ in range(3):
        svi.step(X)
    before = {name: value.clone() for name, value in state_of(pair).items()}
    for batch in (X * torch.nan, X, X):
        svi.update(batch)
    assert same_state(state_of(pair), before)
    with pytest.raises(PvaeError, match="The loss is nan") as caught:
        svi.settle()
    assert caught.value.steps_ago == 2
    svi.step(X)
    assert not same_state(state_of(pair), before)
    assert len(captures) == 1


def test_a_replay_that_is_wrong_is_not_used(captures, monkeypatch):
    def wrong(run):
        outputs = run()
        return lambda: outputs[0].mul_(1.1), outputs

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", wrong)
    with pytest.warns(
        UserWarning, match="not as CUDA graphs, .*: The first replay of a CUDA graph differs"
    ):
        _agree(captures)


def test_a_step_that_cannot_be_captured_runs_compiled(captures, monkeypatch):
    def fail(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", fail)
    with pytest.warns(UserWarning, match="not as CUDA graphs, .*: RuntimeError: operation not"):
        _agree(captures)


def test_it_is_compared_with_eager_steps_all_the_same(captures, monkeypatch):
    monkeypatch.setattr(compiled, "CHECKED_EVERY", 4)
    _agree(captures)
    assert captures == [1 + 8]  # of twelve steps four are checked


def test_a_replay_changes_nothing_when_it_is_made(monkeypatch):
    state = torch.zeros(())
    noise = torch.get_rng_state()

    def capture(run):
        raise RuntimeError

    def function(inputs):
        return [state.add_(inputs[0].sum() + torch.rand(()))]

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", capture)
    with pytest.raises(RuntimeError):
        Replay(function, [torch.ones(3)], [state])
    assert state == 0
    assert torch.equal(noise, torch.get_rng_state())


def test_what_a_captured_graph_reads_is_kept(monkeypatch):
    """It has addresses alone: what only the function holds must not be freed."""
    monkeypatch.setattr("pvae.compile.cuda_graph._capture", lambda run: ((lambda: None), run()))
    scale = torch.full((3,), 2.0)
    kept = weakref.ref(scale)

    def function(inputs, scale=scale):
        return [scale * inputs[0]]

    replay = Replay(function, [torch.ones(3)])
    del function, scale
    gc.collect()
    assert kept() is not None
    del replay
    gc.collect()
    assert kept() is None


@pytest.fixture
def later_wrong(captures, monkeypatch):
    """Replays that are right at first: what they read is another thing from the seventh on."""
    counts = []

    def capture(run):
        outputs = run()

        def replay():
            counts.append(1)
            for mine, new in zip(outputs, run(), strict=True):
                mine.copy_(new if len(counts) <= 6 else torch.full_like(new, 3))

        return replay, outputs

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", capture)


@pytest.mark.parametrize("by", ["wrong", "nan"])
def test_later_replays_are_compared_too(monkeypatch, by):
    state, calls = torch.zeros(()), []

    def capture(run):
        outputs = run()

        def replay():
            calls.append(1)
            (new,) = run()
            outputs[0].copy_(new if len(calls) < 12 else new * torch.nan if by == "nan" else -new)

        return replay, outputs

    def function(inputs):
        return [state.add_(inputs[0].sum() + torch.rand(())).clone()]

    monkeypatch.setattr("pvae.compile.cuda_graph._capture", capture)
    torch.manual_seed(0)
    replay = Replay(function, [torch.ones(3)], [state])
    found = [float(replay([torch.full((3,), float(i))])[0]) for i in range(15)]
    torch.manual_seed(0)
    expected = torch.stack([3.0 * i + torch.rand(()) for i in range(15)]).cumsum(0)
    assert found[:10] == pytest.approx(expected[:10].tolist())
    assert float(state) == pytest.approx(float(expected[-1]))
    noise = torch.get_rng_state()
    with pytest.raises(PvaeError, match=r"Replay 16 of a CUDA graph .* since replay 8"):
        replay([torch.ones(3)])
    assert float(state) == pytest.approx(float(expected[-1]))  # as before that replay
    assert torch.equal(noise, torch.get_rng_state())


def test_a_step_whose_replay_goes_wrong_runs_compiled(later_wrong):
    svi = SVI(*fresh_pair(), torch.optim.Adam, Trace_ELBO(), mode="compiled")
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=r"not as CUDA graphs, .*: Replay 8 of .* since replay 4"):
        losses = [svi.step(X) for _ in range(12)]
    eager = SVI(*fresh_pair(), torch.optim.Adam, Trace_ELBO(), mode="eager")
    torch.manual_seed(1)
    expected = [eager.step(X) for _ in range(12)]
    assert losses[:7] == pytest.approx(expected[:7], rel=1e-7)
    assert losses[9:] == pytest.approx(expected[9:], rel=1e-7)
    assert losses[7] == 3.0


def test_an_evaluation_whose_replay_goes_wrong_ends(later_wrong, monkeypatch):
    pair = pvae.models.VAE((1, 8, 8), 4), pvae.guides.MeanField((1, 8, 8), 4)
    x = pvae.data.load("digits").test.tensors()[0][:256]
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_COMPILING", 3000)
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_TUNING", 3000)
    with pytest.raises(PvaeError, match=r"Replay \d+ of a CUDA graph differs from the function"):
        evaluate(*pair, x, num_samples=300, prior_samples=0, progress=False)


def test_a_recording_on_several_devices_is_not_captured(captures, monkeypatch):
    assert not can_replay(None)
    assert not can_replay(torch.device("cpu"))
    assert can_replay(torch.device("cuda", 1))
    for place in ("pvae.training.compiled_step", "pvae.importance.chunks"):
        monkeypatch.setattr(f"{place}.can_replay", lambda device: device is not None)
    _agree(captures)
    assert len(captures) == 1
    record = pvae.compile.graph.record
    monkeypatch.setattr("pvae.compile.graph.record", lambda *args: (record(*args)[0], None))
    _agree(captures)
    assert len(captures) == 1
    pair = pvae.models.VAE((1, 8, 8), 4), pvae.guides.MeanField((1, 8, 8), 4)
    x = pvae.data.load("digits").test.tensors()[0][:64]
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_COMPILING", 3000)
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_TUNING", 3000)
    evaluate(*pair, x, num_samples=100, prior_samples=0, progress=False)
    assert len(captures) == 1


def test_memory_that_is_exchanged_is_captured_anew(captures):
    """A parameter, and a tensor that the pair holds elsewhere."""
    held = torch.ones(4, dtype=torch.float64)

    def before(i, svi):
        if i == 0:
            held.data = torch.ones(4, dtype=torch.float64)
            svi.model.net.register_forward_hook(lambda _, __, out: out * held)
        if i == 5:
            bias = svi.model.net[0].bias
            bias.data = bias.data + 1
        if i == 8:
            held.data = 2 * held

    _agree(captures, before)
    assert captures == [1 + 3, 1 + 3, 1 + 4]


def test_fit_gathers_and_observes_in_a_graph_of_its_own(captures):
    digits = pvae.data.load("digits")
    found = []
    for mode in ("eager", "compiled"):
        torch.manual_seed(0)
        pair = pvae.models.VAE((1, 8, 8), 4), pvae.guides.MeanField((1, 8, 8), 4)
        options = {"epochs": 2, "batch_size": 200, "mode": mode, "progress": False}
        found.append(pvae.fit(*pair, digits, **options).history)
    for ours, theirs in zip(*found, strict=True):
        assert theirs["elbo"] == pytest.approx(ours["elbo"], rel=1e-5)
    # Each epoch of both runs captures the gathering of minibatches, and one run its steps.
    assert len(captures) == 2 * 2 + 1


def test_evaluation_replays_its_chunks(captures, monkeypatch):
    pair = pvae.models.VAE((1, 8, 8), 4), pvae.guides.MeanField((1, 8, 8), 4)
    x = pvae.data.load("digits").test.tensors()[0][:64]
    options = {"num_samples": 300, "prior_samples": 0, "progress": False}
    usual = evaluate(*pair, x, **options)
    assert not captures
    for name in ("_WORTH_TUNING", "_WORTH_COMPILING"):
        monkeypatch.setattr(f"pvae.evaluation.estimators.importance.{name}", 3000)
    found = evaluate(*pair, x, **options)
    assert captures
    assert found.log_px == pytest.approx(usual.log_px, rel=1e-5)
