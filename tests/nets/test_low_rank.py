"""W + B A: nothing at first, learned alone, and gone when merged."""

import torch
from torch import nn

from ptheta.nets import low_rank


def test_it_begins_as_it_was_learns_little_and_merges():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    x = torch.randn(5, 12)
    before, W = net(x), net[0].weight.detach().clone()
    low_rank.add(net[0], 2, torch.Generator().manual_seed(1))
    assert torch.equal(net(x), before)
    learned = {name for name, p in net.named_parameters() if p.requires_grad}
    assert "0.parametrizations.weight.original" not in learned
    assert sum(p.numel() for name, p in net.named_parameters() if name in learned and "parametrizations" in name) == 64
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    change = net[0].weight.detach() - W
    added = net[0].parametrizations.weight[0]
    torch.testing.assert_close(change, added.B @ added.A)
    assert torch.linalg.matrix_rank(change) == 2
    plain = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    plain.load_state_dict(low_rank.merged(net))
    torch.testing.assert_close(plain(x), net(x))
    alone = nn.Linear(4, 4)
    low_rank.add(alone, 1, torch.Generator().manual_seed(1))
    assert sorted(low_rank.merged(alone)) == ["bias", "weight"]
