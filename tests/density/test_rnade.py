"""RNADE: the density against quadrature and its equations written out, its draws, what it learns and refuses."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal, norm

from ptheta.data.order import generator
from ptheta.data.real import load
from ptheta.density import rnade
from ptheta.density.rnade import RNADE, SIGMA_MIN, Config, Method, Mixture, mean_and_scale
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware

CPU = Hardware(torch.device("cpu"), "fp32")
SIZES = {"n": st.integers(1, 5), "h": st.integers(1, 6), "K": st.integers(1, 4), "seed": st.integers(0, 10**6)}


def build(n: int, seed: int = 0, dtype=torch.float64, h: int = 7, K: int = 3, ordering="random") -> RNADE:
    """A model whose parameters, mean and scale are drawn at random: initial ones would hide mistakes."""
    model, g = RNADE(n, h, K, ordering, seed).to(torch.float64), generator(seed, 0, "build")
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * (0.5 if p is model.V else 0.8)
    model.rho.data.abs_()
    model.standardise(torch.randn(n, generator=g) * 2, 0.5 + 2 * torch.rand(n, generator=g))
    return model.to(dtype).eval()


def some(b: int, n: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(b, n, generator=generator(seed, 0, "some"), dtype=torch.float64) * spread


def written_out(model: RNADE, v: np.ndarray) -> list[tuple[float, float, int]]:
    """For each variable in the ordering, by eqs. (1)–(5) and all from scratch: p(x_d | x_<d), its integral, and d."""
    p = {k: t.detach().double().numpy() for k, t in model.state_dict().items()}
    z = (v - p["mean"]) / p["scale"]
    order, found = [int(d) for d in p["o"]], []
    for place, d in enumerate(order):
        a = p["c"] + sum((z[e] * p["W"][e] for e in order[:place]), np.zeros_like(p["c"]))
        h = np.maximum(p["rho"][d] * a, 0)
        pi, mu, s = np.split(h @ p["V"][d] + p["b"][d], 3)
        pi, sigma = np.exp(pi) / np.exp(pi).sum(), SIGMA_MIN + np.exp(s)
        parts = [NormalDist(*pair) for pair in zip(mu, sigma)]
        density, below = (sum(w * f(z[d]) for w, f in zip(pi, fs)) for fs in zip(*((q.pdf, q.cdf) for q in parts)))
        found.append((float(density / p["scale"][d]), float(below), d))
    return found


# ---------------------------------------------------------------- the density


@settings(deadline=None, max_examples=20)
@given(**SIZES)
def test_the_density_equals_its_equations_written_out(n, h, K, seed):
    model, x = build(n, seed, h=h, K=K), some(4, n, seed)
    p = np.array([[p for p, _, _ in written_out(model, v)] for v in x.numpy()])
    log_p, held = (
        model.log_prob(x).numpy(),
        (p > 1e-300).all(1),
    )  # below, the equations underflow and the model does not
    np.testing.assert_allclose(log_p[held], np.log(p[held]).sum(1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(-model(x).detach().numpy(), log_p, rtol=1e-12)
    assert np.isfinite(log_p).all() and (log_p[~held] < -600).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_density_integrates_to_one(n):
    """A sum over a grid with steps below a Gaussian's width has an error below e^(-2 (π σ/step)²)."""
    model = build(n, seed=5, h=4, K=2)
    model.b.data[:, -2:] = 0.3  # σ = 1.35 everywhere
    model.V.data[..., -2:] = 0
    axes = [torch.linspace(-30, 30, 61, dtype=torch.float64) * s + m for m, s in zip(model.mean, model.scale)]
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    grid = torch.cartesian_prod(*axes).view(-1, n)
    total = sum(model.log_prob(part).exp().sum().item() for part in grid.split(50_000)) * cell
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_conditional_does_not_see_the_variables_after_it(n):
    model, x = build(n), some(1, n)

    def conditionals(x: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(model.conditionals(x)), -1)[:, 0]  # (n, 3K) in the ordering

    jacobian: Any = torch.autograd.functional.jacobian(conditionals, x)
    jacobian = jacobian[:, :, 0][..., model.order()]
    seen = jacobian.abs().amax(1) > 0  # (conditional, variable), both in the ordering
    assert torch.equal(seen, torch.ones(n, n).tril(-1).bool())


def test_a_later_outlier_leaves_earlier_conditionals_as_they_are_bit_for_bit():
    model, x = build(5, dtype=torch.float32, ordering="natural"), some(3, 5).float()
    far = x.clone()
    far[:, 3] = 1e6
    a, b = model.conditionals(x).mu, model.conditionals(far).mu
    assert torch.equal(a[:4], b[:4]) and not torch.equal(a[4], b[4])


