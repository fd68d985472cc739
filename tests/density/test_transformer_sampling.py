"""The transformer drawn from: the cache against whole passes, exact completions of any mask."""

import math

import pytest
import torch
from transformers_by_hand import (
    EVERY_KIND,
    JOINT,
    PICTURES_TOO,
    all_of,
    build,
    order,
    place,
    steps_by_hand,
    value,
)
from zoo import everything, frequencies_fit, number, some, uniform

from ptheta.data.order import generator
from ptheta.density import transformer
from ptheta.density.transformer import Transformer
from ptheta.engine.errors import InputError, UsageError

# ---------------------------------------------------------------- sampling


def loop(model: Transformer, x: torch.Tensor, observed: torch.Tensor, u: torch.Tensor, o: list[int]):
    """Clamped ancestral sampling of one vector, each step from a pass of its own over its past."""
    x, log_w = x.clone(), 0.0
    for t, v in enumerate(o):
        columns = place(model, v)
        if not observed[columns].all():
            x[columns] = 0
            x[columns.start] = 1 if v == model.n_x else 0  # any value: it is not in its own past
        p = steps_by_hand(model, x, o[: t + 1])[-1]
        if observed[columns].all():
            log_w += p[value(model, x, v) - 2 * (v == model.n_x)].log().item()
        elif v == model.n_x:
            y = next((y for y in range(len(p)) if u[columns.start] < p[: y + 1].sum()), len(p) - 1)
            x[columns] = torch.eye(len(p), dtype=x.dtype)[y]
        else:
            x[columns] = float(u[columns.start] < p[1])
    return x, log_w


def masks(model: Transformer, b: int, share: float = 0.5) -> torch.Tensor:
    """Random masks that hold the whole label or nothing of it, the last two rows of everything and of nothing."""
    by_variable = torch.rand(b, model.m, generator=generator(0, 0, "masks")) < share
    by_variable[-2], by_variable[-1] = True, False
    observed = torch.zeros(b, model.n, dtype=torch.bool)
    for v in range(model.m):
        observed[:, place(model, v)] = by_variable[:, v : v + 1]
    return observed


@EVERY_KIND
@pytest.mark.parametrize(("n_x", "shape"), [(1, None), (5, None), (4, (2, 2))])
def test_cached_sampling_equals_a_loop_of_passes_over_the_past(kind, n_x, shape):
    model = build(kind, n_x, seed=2, shape=shape)
    x = all_of(model)[torch.arange(8) * 5 % len(all_of(model))]
    observed, u, k = masks(model, 8), uniform(8, model.n), model.components - 1
    before = x.clone(), u.clone()
    got, log_w = model.clamped(x, observed, u, k)
    assert torch.equal(x, before[0]) and torch.equal(u, before[1])
    for i in range(8):
        want, log_w_want = loop(model, x[i], observed[i], u[i], order(model, k, observed[i]))
        assert torch.equal(got[i], want)
        assert log_w[i].item() == pytest.approx(log_w_want, abs=1e-10)


@EVERY_KIND
def test_steps_from_the_cache_have_the_probabilities_of_the_whole_pass(kind):
    """One row that knows nothing makes all rows go step by step: those that know all are replayed from the cache."""
    model = build(kind, 6)
    drawn = model.sample(40, seed=1)
    if model.classes:
        assert (drawn[:, model.block].sum(1) == 1).all()
    rows = torch.cat([drawn, drawn[:1]])
    known = torch.ones_like(rows, dtype=torch.bool)
    at_once = [model.clamped(rows, known, uniform(*rows.shape), k) for k in range(model.components)]
    known[-1] = False
    for k in range(model.components):
        replayed, log_w = model.clamped(rows, known, uniform(*rows.shape), k)
        assert torch.equal(replayed[:40], drawn)
        torch.testing.assert_close(log_w[:40], model.component_log_prob(drawn, k), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(at_once[k][1][:40], log_w[:40], rtol=1e-10, atol=1e-10)
        assert log_w[40] == 0


@EVERY_KIND
def test_frequencies_of_samples_are_the_probabilities(kind):
    model = build(kind, 3, seed=2, dtype=torch.float32)
    drawn = model.sample(5000, seed=8)
    p = model.double().log_prob(everything(model.n)).exp()
    counts = torch.bincount(number(drawn), minlength=2**model.n)
    assert (counts[p == 0] == 0).all()
    assert frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
    assert frequencies_fit(counts[p > 0], p[p > 0].flip(0)) < 1e-4, "the test could not tell this from another"


@pytest.mark.parametrize("kind", ["any x3", "first natural"])
def test_pieces_that_fit_into_memory_give_what_one_piece_gives(kind, monkeypatch):
    model = build(kind, 5)
    x = all_of(model)[:30]
    observed, u = masks(model, 30), uniform(30, model.n)
    whole = model.log_prob(x), model.embed(x), *model.clamped(x, observed, u, 0)
    monkeypatch.setattr(transformer, "AT_ONCE", 4 * model.m * 16)
    monkeypatch.setattr(transformer, "CACHED", 7 * 2 * 2 * model.m * 16)
    count = []
    model.blocks.register_forward_hook(lambda module, given, out: count.append(len(out)))
    parts = model.log_prob(x), model.embed(x), *model.clamped(x, observed, u, 0)
    assert max(count) == 7 and count[:8] == [4, 4, 4, 4, 4, 4, 4, 2]
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    nothing = x[:0]
    assert (
        model.log_prob(nothing).shape == (0,) and model.clamped(nothing, observed[:0], u[:0], 0)[0].shape == x[:0].shape
    )
    assert model.embed(nothing).shape == (0, 16)


@JOINT
def test_an_observed_label_of_no_class_has_weight_zero_and_stays(kind):
    model = build(kind, 3)
    x = all_of(model)[:2].clone()
    x[0, model.block] = 1
    observed = torch.zeros(2, model.n, dtype=torch.bool)
    observed[:, model.block] = True
    drawn, log_w = model.clamped(x, observed, uniform(2, model.n), 0)
    assert log_w[0] == -math.inf and torch.isfinite(log_w[1])
    assert torch.equal(drawn[:, model.block], x[:, model.block])


# ---------------------------------------------------------------- completion


@torch.no_grad()
def conditional(model: Transformer, x: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor, float]:
    """p(x_M | x_O) of the mixture over the orderings, each with O first, for every vector (2^n,), and log p(x_O)."""
    vectors = all_of(model)
    agrees = (vectors == x)[:, observed].all(1)
    orders = [torch.tensor(order(model, k, observed)) for k in range(model.components)]
    p = sum(model.log_p(vectors, o).exp() for o in orders) / len(orders) * agrees
    out = torch.zeros(2**model.n, dtype=torch.float64).index_put_((number(vectors),), p / p.sum())
    return out, p.sum().log().item()


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        ("any", []), ("any", [1]), ("any", [0, 3]), ("any x3", [0, 1, 2]), ("any", [0, 1, 2, 3]),
        ("first any", [0, 2]), ("last any", [1, 4]), ("last any x3", [4]),
    ],
)  # fmt: skip
@PICTURES_TOO
def test_completions_of_any_mask_follow_the_models_own_conditionals(kind, variables, shape):
    model = build(kind, 4, seed=5, shape=shape)
    x = all_of(model)[9]
    observed = torch.zeros(model.n, dtype=torch.bool)
    for v in variables:
        observed[place(model, v)] = True
    done = model.complete(torch.where(observed, x, 1 - x).repeat(2500, 1), observed, seed=3)
    assert done.exact and done.particles == model.components
    assert (done.effective == math.inf).all() and len(done.effective) == 2500
    assert (done.x[:, observed] == x[observed]).all()
    counts, (p, log_p) = torch.bincount(number(done.x), minlength=2**model.n), conditional(model, x, observed)
    assert (counts[p == 0] == 0).all()
    marginal = model.marginal(x[None], observed)
    assert marginal.exact and marginal.log_prob.item() == pytest.approx(log_p, abs=1e-10)
    if len(variables) < model.m:
        assert frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
        assert frequencies_fit(counts[p > 0], p[p > 0].flip(0)) < 1e-4, "the test could not tell this from another"
    else:
        assert counts[p > 0].item() == 2500


