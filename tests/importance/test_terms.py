"""Log densities of independent bits: in one pass in a graph, and as in Pyro otherwise."""

import pyro.distributions as dist
import pytest
import torch

from pvae.compile import Graph
from pvae.importance import terms
from pvae.importance.terms import log_terms


def log_p(logits, x):
    event = logits.ndim - 2
    site = {"fn": dist.Bernoulli(logits=logits).to_event(event), "value": x, "infer": {},
            "args": (), "kwargs": {}, "mask": None, "is_observed": True}  # fmt: skip
    return log_terms({"x": site}, dim=-1, wide=2, shape=tuple(logits.shape[:2]))["x"]


@pytest.mark.filterwarnings("error")
def test_an_event_without_bits_has_probability_one():
    logits, x = torch.zeros(4, 5, 0), torch.zeros(5, 0)
    with torch.no_grad():
        (found,) = Graph(lambda: [log_p(logits, x) + 0 * x.sum()], [logits, x])([logits, x])
    assert torch.equal(found, torch.zeros(4, 5))


@pytest.mark.parametrize("event", [(1, 28, 28), (64,), (31,), (1,), (3, 10, 10)])
def test_a_graph_has_the_log_density_of_bits(event, monkeypatch, uncompiled):
    _compare_bits(event, monkeypatch)
    assert len(uncompiled) == 1


def test_a_compiled_graph_has_the_log_density_of_bits(monkeypatch, compiler):
    _compare_bits((31,), monkeypatch)  # no multiple of the 28 factors of one logarithm


def _compare_bits(event, monkeypatch):
    found = []

    def spy(logits, value):
        found.append(logits.shape)
        return one_pass(logits, value)

    one_pass = terms._in_one_pass
    monkeypatch.setattr(terms, "_in_one_pass", spy)
    draw = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(4, 5, *event, generator=draw)
    logits.view(-1)[:4] = torch.tensor([90.0, -90.0, 200.0, -200.0])
    x = (torch.rand(5, *event, generator=draw) < 0.5).float()
    x.view(-1)[::3] = 0.3  # grey targets
    with torch.no_grad():
        (compiled,) = Graph(lambda: [log_p(logits, x)], [logits, x])([logits, x])
        eager = log_p(logits, x)
    assert len(found) == 1
    exact = dist.Bernoulli(logits=logits.double(), validate_args=False).log_prob(x.double())
    exact = exact.flatten(2).sum(-1)
    for each in (compiled, eager):
        torch.testing.assert_close(each.double(), exact, rtol=2e-6, atol=1e-5)
