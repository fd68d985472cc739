"""The classic models: every equation by plain loops, sums over all vectors, all trees, and what the command prints."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from zoo import everything, frequencies_fit, number, some, uniform

from ptheta.data.binary import load
from ptheta.density import baselines as module
from ptheta.density.baselines import Bernoulli, ChowLiu, Kernel, Mixture, baselines, command
from ptheta.engine.errors import InputError, UsageError

KINDS = {
    "bernoulli": lambda x: Bernoulli.fit(x),
    "mixture": lambda x: Mixture.fit(x, K=3),
    "mixture, start": lambda x: Mixture.start(torch.as_tensor(x).byte(), 4, 0),
    "tree": lambda x: ChowLiu.fit(x),
    "tree, likeliest": lambda x: ChowLiu.fit(x, smoothing=0),
    "kernel": lambda x: Kernel.fit(x),
    "kernel, validation": lambda x: Kernel.fit(x, valid=related(9, len(x[0]), 5)),
}
SIZES = {"n": st.integers(1, 6), "K": st.integers(1, 6), "alpha": st.floats(1e-3, 4), "seed": st.integers(0, 99)}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def related(b: int, n: int, seed: int = 0) -> torch.Tensor:
    """b vectors whose variables depend on one another: two templates, each variable flipped now and then."""
    templates = some(2, n, seed + 100).byte()
    flip = uniform(b, n, seed) < 0.1 + 0.2 * uniform(1, n, seed + 7)
    return templates[some(b, 1, seed + 50)[:, 0].long()] ^ flip


@EVERY_KIND
@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_it_is_a_distribution(kind, n):
    log_p = KINDS[kind](related(40, n)).log_prob(everything(n))
    assert log_p.shape == (2**n,) and log_p.dtype == torch.float64
    assert abs(log_p.exp().sum().item() - 1) < 1e-12
    assert kind == "tree, likeliest" or log_p.isfinite().all(), "no vector has probability 0"


@EVERY_KIND
@pytest.mark.parametrize("n", [1, 4])
def test_samples_follow_it(kind, n):
    model = KINDS[kind](related(60, n, 3))
    x = model.sample(20_000, seed=1)
    p = model.log_prob(everything(n)).exp()
    counts = number(x).bincount(minlength=2**n)
    assert counts[p == 0].sum() == 0
    assert frequencies_fit(counts[p > 0], p[p > 0]) > 1e-3


@EVERY_KIND
def test_samples_are_keyed_by_the_seed_and_start_alike(kind):
    before, model = torch.get_rng_state(), KINDS[kind](related(30, 6))
    x = model.sample(1500, seed=4)
    assert x.shape == (1500, 6) and x.dtype == torch.float32
    assert torch.equal(model.sample(1100, seed=4), x[:1100]) and not torch.equal(model.sample(1500, seed=5), x)
    assert len(x[:1000].unique(dim=0)) > 2 and not torch.equal(x[:500], x[1000:])
    assert torch.equal(before, torch.get_rng_state())


@EVERY_KIND
def test_one_row_or_all_in_small_blocks_or_as_another_array_is_the_same(kind, monkeypatch):
    x, asked = related(50, 7), some(33, 7)
    model = KINDS[kind](x)
    together = model.log_prob(asked)
    torch.testing.assert_close(torch.stack([model.log_prob(row[None])[0] for row in asked]), together)
    assert model.log_prob(asked[:0]).shape == (0,)
    for same in (torch.Tensor.bool, torch.Tensor.bfloat16, torch.Tensor.numpy, torch.Tensor.tolist):
        assert torch.equal(KINDS[kind](same(x)).log_prob(same(asked)), together)
    monkeypatch.setattr(module, "BLOCK", 40)
    torch.testing.assert_close(KINDS[kind](x).log_prob(asked, chunk=4), together)


def test_bernoulli_counts_by_hand():
    model = Bernoulli.fit([[0, 1, 1], [0, 1, 0], [0, 1, 1]])
    assert model.parameters == 3
    assert model.log_prob([[1, 1, 0]]).item() == pytest.approx(math.log(1 / 5 * 4 / 5 * (1 - 3 / 5)))


def written_out(model: Mixture, x: torch.Tensor) -> torch.Tensor:
    """π_k p_k(x) of eq. (2) by loops, (b, K)."""
    terms = torch.zeros(len(x), len(model.pi), dtype=torch.float64)
    for i, row in enumerate(x.tolist()):
        for k, mu in enumerate(model.mu.tolist()):
            terms[i, k] = model.pi[k] * math.prod(m if v else 1 - m for v, m in zip(row, mu, strict=True))
    return terms


def penalised(model: Mixture, x: torch.Tensor, alpha: float) -> float:
    """L/N of eq. (5) by loops."""
    prior = model.pi.log().sum() + sum(math.log(m * (1 - m)) for m in model.mu.flatten().tolist())
    return float(written_out(model, x).sum(1).log().sum() + alpha * prior) / len(x)


@settings(max_examples=25, deadline=None)
@given(N=st.integers(1, 12), **SIZES)
def test_a_step_of_em_is_equations_3_and_4(N, n, K, alpha, seed):
    x, K = related(N, n, seed), min(K, N)
    start = Mixture.start(x, K, seed)
    stepped = Mixture.fit(x, K, alpha, tolerance=0, most=1, seed=seed)
    r = written_out(start, x)
    r = r / r.sum(1, keepdim=True)
    for k in range(K):
        N_k = sum(r[i, k] for i in range(N))
        assert stepped.pi[k].item() == pytest.approx(float(N_k + alpha) / (N + K * alpha))
        for d in range(n):
            ones = sum(r[i, k] * x[i, d] for i in range(N))
            assert stepped.mu[k, d].item() == pytest.approx(float((ones + alpha) / (N_k + 2 * alpha)))
    assert stepped.history == pytest.approx([penalised(start, x, alpha), penalised(stepped, x, alpha)])
    torch.testing.assert_close(stepped.log_prob(x), written_out(stepped, x).sum(1).log())
    assert stepped.parameters == K - 1 + K * n


@settings(max_examples=30, deadline=None)
@given(N=st.integers(1, 60), **SIZES)
def test_what_em_maximises_never_falls_and_it_stops_at_the_tolerance(N, n, K, alpha, seed):
    x, K = related(N, n, seed), min(K, N)
    model = Mixture.fit(x, K, alpha, tolerance=0, most=60, seed=seed)
    gains = np.diff(model.history)
    assert len(gains) <= 60 and (gains >= -1e-11 * abs(model.history[0])).all()
    stopped = np.diff(Mixture.fit(x, K, alpha, tolerance=0.01, most=60, seed=seed).history)
    assert (stopped[:-1] >= 0.01).all() and (len(stopped) == 60 or stopped[-1] < 0.01)
    assert ((model.mu > 0) & (model.mu < 1)).all() and (model.pi > 0).all()


def test_equal_vectors_start_apart_and_two_groups_are_found():
    x = torch.tensor([[1, 1, 1, 0, 0, 0]] * 30 + [[0, 0, 0, 1, 1, 1]] * 10)
    assert len(Mixture.start(x.byte(), 40, 0).mu.unique(dim=0)) == 40
    assert not torch.equal(Mixture.start(x.byte(), 3, 1).mu, Mixture.start(x.byte(), 3, 2).mu)
    model = Mixture.fit(x, 2, smoothing=0.01)
    assert sorted(model.pi.tolist()) == pytest.approx([10.01 / 40.02, 30.01 / 40.02], abs=1e-6)
    assert torch.equal(model.mu, Mixture.fit(x, 2, smoothing=0.01).mu)


def test_the_number_of_components_is_the_best_on_validation():
    x, valid, Ks = related(60, 8), related(40, 8, 1), (1, 2, 4, 30)
    nats = {K: -Mixture.fit(x, K, seed=3).log_prob(valid).mean().item() for K in Ks}
    best = Mixture.choose(x, valid, Ks, seed=3)
    assert best.chosen == {"K": min(nats, key=lambda K: nats[K])}
    assert Mixture.choose(x, x, Ks, smoothing=0.01).chosen == {"K": 30}, "on the training data the largest wins"


def all_trees(n: int) -> list[list[tuple[int, int]]]:
    """The n^{n-2} spanning trees of n nodes (Cayley 1889): the sets of n - 1 edges that leave nothing apart."""
    trees = []
    for edges in itertools.combinations(itertools.combinations(range(n), 2), n - 1):
        group = list(range(n))
        for d, e in edges:
            group = [group[d] if g == group[e] else g for g in group]
        if len(set(group)) == 1:
            trees.append(list(edges))
    assert len(trees) == n ** max(0, n - 2)
    return trees


def edges_of(parent: torch.Tensor) -> list[tuple[int, int]]:
    return sorted((min(d, int(p)), max(d, int(p))) for d, p in enumerate(parent.tolist()) if d != p)


def tree_log_prob(edges, x: torch.Tensor, data: torch.Tensor, alpha: float = 0.0) -> torch.Tensor:
    r"""\sum_{edges} log p̃(x_d, x_e) - \sum_d (degree - 1) log p̃(x_d), p̃ of eq. (8) by counting; it has no root."""
    total, out = len(data) + 4 * alpha, torch.zeros(len(x), dtype=torch.float64)
    for d, e in edges:
        equal = (data[:, d] == x[:, d, None]) & (data[:, e] == x[:, e, None])  # (b, N)
        out += ((equal.sum(1).double() + alpha) / total).log()
    for d in range(x.shape[1]):
        p = ((data[:, d] == x[:, d, None]).sum(1).double() + 2 * alpha) / total
        out -= (sum(d in edge for edge in edges) - 1) * p.log()
    return out


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 5), values=st.lists(st.integers(-3, 3), min_size=10, max_size=10))
def test_no_spanning_tree_is_heavier(n, values):
    weight = torch.zeros(n, n, dtype=torch.float64)
    for (d, e), value in zip(itertools.combinations(range(n), 2), values, strict=False):
        weight[d, e] = weight[e, d] = value
    parent, order = module.spanning_tree(weight)
    assert edges_of(parent) in all_trees(n)
    assert sum(weight[e] for e in edges_of(parent)) == max(sum(weight[e] for e in tree) for tree in all_trees(n))
    seen = order.tolist()
    assert sorted(seen) == list(range(n)) and all(int(parent[d]) in seen[:i] for i, d in enumerate(seen) if i)


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 1), (4, 2), (5, 3)])
def test_the_fitted_tree_is_the_likeliest_of_all(n, seed):
    """And the mean log-likelihood of every tree is its total of eq. (7) less the entropies."""
    x = related(60, n, seed)
    x[:, -1] = x[:, 0] ^ (uniform(60, 1, seed)[:, 0] < 0.2)
    model, p = ChowLiu.fit(x, smoothing=0), module.pair_counts(x) / 60
    I, marginal = module.mutual_information(p), p.diagonal(dim1=2, dim2=3).sum(0)
    entropy = -torch.special.xlogy(marginal, marginal).sum().item()
    likelihood = {tuple(tree): tree_log_prob(tree, x, x).mean().item() for tree in all_trees(n)}
    for tree, value in likelihood.items():
        assert sum(I[e].item() for e in tree) - entropy == pytest.approx(value)
    assert model.log_prob(x).mean().item() == pytest.approx(likelihood[tuple(edges_of(model.parent))])
    assert max(likelihood.values()) == pytest.approx(likelihood[tuple(edges_of(model.parent))])
    assert n == 2 or min(likelihood.values()) < max(likelihood.values()) - 0.01, "the trees differ"
    assert model.parameters == 2 * n - 1


@pytest.mark.parametrize("times", [1, 3])
def test_a_smoothed_tree_is_its_equation_and_that_of_vectors_spread_evenly(times):
    x, all_x = related(40, 5), everything(5)
    model = ChowLiu.fit(x, alpha := times * 32 / 4)
    torch.testing.assert_close(model.log_prob(all_x), tree_log_prob(edges_of(model.parent), all_x, x, alpha))
    spread = ChowLiu.fit(torch.cat([x, *[all_x.byte()] * times]), smoothing=0)
    torch.testing.assert_close(model.log_prob(all_x), spread.log_prob(all_x))


def test_a_chain_is_found_again():
    x, flip = some(3000, 8).byte(), uniform(3000, 8) < 0.2
    order = [3, 0, 6, 1, 7, 2, 5, 4]
    for before, d in itertools.pairwise(order):
        x[:, d] = x[:, before] ^ flip[:, d]
    chain = sorted((min(e), max(e)) for e in itertools.pairwise(order))
    assert edges_of(ChowLiu.fit(x).parent) == chain
    assert edges_of(ChowLiu.fit(ChowLiu.fit(x).sample(3000, seed=2)).parent) == chain, "nor do samples lose it"


def test_what_was_never_seen_has_no_probability_without_added_counts():
    x = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 0, 0]])
    assert ChowLiu.fit(x, 0).log_prob([[0, 0, 0], [1, 0, 1], [1, 0, 0]]).exp().tolist() == pytest.approx([0, 0, 2 / 3])
    assert ChowLiu.fit(x, 1e-6).log_prob([[0, 0, 0], [1, 0, 1]]).isfinite().all()


def kernel_by_hand(x, centres, lam: float, leave: bool = False) -> torch.Tensor:
    """Eq. (9), the product over d and the sum over i as they stand; `leave` leaves vector i out of its own."""
    out = []
    for j, row in enumerate(x):
        kept = [c for i, c in enumerate(centres) if not (leave and i == j)]
        out.append(math.log(sum(float(torch.where(row == c, lam, 1 - lam).double().prod()) for c in kept) / len(kept)))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.5, 0.7, 0.99])
def test_the_kernel_density_is_its_equation(lam):
    x = related(20, 6)
    model = Kernel.fit(x, lam=lam)
    torch.testing.assert_close(model.log_prob(everything(6)), kernel_by_hand(everything(6).byte(), x, lam))
    assert model.parameters == 1 and model.chosen == {"lambda": lam}


def test_vectors_far_from_all_do_not_vanish():
    x = torch.zeros(3, 3000, dtype=torch.uint8)
    x[1, :1000] = x[2, :1001] = 1
    far = Kernel.fit(x, lam=0.9).log_prob(torch.ones(1, 3000))
    terms = [(3000 - h) * math.log(0.9) + h * math.log(0.1) for h in (3000, 2000, 1999)]
    assert far.item() == pytest.approx(torch.tensor(terms).double().logsumexp(0).item() - math.log(3))


@pytest.mark.parametrize("leave", [True, False])
def test_no_other_width_is_likelier(leave):
    x = related(25, 7)
    asked = x if leave else related(15, 7, 1)
    lam = Kernel.fit(x, valid=None if leave else asked).lam
    cost = lambda value: -kernel_by_hand(asked, x, float(value), leave).mean().item()  # noqa: E731
    found = minimize_scalar(cost, bounds=(0.5, 0.999), method="bounded", options={"xatol": 1e-6})
    assert lam == pytest.approx(found.x, abs=1e-4)
    assert all(cost(lam) <= cost(other) + 1e-12 for other in np.linspace(0.5, 0.999, 20))


@pytest.mark.parametrize(("n", "h"), [(10, 1), (10, 4), (3, 1), (10, 9), (8, 0)])
def test_the_width_of_two_vectors_is_the_share_in_which_they_agree(n, h):
    x = torch.zeros(2, n, dtype=torch.uint8)
    x[1, :h] = 1
    expected = min(max(1 - h / n, 0.5), 1 - 1 / (2 * n + 2))
    assert Kernel.fit(x).lam == pytest.approx(expected, abs=1e-6)


def test_many_vectors_choose_the_width_by_some_drawn_by_the_seed(monkeypatch):
    x = related(400, 10)
    full = Kernel.fit(x).lam
    monkeypatch.setattr(module, "MOST_ASKED", 100)
    some_of = [Kernel.fit(x, seed=seed).lam for seed in (0, 0, 1)]
    assert some_of[0] == some_of[1] and abs(some_of[0] - some_of[2]) > 1e-4, "not just another order of all"
    assert some_of == pytest.approx([full] * 3, abs=0.05)


FITS = pytest.mark.parametrize(
    "fit", [Bernoulli.fit, lambda x: Mixture.fit(x, 1), ChowLiu.fit, lambda x: Kernel.fit(x, lam=0.9)]
)


@FITS
@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(0, 5), r"shape \(0, 5\); allowed: \(N, n\), at least one row and one column"),
     (torch.zeros(5, 0), r"shape \(5, 0\); allowed"), (torch.zeros(5), r"shape \(5,\); allowed"),
     ([[0, 2]], "holds 2; allowed: 0 and 1"), ([[0, 0.5]], "holds 0.5;"), ([[0, math.nan]], "holds nan;"),
     ("abc", "no array of numbers"), ([[0, 1], [0]], "no array of numbers")],
)  # fmt: skip
def test_data_that_are_no_vectors_are_refused(fit, x, message):
    with pytest.raises(InputError, match=message):
        fit(x)
    with pytest.raises(InputError, match="holds 3;|no array|shape"):
        fit([[0, 1]]).log_prob([[0, 3]] if not isinstance(x, torch.Tensor) else x)


@FITS
def test_one_row_of_one_column_is_enough(fit):
    model = fit([[1]])
    p = model.log_prob([[0], [1]]).exp()
    assert p.sum().item() == pytest.approx(1) and 0 < p[0] < p[1]


@pytest.mark.parametrize(
    ("fit", "message"),
    [(lambda x: Mixture.fit(x, 9), "components = 9 is impossible; allowed: from 1 to the 8 training vectors"),
     (lambda x: Mixture.choose(x, x, [2, 9]), "components = 9 is impossible"),
     (lambda x: Mixture.fit(x, 2, smoothing=0.0), "smoothing = 0.0 is impossible; allowed: above 0"),
     (lambda x: Mixture.fit(x, 2, tolerance=math.nan), "tolerance = nan is impossible"),
     (lambda x: Bernoulli.fit(x, smoothing=0), "smoothing = 0 is impossible; allowed: above 0"),
     (lambda x: Bernoulli.fit(x).sample(0), "count = 0 is impossible; allowed: at least 1"),
     (lambda x: ChowLiu.fit(x, smoothing=-1), "smoothing = -1 is impossible; allowed: at least 0"),
     (lambda x: Kernel.fit(x, lam=0.4), "lam = 0.4 is impossible; allowed: from 0.5 to below 1"),
     (lambda x: Kernel.fit(x[:1]), "vectors that choose λ = 1 is impossible; allowed: at least 2"),
     (lambda x: Kernel.fit(x, valid=x[:0]), "vectors that choose λ = 0 is impossible; allowed: at least 1")],
)  # fmt: skip
def test_impossible_values_are_refused(fit, message):
    with pytest.raises(UsageError, match=message):
        fit(related(8, 3))


@pytest.fixture
def tiny(tmp_path):
    np.save(tmp_path / "tiny.npy", related(200, 5).numpy())
    return str(tmp_path / "tiny.npy")


def test_the_command_prints_a_table_or_one_object(tiny, capsys):
    assert command(["--data", tiny]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tiny in lines[0] and "5 variables" in lines[0] and "160 training vectors" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["bernoulli", "mixture", "chow-liu", "kernel"]
    assert command(["--data", tiny, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test" and [m["name"] for m in printed["models"]] == [x.split()[0] for x in lines[2:]]
    for line, m in zip(lines[2:], printed["models"], strict=True):
        assert line.split()[-5] == f"{m['parameters']:,}" and float(line.split()[-4]) == round(m["nats"], 3)
        assert m["seconds"] > 0 and m["seconds_per_1000"] > 0
        assert all(f"{k}={v:.6g}" in line for k, v in m["chosen"].items())


def test_the_figures_are_of_the_split_that_was_asked_for_and_choices_of_validation(tiny):
    data = load(tiny)
    train, valid, test = (data.split(split) for split in ("train", "valid", "test"))
    rows = {r["name"]: r for r in baselines(tiny, components=(1, 2, 40), seed=2)}
    models = {
        "bernoulli": Bernoulli.fit(train), "mixture": Mixture.choose(train, valid, (1, 2, 40), seed=2),
        "chow-liu": ChowLiu.fit(train), "kernel": Kernel.fit(train, valid),
    }  # fmt: skip
    for name, model in models.items():
        nats = -model.log_prob(test)
        assert rows[name]["nats"] == pytest.approx(nats.mean().item()) and rows[name]["chosen"] == model.chosen
        assert rows[name]["nats_se"] == pytest.approx(nats.std().item() / math.sqrt(20))


def test_few_rows_to_measure_on_and_no_validation_split(tmp_path):
    x, file = related(12, 3), str(tmp_path / "few.npy")
    np.save(file, x.numpy())
    assert all("nats_se" not in r and math.isfinite(r["nats"]) for r in baselines(file)), "one row has none"
    np.save(file, x[:7].numpy())
    rows = {r["name"]: r for r in baselines(file, split="train", seed=3)}
    assert rows["mixture"]["nats"] == -Mixture.fit(x[:7], 5, seed=3).log_prob(x[:7]).mean().item()
    assert rows["mixture"]["chosen"] == {"K": 5} and rows["kernel"]["chosen"] == Kernel.fit(x[:7]).chosen
    with pytest.raises(UsageError, match="no validation split to choose --components by; give one value"):
        baselines(file, split="train", components=(1, 2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"components": (5, 161)}, "components = 161 is impossible; allowed: from 1 to the 160 training vectors"),
     ({"components": (0,)}, "components = 0 is impossible"),
     ({"split": "tset"}, "'tset' is unknown; allowed: .*Did you mean 'test'"),
     ({"data": "debd:nltc"}, "'nltc' is unknown; .*Did you mean 'nltcs'")],
)  # fmt: skip
def test_the_command_refuses_before_it_prints(tiny, capsys, wrong, message):
    with pytest.raises(UsageError, match=message):
        baselines(**{"data": tiny, **wrong})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "published", "within"), [("nltcs", -6.759, 0.003), ("plants", -16.524, 0.01)])
def test_chow_liu_trees_have_the_published_likelihood(real, name, published, within):
    real(f"debd/{name}/{name}.train.data.gz")
    data = load(f"debd:{name}")
    for how in ({}, {"smoothing": 0}, {"smoothing": 1}, {"smoothing": 5}):
        tree = ChowLiu.fit(data.split("train"), **how)
        assert abs(tree.log_prob(data.split("test")).mean().item() - published) < within
