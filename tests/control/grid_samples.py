"""What the tests of policy gradients share: the book's world, a policy of it, walks through it, and sampled gradients
beside exact ones."""

import torch

from ptheta.control.gridworld import book, by_solve, exact, softmax

WORLD = book()
P, R = WORLD.matrices()
AFTER = P.argmax(2)


def some_theta(seed: int = 0, spread: float = 0.7) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(WORLD.states, 5, generator=g, dtype=torch.float64)


def exact_gradient(theta: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
    return by_solve(theta, lambda t: exact(WORLD, softmax(t), first).first_value)


def walks(policy: torch.Tensor, count: int, steps: int, g: torch.Generator):
    """States, actions, rewards (steps, count) of walkers who start anywhere."""
    s = torch.randint(WORLD.states, (count,), generator=g)
    states, actions, rewards = [], [], []
    for _ in range(steps):
        a = torch.multinomial(policy[s], 1, generator=g)[:, 0]
        states.append(s)
        actions.append(a)
        rewards.append(R[s, a])
        s = AFTER[s, a]
    return torch.stack(states), torch.stack(actions), torch.stack(rewards)


def agrees(samples: torch.Tensor, wanted: torch.Tensor) -> None:
    """Independent estimates (n, …) of a gradient: their mean is within 3 standard errors of it along the gradient and
    along ten random directions, and it is no zero that anything would agree with."""
    n, flat, goal = len(samples), samples.flatten(1), wanted.flatten()
    g = torch.Generator().manual_seed(7)
    directions = torch.cat([goal[None], torch.randn(10, len(goal), generator=g, dtype=goal.dtype)])
    along, truth = flat @ directions.T, directions @ goal
    error = along.std(0) / n**0.5
    assert ((along.mean(0) - truth).abs() <= 3 * error).all()
    assert truth[0] > 10 * error[0]  # the gradient itself stands out


def gradients(loss, theta: torch.Tensor, groups: int) -> torch.Tensor:
    """−∇loss(k, θ) of each of so many independent groups of samples."""
    found = []
    for k in range(groups):
        x = theta.detach().clone().requires_grad_()
        found.append(-torch.autograd.grad(loss(k, x), x)[0])
    return torch.stack(found)
