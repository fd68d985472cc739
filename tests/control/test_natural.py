"""Products with the Fisher matrix against the matrix itself, and conjugate gradients against a solve."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptheta.control.natural import conjugate_gradient, fisher, fisher_product, flat, gradient, longest, put
from ptheta.control.policies import Categorical, Gaussian
from ptheta.data.order import generator
from ptheta.engine.errors import InputError
from ptheta.nets.mlp import MLP


def policy(kind: str) -> nn.Module:
    g = generator(0, 0, "net")
    net = MLP(g, 3, (4,), 3)
    return (Categorical(net) if kind == "discrete" else Gaussian(net, 3, sigma=0.6)).double()


def observations(n: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, generator=generator(0, 0, "observations"), dtype=torch.float64)


def mean_kl(pi, s):
    given_ = pi.given(s)
    return pi.kl(tuple(x.detach() for x in given_), given_).mean()


def fisher_matrix(pi, s) -> torch.Tensor:
    """E ∇log π ∇log π^T: over all actions, or for vectors by J^T diag(1 / σ²) J of μ and 2 of log σ."""
    parameters = list(pi.parameters())
    n = sum(p.numel() for p in parameters)
    F = torch.zeros(n, n, dtype=torch.float64)
    for row in s:
        outputs = pi.given(row[None])
        if isinstance(pi, Categorical):
            for a in range(3):
                score = gradient(pi.log_prob(pi.given(row[None]), torch.tensor([a]))[0], parameters)
                F += outputs[0].softmax(1)[0, a].detach() * torch.outer(score, score)
        else:
            for i in range(3):
                m = gradient(pi.given(row[None])[0][0, i], parameters)
                w = gradient(pi.given(row[None])[1][0, i], parameters)
                F += torch.outer(m, m) / (2 * outputs[1][0, i].detach()).exp() + 2 * torch.outer(w, w)
    return F / len(s)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_products_are_those_of_the_matrix(kind, damping):
    pi, s = policy(kind), observations()
    F = fisher_matrix(pi, s)
    v = torch.randn(len(F), generator=generator(0, 0, "v"), dtype=torch.float64)
    by_kl, by_layers = fisher_product(mean_kl(pi, s), list(pi.parameters()), damping), fisher(pi, s, damping)
    torch.testing.assert_close(by_kl(v), F @ v + damping * v, atol=1e-10, rtol=1e-5)
    torch.testing.assert_close(by_layers(v), F @ v + damping * v, atol=1e-10, rtol=1e-5)
    pi.net = nn.Sequential(pi.net)  # no longer a network whose layers are known
    torch.testing.assert_close(fisher(pi, s, damping)(v), by_layers(v))


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_the_divergence_is_the_quadratic_form_to_second_order(kind):
    """Eq. (1): what is left falls as the cube of the step."""
    pi, s = policy(kind), observations()
    parameters = list(pi.parameters())
    start, old = flat(parameters).detach(), tuple(x.detach() for x in pi.given(s))
    v = torch.randn(len(start), generator=generator(0, 0, "v"), dtype=torch.float64)
    quadratic = v @ fisher_product(mean_kl(pi, s), parameters)(v) / 2
    left = []
    for h in (1e-2, 1e-3):
        put(parameters, start + h * v)
        left.append(abs(pi.kl(old, pi.given(s)).mean().item() - h**2 * quadratic.item()))
    assert left[1] < left[0] / 500


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns(n, seed):
    g = generator(seed, 0, "A")
    M = torch.randn(n, n, generator=g, dtype=torch.float64)
    A, b = M @ M.T + 0.1 * torch.eye(n, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)
    x = conjugate_gradient(lambda v: A @ v, b, iterations=4 * n, tolerance=1e-24)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), atol=1e-6, rtol=1e-5)
    errors = []
    for k in range(n + 1):
        y = conjugate_gradient(lambda v: A @ v, b, iterations=k, tolerance=0.0)
        errors.append((y @ A @ y / 2 - b @ y).item())
    assert all(after <= before + 1e-9 for before, after in zip(errors, errors[1:])), "no step makes it worse"


def test_a_gradient_of_zero_needs_no_product():
    def never(v):
        raise AssertionError("asked")

    assert not conjugate_gradient(never, torch.zeros(3)).any()


@pytest.mark.parametrize(
    ("A", "said"), [(-torch.eye(2), "is -2; wanted: above 0"), (torch.full((2, 2), float("nan")), "is nan; wanted")]
)
def test_a_matrix_that_curves_downwards_or_is_not_finite_is_refused(A, said):
    with pytest.raises(InputError, match=said):
        conjugate_gradient(lambda v: A @ v, torch.ones(2))


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_the_longest_step_has_the_divergence_that_is_allowed(kind):
    """Eq. (3), to second order: of a small δ."""
    pi, s, delta = policy(kind), observations(), 1e-5
    parameters = list(pi.parameters())
    start, old = flat(parameters).detach(), tuple(x.detach() for x in pi.given(s))
    product = fisher_product(mean_kl(pi, s), parameters)
    x = torch.randn(len(start), generator=generator(1, 0, "x"), dtype=torch.float64)
    assert longest(product, torch.zeros_like(x), delta) == 0
    put(parameters, start + longest(product, x, delta) * x)
    assert pi.kl(old, pi.given(s)).mean().item() == pytest.approx(delta, rel=0.05)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product(x)


def test_parameters_without_a_part_in_it_have_zeros():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3, 1))
    assert gradient((a**2).sum(), [a, b]).tolist() == [2, 2, 0, 0, 0]
    put([a, b], torch.arange(5.0))
    assert flat([a, b]).tolist() == [0, 1, 2, 3, 4] and b.shape == (3, 1)
    assert fisher_product(a.sum(), [a, b], damping=0.5)(torch.ones(5)).tolist() == [0.5] * 5


@pytest.mark.parametrize("scale", [1e-18, 1e-10, 1e19])
def test_a_gradient_of_any_length_is_solved_for(scale):
    """Also where the squares of gradient or residuals are no float32."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(5, 5, generator=g)
    A, b = W @ W.T + torch.eye(5), torch.randn(5, generator=g)
    x = conjugate_gradient(lambda v: A @ v, scale * b, 20)
    torch.testing.assert_close(x / scale, torch.linalg.solve(A, b), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_rounding_leads_nowhere(scale):
    b = scale * torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(conjugate_gradient(lambda v: 2 * v, b, 20), torch.zeros(5))
