"""Orderless NADE: its estimate of all orderings at once, its walk along one, and any part given any other."""

import itertools
import math

import pytest
import torch
from zoo import everything, frequencies_fit, number, scatter

from ptheta.data.binary import load
from ptheta.density.orderless import Config, Method, Orderless
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import Hardware

NAMES = ("one layer", "two layers, mixture", "label first", "label last")


def build(name: str, n: int = 5, orderings: int | None = None) -> Orderless:
    """A model with random weights in float64; `n` counts x alone, labels have three classes."""
    label = name.split()[-1] if name.startswith("label") else "none"
    hidden = (12,) if name == "one layer" else (14, 11)
    K = orderings or (3 if "mixture" in name else 1)
    classes = 3 if label != "none" else 0
    return scatter(Orderless(n + classes, hidden, K, seed=4, label=label, classes=classes), 7).double().eval()


def outcomes(model: Orderless) -> torch.Tensor:
    """Every vector that can occur: all x, with each class for a joint model."""
    x = everything(model.n_x)
    if not model.classes:
        return x
    return torch.cat([model.join(x, torch.full((len(x),), c)) for c in range(model.classes)])


def log_conditional(model: Orderless, x: torch.Tensor, known: list[int], v: int) -> torch.Tensor:
    """log p(x_v | x_known) by eqs. (1)–(3) written out, for variable numbers `known` and `v`."""
    m = torch.zeros(model.n, dtype=x.dtype)
    for j in known:
        m[model.columns(j)] = 1
    h = (model.c[0] + (x * m) @ model.W + m @ model.U).relu()
    for W, c in zip(model.layers, list(model.c)[1:]):
        h = (h @ W.t() + c).relu()
    at = model.columns(v)
    logits, value = h @ model.V[at].t() + model.b[at] + (x * m) @ model.A[at].t() + m @ model.B[at].t(), x[:, at]
    if at.stop - at.start == 1:
        p = logits.sigmoid()
        return torch.where(value == 1, p, 1 - p).log()[:, 0]
    return (logits.softmax(1) * value).sum(1).log()


def along(model: Orderless, x: torch.Tensor, order) -> torch.Tensor:
    return sum(log_conditional(model, x, list(order[:d]), v) for d, v in enumerate(order))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 5])
def test_every_ordering_sums_to_one_and_is_the_product_of_its_conditionals(name, n):
    model = build(name, n)
    x = outcomes(model)
    assert abs(model.log_prob(x).exp().sum().item() - 1) < 1e-9
    for k in range(4):
        log_p = model.component_log_prob(x, k)
        assert abs(log_p.exp().sum().item() - 1) < 1e-9
        order = model.variable_order(k).tolist()
        torch.testing.assert_close(log_p, along(model, x, order), rtol=1e-10, atol=1e-10)


