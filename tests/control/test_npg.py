"""NPG: the step against a dense solve, and that it is one of the policy and not of its parameters."""

import copy

import pytest
import torch
from test_natural import fisher_matrix, policy
from torch import nn

import ptheta
from ptheta.control import npg
from ptheta.control.natural import flat, gradient
from ptheta.control.policies import Categorical


def samples(pi, n=30):
    g = torch.Generator().manual_seed(1)
    s = torch.randn(n, 3, generator=g, dtype=torch.float64)
    with torch.no_grad():
        a = pi.draw(pi.given(s), g)
    return s, a, torch.randn(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_the_step_is_that_of_a_dense_solve(kind):
    pi = policy(kind)
    s, a, A = samples(pi)
    before, parameters = copy.deepcopy(pi), list(pi.parameters())
    F = fisher_matrix(pi, s) + 0.1 * torch.eye(sum(p.numel() for p in parameters), dtype=torch.float64)
    g = gradient((pi.log_prob(pi.given(s), a) * A).mean(), parameters)
    divergence = npg.natural_step(pi, s, a, A, 0.2, 0.1, conjugate=200)
    moved = flat(p.detach() for p in pi.parameters()) - flat(p.detach() for p in before.parameters())
    torch.testing.assert_close(moved, 0.2 * torch.linalg.solve(F, g), rtol=1e-3, atol=1e-6)
    old = tuple(x.detach() for x in before.given(s))
    torch.testing.assert_close(divergence, pi.kl(old, pi.given(s)).mean().detach())


class Scores(nn.Module):
    """Two scores by a number each, written as θ or as M θ."""

    def __init__(self, M: torch.Tensor, theta: torch.Tensor):
        super().__init__()
        self.M, self.theta = M, nn.Parameter(torch.linalg.solve(M, theta))

    def forward(self, s):
        return (self.M @ self.theta).expand(len(s), -1)


def test_it_does_not_depend_on_how_the_policy_is_written():
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    M = torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.5, 0.2], [1.0, 0.0, 4.0]], dtype=torch.float64)
    moved = []
    for matrix in (torch.eye(3, dtype=torch.float64), M):
        pi = Categorical(Scores(matrix, theta))
        s, a, A = torch.zeros(40, 1, dtype=torch.float64), torch.arange(40) % 3, torch.linspace(-1, 2, 40).double()
        npg.natural_step(pi, s, a, A, 1e-3, 1e-9, conjugate=3)
        moved.append(pi.given(s)[0][0].detach().softmax(0) - theta.softmax(0))
    torch.testing.assert_close(*moved, rtol=1e-2, atol=1e-8)
    assert moved[0].abs().max() > 1e-5


def test_it_learns_the_pole(tmp_path):
    run = ptheta.train(
        "npg", "CartPole-v1", out=str(tmp_path / "run"), steps=8_000, eval_every=4_000, threads=1, envs=8, rollout=32,
        seed=1,
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert max(found) > 3 * found[0]
