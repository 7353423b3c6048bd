"""The transformer over a text, then x: what depends on what, and the pass word by word."""

import torch

from pvae.distributions import Autoregressive, heads
from pvae.nn import TextTransformer

L, V, K = 4, 5, 3


def network():
    torch.manual_seed(0)
    options = {"channels": 8, "num_layers": 2, "num_heads": 2, "num_values": K}
    made = TextTransformer((2, 2), (K, 2, 2), num_words=V, length=L, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def test_words_and_steps_depend_on_what_comes_before_alone():
    made = network()
    x, words = torch.randint(K, (2, 2)), torch.randint(V, (L,))
    f, g = made(x, words), made.text(words)
    for i in range(L):
        other = words.clone()
        other[i] = (words[i] + 1) % V
        changed = (made.text(other) != g).any(0)
        assert changed.tolist() == [j > i for j in range(L)]
        assert (made(x, other) != f).any(0).all()
    for t in range(4):
        other = x.clone()
        other.view(-1)[t] = (x.view(-1)[t] + 1) % K
        changed = (made(other, words) != f).any(0).flatten()
        assert changed.tolist() == [s > t for s in range(4)]


def test_words_and_codes_go_through_the_same_layers():
    made = network()
    x, words = torch.randint(K, (3, 2, 2)), torch.randint(V, (3, L))
    (made(x, words).sum() + 0 * made.text(words).sum()).backward()
    ours = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    made.zero_grad()
    made.text(words).square().sum().backward()
    theirs = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name in ours if name.startswith("blocks.")} <= theirs
    assert {"prefix.embedding.weight", "prefix_positions", "norm.weight"} <= ours & theirs
    assert {"text.first", "text.last.weight"} <= theirs - ours
    names = [name for name, _ in made.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(list(made.parameters()))


def test_x_is_drawn_after_its_text_with_caches():
    made = network()
    x, words = torch.randint(K, (6, 2, 2)), torch.randint(V, (6, L))
    f, so_far = made(x, words), torch.full_like(x, 1)
    step = made.stepper(so_far, words)
    with torch.no_grad():
        for t in range(4):
            torch.testing.assert_close(step(t), made.steps.of(f, t))
            so_far.view(6, -1)[:, t] = x.view(6, -1)[:, t]
    head = heads.Categorical(K).sized((2, 2))
    draws = []
    for cached in (True, False):
        torch.manual_seed(1)
        draws.append(Autoregressive(made, head, words, cached=cached).sample((20,)))
    assert torch.equal(*draws)
    one = TextTransformer((2,), (K, 2), num_words=V, length=1, channels=4, num_values=K)
    assert torch.equal(one.text(torch.tensor([[3]])), one.text.first[None, :, None])
