"""The codebook: nearest vectors, gradients straight through, moving averages, restarts."""

import subprocess
import sys

import pytest
import torch

from pvae.errors import PvaeError
from pvae.nn import Codebook


def with_vectors(weight, **options):
    codebook = Codebook(*weight.shape, **options)
    codebook.weight.data.copy_(weight)
    return codebook


def test_codes_are_the_nearest_vectors_whatever_lies_left_of_them():
    torch.manual_seed(0)
    codebook, h = Codebook(7, 3).eval(), torch.randn(2, 5, 4, 3)
    z = codebook(h)
    nearest = torch.cdist(h.reshape(-1, 3), codebook.weight).argmin(-1)
    assert torch.equal(z.reshape(-1, 7).argmax(-1), nearest)
    assert torch.equal(z.sum(-1), torch.ones(2, 5, 4))
    e = codebook.weight.detach()[nearest]
    assert torch.allclose(codebook.embed(z).reshape(-1, 3), e, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_codes_are_the_nearest_vectors_far_from_zero_and_in_bfloat16(precision):
    torch.manual_seed(0)
    codebook, h = with_vectors(100 + torch.randn(40, 8)), 100 + torch.randn(500, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = codebook(h).argmax(-1)
        assert codebook(h[0]).argmax() == found[0]
    nearest = torch.cdist(h.double(), codebook.weight.double()).argmin(-1)
    assert (found == nearest).float().mean() > 0.998


@pytest.mark.parametrize(("scale", "mean"), [(1e-3, 0.0), (1.0, 0.0), (1e3, 0.0), (0.01, 1.0)])
def test_an_encoding_gets_the_gradient_of_its_vector_unchanged(scale, mean):
    torch.manual_seed(0)
    codebook = with_vectors(mean + scale * torch.randn(40, 8), restart=0)
    h = (mean + scale * torch.randn(6, 8)).requires_grad_()
    network = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh())
    e = codebook.embed(codebook(h))
    network(e).square().sum().backward()
    reached = e.detach().requires_grad_()
    network(reached).square().sum().backward()
    bound = 1e-4 * reached.grad.abs().max()
    assert torch.allclose(h.grad, reached.grad, rtol=0, atol=bound)
    assert codebook.weight.grad is None


@pytest.mark.parametrize(("num_codes", "code_dim"), [(3, 2), (16, 8)])
def test_moving_averages_leave_the_gradient_unchanged_too(num_codes, code_dim):
    """The gradient goes through the vectors that are embedded, which the call has just moved."""
    torch.manual_seed(0)
    codebook = Codebook(num_codes, code_dim, decay=0.99)
    for _ in range(3):
        h, slope = torch.randn(256, code_dim, requires_grad=True), torch.randn(256, code_dim)
        (codebook.embed(codebook(h)) * slope).sum().backward()
        assert torch.allclose(h.grad, slope, atol=1e-4)


def test_a_codebook_that_spans_a_part_of_its_space_passes_that_part():
    weight = torch.zeros(3, 4)
    weight[:, :2] = torch.randn(3, 2)
    codebook, h = with_vectors(weight, restart=0), torch.randn(5, 4, requires_grad=True)
    target = torch.randn(5, 4)
    (codebook.embed(codebook(h)) * target).sum().backward()
    assert torch.allclose(h.grad[:, :2], target[:, :2], atol=1e-4)
    assert h.grad[:, 2:].abs().max() < 1e-4


def test_the_penalty_is_both_terms_with_their_own_gradients():
    torch.manual_seed(0)
    codebook, h = Codebook(4, 3, restart=0), torch.randn(6, 3, requires_grad=True)
    z = codebook(h)
    e = codebook.weight[z.argmax(-1)]
    codebook.penalty(h, z, commitment=0.5).sum().backward()
    apart = (h - e).detach()
    assert torch.allclose(h.grad, 0.5 * 2 * apart, atol=1e-6)
    expected = torch.zeros(4, 3).index_add(0, z.argmax(-1), -2 * apart)
    assert torch.allclose(codebook.weight.grad, expected, atol=1e-6)
    moving = with_vectors(codebook.weight.detach(), decay=0.9)
    assert torch.allclose(
        moving.penalty(h, z, commitment=0.5), 0.5 * apart.square().sum(-1), atol=1e-6
    )


def test_moving_averages_go_to_the_means_of_what_is_nearest():
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0]])
    codebook = with_vectors(centres + 1.0, decay=0.5, restart=0)
    for _ in range(40):
        codebook(centres[torch.arange(300) % 3] + 0.1 * torch.randn(300, 2))
    assert torch.allclose(codebook.weight, centres, atol=0.05)
    assert torch.allclose(codebook.uses, torch.full((3,), 100.0), rtol=1e-3)
    before = codebook.weight.clone()
    codebook.eval()(torch.randn(50, 2) + 3)
    assert torch.equal(codebook.weight, before)


