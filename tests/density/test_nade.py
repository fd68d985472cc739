"""NADE's recursion against its equations written out."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import build, clamped, everything, some, uniform

from ptheta.density.nade import NADE, _Conditionals

SIZES = {"b": st.integers(1, 7), "n": st.integers(1, 8), "h": st.integers(1, 6), "seed": st.integers(0, 10**6)}


def written_out(x, W, c, V, b):
    """Logits by eqs. (1) and (2), each conditional from scratch."""
    columns = []
    for d in range(len(W)):
        h = torch.sigmoid(c + x[:, :d] @ W[:d])
        columns.append(b[d] + h @ V[d])
    return torch.stack(columns, 1)


def draw_sizes(b, n, h, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (b, n), generator=g).double()
    shapes = [(n, h), (h,), (n, h), (n,)]
    return x, [torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes], g


@settings(deadline=None, max_examples=60)
@given(**SIZES)
def test_logits_and_all_gradients_equal_the_equations_written_out(b, n, h, seed):
    x, parameters, g = draw_sizes(b, n, h, seed)
    before = [p.detach().clone() for p in parameters]
    logits, naive = _Conditionals.apply(x, *parameters), written_out(x, *parameters)
    torch.testing.assert_close(logits, naive, rtol=1e-10, atol=1e-10)
    weight = torch.randn(b, n, generator=g, dtype=torch.float64)
    got = torch.autograd.grad((logits * weight).sum(), parameters)
    want = torch.autograd.grad((naive * weight).sum(), parameters, allow_unused=True)
    for ours, theirs, p, old in zip(got, want, parameters, before, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(p) if theirs is None else theirs, rtol=1e-10, atol=1e-10)
        assert torch.equal(p, old), "a parameter was changed in place"


def test_the_gradient_passes_gradcheck_and_may_be_taken_twice():
    x, parameters, _ = draw_sizes(4, 5, 3, 0)
    assert torch.autograd.gradcheck(lambda *p: _Conditionals.apply(x, *p), parameters)
    loss = _Conditionals.apply(x, *parameters).square().sum()
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, parameters), strict=True))


def test_updated_activations_equal_recomputed_ones():
    """V = e_k for every d lets the logits show hidden unit k of each step."""
    x, (W, c, _, b), _ = draw_sizes(6, 9, 4, 1)
    for k in range(4):
        V = torch.eye(4, dtype=torch.float64)[k].expand(9, -1).contiguous()
        h = (_Conditionals.apply(x, W, c, V, b) - b).T
        for d in range(9):
            a = c[k] + sum(x[:, j] * W[j, k] for j in range(d))
            torch.testing.assert_close(h[d], torch.sigmoid(a).expand(6), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["nade", "nade random"])
@pytest.mark.parametrize("count", [1, 2, 101])
def test_the_density_equals_a_loop_over_variables_for_any_number_of_vectors(kind, count):
    model, x = build(kind, 7, seed=5), some(count, 7)
    state, loss = copy.deepcopy(model.state_dict()), torch.zeros(count, dtype=torch.float64)
    for v, log_p in zip(x, loss, strict=True):
        past = []
        for i in model.order().tolist():
            h = torch.sigmoid(state["c"] + sum(v[j] * state["W"][j] for j in past))
            p = torch.sigmoid(state["b"][i] + h @ state["V"][i])
            log_p += (p if v[i] == 1 else 1 - p).log()
            past.append(i)
    for _ in range(2):
        torch.testing.assert_close(model.log_prob(x), loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(-model(x), loss, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 251])
def test_no_use_of_the_model_changes_it(count):
    """One vector alone, too, whose activation might be the bias c itself."""
    model = build("nade", 5, dtype=torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = some(count, 5, dtype=torch.float32)
    model(x).mean().backward()
    model.log_prob(x)
    model.sample(count)
    model.complete(x, torch.arange(5) < 2, particles=1)
    clamped(model, x, some(count, 5).bool(), uniform(count, 5), 0)
    model.embed(x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_features_are_the_hidden_units_once_all_is_seen():
    model, x = build("nade random", 6), everything(6)
    features = model.embed(x)
    assert features.shape == (64, 9) and not features.requires_grad
    a = model.c + sum(x[:, i, None] * model.W[i] for i in range(6))
    torch.testing.assert_close(features, 1 / (1 + (-a).exp()), rtol=1e-12, atol=1e-12)


def test_rows_of_the_weights_belong_to_variables_in_any_ordering():
    """Two orderings of one set of weights: after the last variable both have seen the same."""
    natural, mixed = NADE(8, 5, seed=3).double(), NADE(8, 5, "random", seed=3).double()
    mixed.W.data, mixed.V.data = natural.W.data.clone(), natural.V.data.clone()
    x = everything(8)
    assert mixed.order().tolist() != natural.order().tolist()
    torch.testing.assert_close(mixed.embed(x), natural.embed(x))
    assert not torch.allclose(mixed.log_prob(x), natural.log_prob(x))
    first = int(mixed.order()[0])
    logit = mixed.b[first] + mixed.V[first] @ torch.sigmoid(mixed.c)
    torch.testing.assert_close(mixed.logits(x)[:, 0], logit.expand(256))


def test_output_biases_start_at_the_log_odds():
    model, odds = NADE(6, 3, "random"), torch.linspace(-2, 2, 6)
    model.start_at(odds)
    with torch.no_grad():
        model.V.zero_()
    torch.testing.assert_close(model.log_prob(torch.eye(6)) - model.log_prob(torch.zeros(1, 6)), odds)
