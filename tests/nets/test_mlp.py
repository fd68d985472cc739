"""Multilayer perceptrons: the formulas of their gradients against autograd, and against finite differences."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptheta.data.order import generator
from ptheta.nets.mlp import MLP, Pass, Recorded, through

kinds = pytest.mark.parametrize("activation", ["tanh", "relu"])


def some(activation, inputs=5, hidden=(7, 6), outputs=3, b=9, seed=0, dtype=torch.float64):
    net = MLP(generator(seed, 0, "net"), inputs, hidden, outputs, activation).to(dtype)
    g = generator(seed, 0, "x")
    with torch.no_grad():
        for c in net.b:
            c.copy_(0.3 * torch.randn(c.shape, generator=g))
    return net, torch.randn(b, inputs, generator=g).to(dtype), torch.randn(b, outputs, generator=g).to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["tanh", "relu"]), st.integers(1, 6), st.lists(st.integers(1, 8), max_size=3), st.integers(1, 4),
    st.integers(1, 10), st.integers(0, 1000),
)  # fmt: skip
def test_what_is_pulled_back_is_what_autograd_finds(activation, inputs, hidden, outputs, b, seed):
    net, x, g = some(activation, inputs, tuple(hidden), outputs, b, seed)
    x.requires_grad_()
    y = net(x)
    wanted = torch.autograd.grad(y, [*net.parameters(), x], g)
    done = through(net, x.detach())
    assert isinstance(done, Pass)
    torch.testing.assert_close(done.y, y.detach())
    done.descend(g)
    for p, found in zip(net.parameters(), wanted):
        torch.testing.assert_close(p.grad, found)
        assert p.grad.is_contiguous()  # type: ignore[union-attr]
    torch.testing.assert_close(done.pull_to_x(g), wanted[-1])
    torch.testing.assert_close(done.pull_to_x(g, slice(-1, None)), wanted[-1][:, -1:])


@kinds
def test_what_is_pushed_forward_is_the_difference_that_a_small_step_makes(activation):
    net, x, _ = some(activation)
    g, h = generator(1, 0, "v"), 1e-6
    V, c = ([torch.randn(p.shape, generator=g, dtype=p.dtype) for p in part] for part in net.layers)
    pushed = through(net, x).push(V, c)  # type: ignore[union-attr]
    sides = []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for p, v in zip((*moved.W, *moved.b), (*V, *c)):
                p.add_(sign * h * v)
            sides.append(moved(x))
    torch.testing.assert_close(pushed, (sides[0] - sides[1]) / (2 * h), atol=1e-7, rtol=1e-6)


@kinds
def test_pushing_and_pulling_are_transposes(activation):
    """g · J v = J^T g · v."""
    net, x, g = some(activation)
    r = generator(1, 0, "v")
    V, c = ([torch.randn(p.shape, generator=r, dtype=p.dtype) for p in part] for part in net.layers)
    done = through(net, x)
    assert isinstance(done, Pass)
    dW, db = done.pull(g)
    dot = sum((a * b).sum() for a, b in zip((*dW, *db), (*V, *c)))
    torch.testing.assert_close((g * done.push(V, c)).sum(), dot)


@kinds
def test_networks_side_by_side_are_each_what_they_are_alone(activation):
    made = [some(activation, seed=s) for s in range(3)]
    W, b = ([torch.stack(parts) for parts in zip(*(net.layers[k] for net, _, _ in made))] for k in (0, 1))
    done = Pass(W, b, activation, torch.stack([x for _, x, _ in made]))
    dW, db = done.pull(torch.stack([g for _, _, g in made]))
    to_x = done.pull_to_x(torch.stack([g for _, _, g in made]))
    for s, (net, x, g) in enumerate(made):
        alone = through(net, x)
        assert isinstance(alone, Pass)
        torch.testing.assert_close(done.y[s], alone.y)
        for found, wanted in zip((*dW, *db), sum(alone.pull(g), [])):
            torch.testing.assert_close(found[s], wanted)
        torch.testing.assert_close(to_x[s], alone.pull_to_x(g))


@kinds
def test_in_the_precision_of_autocast(activation):
    """y and gradients in float32, as near to the exact ones as bfloat16 is."""
    net, x, g = some(activation, hidden=(32, 32), b=64, dtype=torch.float32)
    exact = through(net, x)
    exact.descend(g)
    wanted = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        done = through(net, x)
        done.descend(g)
    assert done.y.dtype == torch.float32 and 0 < (done.y - exact.y).abs().max() < 0.05
    for p, found in zip(net.parameters(), wanted):
        assert p.grad.dtype == torch.float32  # type: ignore[union-attr]
        assert (p.grad - found).norm() < 0.03 * found.norm()  # type: ignore[operator]


@kinds
def test_any_other_network_goes_by_autograd(activation):
    net, x, g = some(activation)
    other = nn.Sequential(nn.Identity(), net)
    done = through(other, x)
    assert isinstance(done, Recorded)
    done.descend(g)
    found = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    plain = through(net, x)
    torch.testing.assert_close(done.y, plain.y)
    plain.y.requires_grad_().backward(g)  # the gradient that y has
    plain.descend()
    for p, one in zip(net.parameters(), found):
        torch.testing.assert_close(p.grad, one)


@kinds
def test_without_gradient_nothing_that_was_given_is_changed(activation):
    net, x, _ = some(activation)
    before, y = x.clone(), net(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(net(x), y)
        torch.testing.assert_close(net(x.view(3, 3, 5)), y.view(3, 3, 3))
    assert torch.equal(x, before)