def test_each_row_is_completed_by_its_own_mask():
    model = build("last any", 4)
    x, observed = all_of(model)[:40], masks(model, 40)
    done = model.complete(x, observed, seed=2)
    assert torch.equal(done.x[observed], x[observed])
    assert torch.equal(model.complete(x, observed, seed=2).x, done.x)
    assert torch.equal(model.complete(x[:7], observed[:7], seed=2).x, done.x[:7])
    assert not torch.equal(model.complete(x, observed, seed=3).x, done.x)
    assert model.complete(x[:0], observed[:0]).x.shape == (0, 7)


def test_one_ordering_completes_exactly_what_is_observed_first_and_says_so():
    model = build("random", 4, seed=1)
    o, x = order(model, 0), some(1, 4)[0]
    observed = torch.isin(torch.arange(4), torch.tensor(o[:2]))
    done = model.complete(x.repeat(2000, 1), observed, seed=1)
    p = torch.where((everything(4) == x)[:, observed].all(1), model.log_prob(everything(4)).exp(), 0)
    counts = torch.bincount(number(done.x), minlength=16)
    assert done.exact and (counts[p == 0] == 0).all() and frequencies_fit(counts[p > 0], p[p > 0] / p.sum()) > 1e-4
    assert not model.complete(x[None], ~observed).exact


WRONG = [
    (
        torch.zeros(2, 4),
        torch.zeros(3, dtype=torch.bool),
        r"observed is \(3,\) of torch.bool; allowed: a mask of bools",
    ),
    (torch.zeros(2, 4), torch.zeros(4), r"observed is \(4,\) of torch.float32; allowed: a mask of bools"),
    (torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.bool), r"observed is \(3, 4\) and x \(2, 4\)"),
    (torch.zeros(4), torch.zeros(4, dtype=torch.bool), r"x has shape \(4,\)"),
    (torch.full((2, 4), 0.5), torch.ones(4, dtype=torch.bool), "x holds 0.5; allowed: 0 and 1"),
    (None, torch.ones(4, dtype=torch.bool), "x is no array of numbers"),
]


@pytest.mark.parametrize(("x", "observed", "message"), WRONG)
def test_wrong_vectors_and_masks_are_refused(x, observed, message):
    with pytest.raises(InputError, match=message):
        build("any", 4).complete(x, observed)
    with pytest.raises(UsageError, match="particles = 0 is impossible; allowed: at least 1"):
        build("any", 4).complete(torch.zeros(1, 4), torch.ones(4, dtype=torch.bool), particles=0)


def test_half_a_label_and_a_label_of_no_class_are_refused():
    model = build("first any", 3)
    half = torch.tensor([True, False, False, True, True, True])
    with pytest.raises(
        InputError, match="observed label is no class; allowed: all its columns, one of them 1, or none"
    ):
        model.complete(all_of(model)[:1], half)
    with pytest.raises(InputError, match="observed label is no class"):
        model.complete(torch.zeros(1, 6), torch.ones(6, dtype=torch.bool))