def test_the_density_is_the_exact_mixture_over_orderings():
    model = build("two layers, mixture", orderings=5)
    x = outcomes(model)
    assert len({tuple(model.order(k).tolist()) for k in range(5)}) == 5
    each = torch.stack([model.component_log_prob(x, k) for k in range(5)])
    torch.testing.assert_close(model.log_prob(x), each.exp().mean(0).log(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_one_random_set_is_an_unbiased_estimate_of_the_mean_over_all_orderings(name):
    """Eq. (4): exactly, by the sum over all sets with their probabilities, and in the draws that training takes."""
    model = build(name, 3).train()
    x = outcomes(model)[::2]
    N = model.variables
    every = [along(model, x, o) for o in itertools.permutations(range(N))]
    want = -torch.stack(every).mean(0)
    total = torch.zeros_like(want)
    for s in range(N):
        for known in itertools.combinations(range(N), s):
            rest = [v for v in range(N) if v not in known]
            lost = -sum(log_conditional(model, x, list(known), v) for v in rest)
            total += lost * (N + 1) / (N - s) / ((N + 1) * math.comb(N, s))
    torch.testing.assert_close(total, want, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        drawn = torch.stack([model(x, step) for step in range(4000)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - want).abs() < 5 * error).all()
    assert torch.equal(model(x, 7), model(x, 7)) and not torch.equal(model(x, 7), model(x, 8))


@pytest.mark.parametrize("name", ["label first", "label last"])
def test_a_vector_without_its_class_counts_with_p_of_x(name):
    """The mean over the orderings that ask for the class last of −log p(x | o), in the draws that training takes."""
    model = build(name, 3).train()
    x = everything(3)
    y = int(model.columns(0).stop == 1) * 3  # the label's number among the variables
    rest = [v for v in range(4) if v != y]
    shown = model.join(x, torch.zeros(8, dtype=torch.long))  # a class that no conditional below looks at
    want = -torch.stack([along(model, shown, list(o)) for o in itertools.permutations(rest)]).mean(0)
    with torch.no_grad():
        drawn = torch.stack([model(model.join(x), step) for step in range(4000)])
        mixed = torch.cat([model.join(x), shown])
        assert torch.equal(model(mixed, 3)[8:], model(torch.cat([shown, shown]), 3)[8:]), "others are disturbed"
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - want).abs() < 5 * error).all()
    model.zero_grad()
    model(model.join(x), 5).sum().backward()
    assert not model.b.grad[model.columns(y)].any(), "the class of none was learned"


@pytest.mark.parametrize("name", ["label first", "label last"])
@pytest.mark.parametrize("orderings", [1, 3])
def test_classes_are_told_by_bayes_rule_in_whatever_way_is_quickest(name, orderings):
    model = build(name, 4, orderings=orderings)
    x = everything(4)
    want = torch.stack([model.log_prob(model.join(x, torch.full((16,), c))) for c in range(3)], 1)
    torch.testing.assert_close(model.joint_log_prob(x), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.joint_log_prob(x, chunk=5), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.classify(x), want.softmax(1), rtol=1e-10, atol=1e-10)
    assert model.joint_log_prob(x[:0]).shape == model.classify(x[:0]).shape == (0, 3)
    if orderings == 3:
        one = build(name, 4, orderings=1)
        assert (one.joint_log_prob(x) - want).abs().max() > 0.01, "the orderings are too alike to tell"
    with pytest.raises(UsageError, match="no label"):
        build("one layer").joint_log_prob(x)


def test_learning_without_most_labels_uses_them_all_the_same():
    """200 vectors of two patterns with ten labels: p(x) and p(y | x) are both learned."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    p = torch.where((y[:, None] == 1) == (torch.arange(12) < 6), 0.9, 0.1)
    data = load({"x": torch.bernoulli(p, generator=g).numpy(), "y": y.numpy()})
    config = Config(hidden=(32,), label="last", labelled=10, learning_rate=0.01, warmup=0, average=0.9)
    method = Method(config, data, 0, Hardware(torch.device("cpu"), "fp32"), 300)
    for _, batch in zip(range(300), method.batches(0, 0, 1)):
        method.update(batch)
    found = method.evaluate(data, "test")
    assert found["accuracy"].mean > 0.85 and found["nats_x"].mean < 0.8 * 12 * math.log(2)


def test_two_processes_draw_the_sets_of_one():
    model, x = build("one layer").train(), outcomes(build("one layer"))[:8]
    whole = model(x, 3)
    model.world = 2
    halves = []
    for model.rank, rows in enumerate(x.split(4)):
        halves.append(model(rows, 3))
    torch.testing.assert_close(torch.cat(halves), whole)


@pytest.mark.parametrize("name", NAMES)
def test_completions_follow_the_conditional_of_the_model_for_any_observed_set(name):
    """p(missing | observed) in the model's own conditionals, the observed first, by brute force."""
    model = build(name, 4, orderings=1)
    seen = torch.zeros(model.n, dtype=torch.bool)
    for v in (1, 3):  # variables, the label among them in one of the models
        seen[model.columns(v)] = True
    x = outcomes(model)[-1]
    every = outcomes(model)
    every = every[(every[:, seen] == x[seen]).all(1)]
    known = [v for v in model.variable_order(0).tolist() if v in (1, 3)]
    rest = [v for v in model.variable_order(0).tolist() if v not in known]
    log_q = sum(log_conditional(model, every, known + rest[:i], v) for i, v in enumerate(rest))
    assert abs(log_q.exp().sum().item() - 1) < 1e-9
    count = 6000
    done = model.complete(x.repeat(count, 1), seen, seed=2)
    assert done.exact and torch.isinf(done.effective).all()
    assert torch.equal(done.x[:, seen], x[seen].expand(count, -1))
    counts = torch.bincount(number(done.x), minlength=2**model.n)[number(every)]
    assert counts.sum() == count
    assert frequencies_fit(counts, log_q.exp().detach()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_density(name):
    model = build(name, 3)
    every = outcomes(model)
    drawn = model.sample(8000, seed=1)
    counts = torch.bincount(number(drawn), minlength=2**model.n)[number(every)]
    assert counts.sum() == 8000
    assert frequencies_fit(counts, model.log_prob(every).exp()) > 1e-3


def test_the_marginal_of_any_set_is_its_own_walk():
    model = build("one layer", 5)
    x, seen = outcomes(model), torch.tensor([False, True, False, True, True])
    got = model.marginal(x, seen)
    assert got.exact and (got.standard_error == 0).all()
    want = along(model, x, [v for v in model.variable_order(0).tolist() if v in (1, 3, 4)])
    torch.testing.assert_close(got.log_prob, want, rtol=1e-10, atol=1e-10)


def test_a_vector_whose_label_is_no_class_has_no_density():
    model = build("label first")
    z = outcomes(model)[:2].clone()
    z[0, :3], z[1, :3] = 0, 1
    assert (model.log_prob(z) == -math.inf).all()


def test_a_network_without_hidden_layers_is_refused():
    with pytest.raises(UsageError, match=r"hidden has no layer; allowed: at least one \(option --hidden\)"):
        Orderless(5, ())
