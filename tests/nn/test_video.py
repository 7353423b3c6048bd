"""VideoPixelCNN: what each value sees, its density, and its draws."""

import pytest
import torch
from ordered import space

from pvae.distributions import Autoregressive, heads
from pvae.errors import PvaeError
from pvae.nn import VideoPixelCNN


def made(shape, head=heads.Bernoulli(), **options):  # noqa: B008
    torch.manual_seed(0)
    head = head.sized(shape)
    sizes = {"memory": 1, "channels": 12, "num_layers": 2, "num_blocks": 1, **options}
    network = VideoPixelCNN(shape, head.out_shape, **sizes).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network, head


@pytest.mark.parametrize("shape", [(5, 3, 3), (4, 2, 2, 3)])
@pytest.mark.parametrize("memory", [0, 1, 2])
def test_a_value_sees_earlier_pixels_of_its_frame_and_the_frames_in_memory(shape, memory):
    network, _ = made(shape, memory=memory)
    assert network.order.flatten().sort()[0].tolist() == list(range(network.order.numel()))
    frames = network.order.flatten(1)
    assert (frames[1:].amin(1) > frames[:-1].amax(1)).all()
    x = torch.randn(shape).double().requires_grad_()
    f = network(x)
    for place in torch.cartesian_prod(*map(torch.arange, shape)):
        here = tuple(place.tolist())
        (slope,) = torch.autograd.grad(f[here], x, retain_graph=True)
        seen = slope != 0
        earlier = network.order < network.order[here]
        assert not (seen & ~earlier).any()
        t = here[0]
        assert not seen[: max(0, t - memory)].any()
        for before in range(max(0, t - memory), t):
            assert seen[before].any()
    assert (network(x.detach()[None])[0] - f).abs().max() < 1e-12


VIDEOS = {
    "binary": (heads.Bernoulli(), space([0.0, 1.0], (3, 1, 1, 2)).double(), {}),
    "codes": (heads.Categorical(3), space([0, 1, 2], (3, 1, 2)), {"num_values": 3}),
}


@pytest.mark.parametrize("which", VIDEOS)
@pytest.mark.parametrize("memory", [0, 2])
def test_it_is_a_density_and_draws_are_its_own(which, memory):
    head, every, options = VIDEOS[which]
    p = Autoregressive(*made(every.shape[1:], head.double(), memory=memory, **options))
    log_p = p.log_prob(every).detach()
    assert log_p.exp().sum().item() == pytest.approx(1)
    assert log_p.std() > 0.1
    torch.manual_seed(0)
    drawn, num = p.sample((4000,)), 4000
    found = (drawn[:, None] == every).flatten(2).all(-1).sum(0)
    often = log_p.exp() * num > 5
    expected = log_p.exp()[often] * num
    chi = ((found[often] - expected).square() / expected).sum()
    assert chi < often.sum() + 4.5 * (2 * often.sum()) ** 0.5
    torch.manual_seed(1)
    cached = p.sample((9,))
    torch.manual_seed(1)
    assert torch.equal(Autoregressive(p.network, p.head, cached=False).sample((9,)), cached)


@pytest.mark.parametrize("memory", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 2, 2), (4, 2, 2, 2)])
def test_a_stepper_gives_the_outputs_of_a_full_pass(memory, shape):
    network, _ = made(shape, memory=memory)
    x = torch.randn(3, *shape).double()
    f, filled = network(x), torch.zeros_like(x)
    step = network.stepper(filled)
    for t in range(network.num_steps):
        torch.testing.assert_close(step(t), network.steps.of(f, t))
        filled[:, network.order == t] = x[:, network.order == t]


def test_the_next_frames_are_drawn_given_the_first():
    head, every, options = VIDEOS["codes"]
    p = Autoregressive(*made(every.shape[1:], head.double(), memory=1, **options))
    known = torch.tensor([True, False, False])
    for x in (every[0], every[-1]):
        possible = every[(every == x)[:, 0].flatten(1).all(1)]
        expected = p.log_prob(possible).softmax(0).detach()
        torch.manual_seed(0)
        drawn = p.complete(x.expand(3000, 3, 1, 2), known)
        found = (drawn[:, None] == possible).flatten(2).all(-1).double().mean(0)
        assert found.sum().item() == pytest.approx(1)
        se = (expected * (1 - expected) / 3000).sqrt()
        assert ((found - expected).abs() < 4.5 * se + 1 / 3000).all()


def test_without_memory_frames_are_independent():
    head, every, options = VIDEOS["codes"]
    p = Autoregressive(*made(every.shape[1:], head.double(), memory=0, **options))
    frame = Autoregressive(p.network.pixels, heads.Categorical(3).sized((1, 2)))
    torch.testing.assert_close(p.log_prob(every), frame.log_prob(every).sum(1))


def test_bad_input():
    with pytest.raises(PvaeError, match=r"event_shape=\(8, 8\), memory=4: this network takes vid"):
        VideoPixelCNN((8, 8))
    with pytest.raises(PvaeError, match="memory=-1"):
        VideoPixelCNN((3, 8, 8), memory=-1)
    with pytest.raises(PvaeError, match="num_blocks"):
        VideoPixelCNN((3, 8, 8), num_blocks=0)