def test_unused_vectors_start_again_at_data():
    torch.manual_seed(0)
    far, h = torch.full((8, 2), 1e4), torch.randn(64, 2)
    codebook = with_vectors(far, decay=0.9, restart=0.1)
    codebook(h)
    assert codebook.weight.norm(dim=-1).max() < 5
    with torch.no_grad():
        codebook.weight[3], codebook.sums[3] = far[0], far[0] * codebook.uses[3]
    before = codebook.uses[3].clone()
    calls = 0
    while codebook.weight[3].norm() > 100:
        codebook(h)
        calls += 1
    # Its uses have shrunk by 0.9 at each call, and then it lies at one of the data.
    assert calls == int(torch.ceil(torch.log(0.1 / before) / torch.log(torch.tensor(0.9)))) + 1
    assert (codebook.eval()(h).sum(0) > 0).all()
    kept = with_vectors(far, decay=0.9, restart=0)
    kept(h)
    assert torch.equal(kept.weight[1:], far[1:])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"num_codes": 0}, "num_codes=0"),
        ({"code_dim": 0}, "code_dim=0"),
        ({"decay": 1.0}, "decay=1.0"),
        ({"restart": -1}, "restart=-1"),
    ],
)
def test_sizes_that_make_no_codebook_are_refused(options, what):
    with pytest.raises(PvaeError, match=what):
        Codebook(**options)


def test_encodings_of_another_size_are_refused():
    with pytest.raises(PvaeError, match=r"vectors of 3 values.*\(2, 4\)"):
        Codebook(5, 3)(torch.zeros(2, 4))


def test_encodings_that_are_not_finite_stay_out_of_the_averages():
    torch.manual_seed(0)
    ours, theirs = (Codebook(4, 2, decay=0.9) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    ours(torch.full((6, 2), torch.nan))
    assert torch.equal(ours.weight, theirs.weight)
    for codebook in (ours, theirs):
        torch.manual_seed(1)
        codebook(torch.arange(16.0).view(8, 2))
    h = torch.randn(5, 2)
    for codebook, some in ((ours, torch.cat([h, torch.tensor([[torch.nan, 1.0]])])), (theirs, h)):
        codebook.restart = 0.0
        codebook(some)
    assert torch.equal(ours.uses, theirs.uses)
    assert torch.allclose(ours.weight, theirs.weight)
    assert ours.weight.isfinite().all()


RANK = """
import sys, torch
import torch.distributed as dist
from pvae.nn import Codebook
rank, place = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
h = torch.load(f"{place}/h.pt")
for restart in (0.0, 0.1):
    torch.manual_seed(0)
    codebook = Codebook(9, 3, decay=0.9, restart=restart)
    codebook.synchronised = True
    torch.manual_seed(rank)
    for each in h:
        codebook(each.chunk(2)[rank])
    torch.save(codebook.state_dict(), f"{place}/{restart}-{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


def test_processes_with_parts_of_a_minibatch_keep_one_codebook(tmp_path):
    torch.manual_seed(0)
    h = [torch.randn(80, 3) + (3 if step % 20 > 10 else 0) for step in range(60)]
    torch.save(h, tmp_path / "h.pt")
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), tmp_path]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    for restart in (0.0, 0.1):
        first, second = (torch.load(tmp_path / f"{restart}-{rank}.pt") for rank in range(2))
        torch.manual_seed(0)
        alone = Codebook(9, 3, decay=0.9, restart=restart)
        for each in h:
            alone(each)
        for name, value in alone.state_dict().items():
            assert torch.equal(first[name], second[name]), name
            if not restart:  # nothing is drawn
                torch.testing.assert_close(first[name], value)
        assert (first["uses"] > 0.01).sum() > 3