def test_the_gradient_equals_finite_differences():
    model, x = build(3, seed=2), some(6, 3)
    names = [name for name, _ in model.named_parameters()]

    def nats(*values):
        return torch.func.functional_call(model, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(nats, tuple(p.detach().clone().requires_grad_() for p in model.parameters()))


@pytest.mark.parametrize("c", [0.01, 1000.0])
def test_other_units_shift_the_log_density_by_n_log_c(c):
    x = some(50, 4).float() * torch.tensor([1.0, 5.0, 0.1, 30.0]) + 7
    methods = [Method(Config(hidden=5), load(v.numpy()), 0, CPU, 9) for v in (x, x * c)]
    for method in methods:
        for _, batch in zip(range(5), method.batches(0, 0, 1)):
            method.update(batch)
    a, b = (m.averaged.double().log_prob(v) for m, v in zip(methods, (x, x * c)))
    torch.testing.assert_close(b, a - 4 * math.log(c), rtol=1e-3, atol=1e-3)


def test_a_model_starts_from_independent_variables_with_the_data_s_moments():
    x = (some(400, 3, spread=1.0) * torch.tensor([1.0, 20.0, 0.3]) + 5).float()
    method = Method(Config(hidden=5), load({"train": x}), 0, CPU, 9)
    drawn = method.averaged.sample(20_000)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0, atol=0.4)
    torch.testing.assert_close(drawn.std(0), x.std(0), rtol=0.03, atol=0)
    independent = sum(norm.logpdf(x[:, d], x[:, d].mean(), x[:, d].std()).mean() for d in range(3))
    assert method.evaluate(method.data, "train")["nats"].mean == pytest.approx(-independent, abs=0.05)


@pytest.mark.parametrize("value", [1e6, -1e6, 1e12])
def test_outliers_have_finite_log_densities_and_gradients(value):
    model = build(4, dtype=torch.float32)
    x = some(3, 4).float()
    x[0, 1] = x[1, 2] = value
    nats = model(x)
    nats.sum().backward()
    assert nats.isfinite().all() and nats[0] > nats[2]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_width_falls_below_its_bound():
    mixture = Mixture.of(torch.tensor([0.0, 1.0, -1000.0]))
    assert mixture.log_prob(torch.tensor(1.0)).item() == pytest.approx(norm.logpdf(0, scale=SIGMA_MIN), rel=1e-6)


# ---------------------------------------------------------------- draws


