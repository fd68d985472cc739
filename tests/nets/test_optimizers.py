"""An optimiser of one vector is an optimiser of each parameter."""

import copy

import torch
from torch import nn

from ptheta.engine import checkpoint
from ptheta.nets.mlp import MLP, Recorded, through
from ptheta.nets.optimizers import vector, views


def network(seed=0, activation="relu"):
    return MLP(torch.Generator().manual_seed(seed), 3, (5, 4), 2, activation)


def adam(net, rate):
    return torch.optim.Adam([vector(net)], rate, fused=True)


def step(net, optimizer, g):
    """Towards fewer squares."""
    done = through(net, torch.randn(7, 3, generator=g))
    done.descend(done.y)
    optimizer.step()


def test_it_steps_as_adam_of_each_parameter_does():
    for make in (network, lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))):
        torch.manual_seed(0)
        one = make()
        torch.manual_seed(0)
        many = make()
        of_one, of_many = adam(one, 0.01), torch.optim.Adam(many.parameters(), 0.01)
        for net, optimizer in ((one, of_one), (many, of_many)):
            g = torch.Generator().manual_seed(1)
            before = [p.detach().clone() for p in net.parameters()]
            for _ in range(20):
                step(net, optimizer, g)
            assert all(not torch.equal(p, q) for p, q in zip(before, net.parameters()))
        for p, q in zip(one.parameters(), many.parameters()):
            torch.testing.assert_close(p, q)
        found, wanted = checkpoint.optimizer_state(one, of_one), checkpoint.optimizer_state(many, of_many)
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert found[name]["step"] == 20
            torch.testing.assert_close(found[name], wanted[name])


def test_its_state_goes_to_another_and_on():
    one, g = network(), torch.Generator().manual_seed(1)
    first = adam(one, 0.01)
    for _ in range(5):
        step(one, first, g)
    state = copy.deepcopy(checkpoint.optimizer_state(one, first))
    assert set(state) == {name for name, _ in one.named_parameters()}
    other = network(9)
    second = adam(other, 0.01)
    other.load_state_dict(one.state_dict())
    checkpoint.load_optimizer_state(other, second, state)
    g, h = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    for _ in range(5):
        step(one, first, g)
        step(other, second, h)
    for p, q in zip(one.parameters(), other.parameters()):
        assert torch.equal(p, q)


def test_a_state_of_adam_of_each_parameter_can_be_gone_on_from():
    one, many = network(), network()
    of_many, g = torch.optim.Adam(many.parameters(), 0.01), torch.Generator().manual_seed(1)
    for _ in range(5):
        step(many, of_many, g)
    of_one = adam(one, 0.01)
    one.load_state_dict(many.state_dict())
    checkpoint.load_optimizer_state(one, of_one, checkpoint.optimizer_state(many, of_many))
    assert of_one.state[of_one.param_groups[0]["params"][0]]["step"] == 5
    g, h = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    for _ in range(5):
        step(many, of_many, g)
        step(one, of_one, h)
    for p, q in zip(one.parameters(), many.parameters()):
        torch.testing.assert_close(p, q)


def test_an_optimiser_of_a_part_has_the_state_of_that_part():
    net = nn.ModuleList([network(0), network(1)])
    second, g = adam(net[1], 0.01), torch.Generator().manual_seed(1)
    step(net[1], second, g)
    state = checkpoint.optimizer_state(net, second)
    assert set(state) == {name for name, _ in net.named_parameters() if name.startswith("1.")}
    other = nn.ModuleList([network(0), network(1)])
    into = adam(other[1], 0.01)
    checkpoint.load_optimizer_state(other, into, state)
    torch.testing.assert_close(checkpoint.optimizer_state(other, into), state)


def test_parameters_are_views_of_their_vector():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    theta = vector(net)
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters()))
    theta.data.mul_(2)
    assert all(torch.equal(2 * p, q) for p, q in zip(before, net.parameters()))
    two = torch.stack([theta.data, 3 * theta.data])
    for p, q in zip(net.parameters(), views(two, net)):
        assert torch.equal(q, torch.stack([p, 3 * p]))


def test_what_autograd_finds_is_written_to_the_same_place():
    net = nn.Linear(3, 2)
    optimizer = adam(net, 0.01)
    (theta,) = optimizer.param_groups[0]["params"]
    done = Recorded(net, torch.ones(4, 3))
    done.descend(torch.ones(4, 2))
    assert torch.equal(theta.grad, torch.full((8,), 4.0))