def test_draws_follow_the_density():
    """Given the variables before it, each has a uniform distribution function (Rosenblatt 1952)."""
    model = build(3, seed=1)
    drawn = model.sample(1500, seed=4).numpy()
    u = np.array([[below for _, below, _ in written_out(model, v)] for v in drawn])
    assert all(kstest(u[:, i], "uniform").pvalue > 1e-3 for i in range(3))
    assert all(abs(np.corrcoef(u[:, i], u[:, j])[0, 1]) < 0.1 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_uniform_number_gives_a_finite_draw(dtype):
    mixture = Mixture.of(torch.tensor([0.0, -40.0, 0.1, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0], dtype=dtype))
    u = torch.cat([torch.linspace(0, 1, 1001, dtype=dtype), torch.tensor([1 - torch.finfo(dtype).eps], dtype=dtype)])
    x = Mixture(*(v.expand(len(u), -1) for v in mixture)).draw(u)
    assert x.isfinite().all()
    weight = mixture.log_pi.exp()[0].item()
    below = u < weight
    want = 1 + norm.ppf((u[below][1:].double() / weight).numpy()) * (1 + SIGMA_MIN)
    np.testing.assert_allclose(x[below][1:].numpy(), want, rtol=1e-4, atol=1e-4)


def test_clamped_sampling_keeps_what_is_observed_and_weighs_it():
    model, x = build(4, seed=3), some(6, 4)
    u = torch.rand(6, 4, generator=generator(0, 0, "u"), dtype=torch.float64)
    with torch.no_grad():
        same, log_w = model.clamped(x, torch.ones(6, 4, dtype=torch.bool), u)
        assert torch.equal(same, x)
        torch.testing.assert_close(log_w, model.log_prob(x))
        observed = torch.tensor([True, False, True, False])
        drawn, log_w = model.clamped(x, observed.expand(6, -1), u)
    assert torch.equal(drawn[:, observed], x[:, observed]) and not torch.equal(drawn, x)
    want = [sum(math.log(p) for p, _, d in written_out(model, v) if observed[d]) for v in drawn.numpy()]
    np.testing.assert_allclose(log_w.numpy(), want, rtol=1e-9)


# ---------------------------------------------------------------- completion


def density_on(model: RNADE, x: torch.Tensor, d: int) -> tuple[np.ndarray, np.ndarray]:
    """p(x) along variable d on a fine grid, the others as in x (n,), and its cumulated integral."""
    grid = torch.linspace(-25, 25, 8001, dtype=torch.float64) * model.scale[d] + model.mean[d]
    rows = x.repeat(len(grid), 1)
    rows[:, d] = grid
    p = model.log_prob(rows).exp().numpy()
    return grid.numpy(), p.cumsum() * float(grid[1] - grid[0])


@pytest.mark.parametrize("last", [True, False])
def test_completions_follow_the_conditional_integrated_numerically(last):
    """Exact where the missing variable comes last; by resampling where it comes first."""
    model = build(2, seed=6, ordering="natural")
    d = 1 if last else 0
    observed = torch.tensor([True, False] if last else [False, True])
    x = torch.where(observed, model.mean, math.nan)
    done = model.complete(x.repeat(800, 1), observed, seed=2, particles=256)
    assert done.exact == last and (done.effective == math.inf).all() == last and (done.effective > 20).all()
    grid, cdf = density_on(model, torch.nan_to_num(x), d)
    assert kstest(np.interp(done.x[:, d].numpy(), grid, cdf / cdf[-1]), "uniform").pvalue > 1e-3
    marginal = model.marginal(x[None], observed, particles=20_000)
    assert marginal.exact == last
    error = abs(marginal.log_prob.item() - math.log(cdf[-1]))
    assert error < 5 * marginal.standard_error.item() + 1e-4 and marginal.standard_error.item() < 0.1


def test_values_of_real_variables_are_not_summed():
    model = build(3)
    with pytest.raises(UsageError, match="most = 2 is impossible; allowed: 0"):
        model.marginal(some(2, 3), torch.tensor([True, False, True]), most=2)
    nothing = model.marginal(some(2, 3), torch.zeros(3, dtype=torch.bool))
    assert nothing.exact and nothing.log_prob.abs().max() == 0


def test_features_are_the_hidden_units_once_all_is_seen():
    model, x = build(4), some(5, 4)
    a = model.c + sum(((x - model.mean) / model.scale)[:, d, None] * model.W[d] for d in range(4))
    torch.testing.assert_close(model.embed(x), a.clamp(min=0), rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- learning


def test_learning_comes_near_the_entropy_of_its_data():
    """A mixture of two Gaussians with strong correlations, whose entropy is known from its own density."""
    g = np.random.RandomState(0)
    covariance: Any = np.array([[1.0, 0.9], [0.9, 1.0]])
    means = np.array([[-3.0, 100.0], [3.0, 100.0]])
    x = means[g.randint(2, size=6000)] + g.multivariate_normal([0, 0], covariance, 6000)
    method = Method(Config(hidden=20, mixtures=4, learning_rate=0.02, warmup=0), load(x), 0, CPU, 500)
    for _, batch in zip(range(500), method.batches(0, 0, 1)):
        method.update(batch)
    test = method.data.split("test")
    true = np.logaddexp(*(multivariate_normal.logpdf(test.numpy(), m, covariance) for m in means)) - math.log(2)
    excess = -method.averaged.log_prob(test).double().numpy() + true  # its mean estimates the KL divergence
    assert -2 * excess.std() / math.sqrt(len(test)) < excess.mean() < 0.03 + 3 * excess.std() / math.sqrt(len(test))
    overall: Any = np.cov(x.T)
    single = -multivariate_normal.logpdf(test.numpy(), x.mean(0), overall).mean()
    assert method.evaluate(method.data, "test")["nats"].mean < single - 0.3


def test_mean_and_scale_are_saved_with_the_model(tmp_path):
    model = build(3, dtype=torch.float32)
    again = RNADE.from_pretrained(model.save_pretrained(tmp_path / "model"))
    x = some(5, 3)
    assert torch.equal(again.log_prob(x), model.log_prob(x)) and torch.equal(again.scale, model.scale)


# ---------------------------------------------------------------- what is refused


def test_a_column_that_does_not_vary_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.csv").write_text("price,size\n" + "".join(f"{i},7.5\n" for i in range(20)))
    with pytest.raises(InputError, match="a.csv: column 'size' is 7.5 in .*; .*leave it out") as error:
        mean_and_scale(load(tmp_path / "a.csv"))
    assert "\n" not in str(error.value)
    x = np.random.RandomState(0).rand(20, 2) * 1e-3 + [0, 1e6]
    with pytest.raises(InputError, match=r"column 1 \(counted from 0\) is 1000000 in"):
        rnade.Method(Config(), load(x), 0, CPU, 1)


@pytest.mark.parametrize("label", ["first", "last"])
def test_labels_are_refused(label):
    for make in (lambda: Config(label=label), lambda: RNADE(3, label=label, classes=2)):
        with pytest.raises(UsageError, match=f"label = {label} is impossible; rnade learns p.x. of real vectors alone"):
            make()


def test_one_mixture_component_is_a_gaussian():
    model = RNADE(2, 3, mixtures=1).double()
    x = some(20, 2)
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(norm.logpdf(x).sum(1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x", [torch.full((2, 3), math.nan), torch.full((2, 3), 1e200, dtype=torch.float64)])
def test_values_that_are_not_finite_are_refused(x):
    with pytest.raises(InputError, match="x holds (nan|inf); allowed: finite numbers"):
        RNADE(3).log_prob(x)
