"""Completions against the brute-force conditional p(missing | observed)."""

import math

import pytest
import torch
from zoo import EVERY_KIND, build, everything, frequencies_fit, number, some

from ptheta.engine.errors import InputError, UsageError

N = 5
CASES = [  # kind, seed, what is observed
    ("fvsbn", 2, [0, 2]), ("nade", 3, [1, 3]), ("made 1", 0, [2, 4]), ("made 2 x3 random", 3, [0, 3]),
    ("made 1 x3", 5, [1, 4])
]  # fmt: skip


def conditional(model, x: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """p(x_missing | x_observed) of every vector, (2^n,); zero where it contradicts what is observed."""
    every = everything(model.n)
    agrees = (every == x)[:, observed].all(1)
    p = torch.where(agrees, model.log_prob(every).exp(), 0)
    return p / p.sum()


def drawn(model, x: torch.Tensor, observed: torch.Tensor, count: int, **more):
    """Counts over all vectors of `count` completions of one vector, and what came with them."""
    done = model.complete(x.repeat(count, 1), observed, **more)
    return torch.bincount(number(done.x), minlength=2**model.n), done


def mask(*seen: int, n: int = N) -> torch.Tensor:
    return torch.isin(torch.arange(n), torch.tensor(seen, dtype=torch.long))


@pytest.mark.parametrize("count", [0, 1, 3, N])
@pytest.mark.parametrize("kind", ["fvsbn", "fvsbn random", "nade random", "made 1", "made 3 random", "made 1 x3"])
def test_completions_follow_the_exact_conditional_where_the_observed_come_first(kind, count):
    model, x = build(kind, N, seed=3), some(1, N, seed=7)[0]
    observed = mask(*model.order(0)[:count].tolist())
    counts, done = drawn(model, x, observed, 3000, seed=count)
    assert done.exact and (done.effective == math.inf).all() and done.particles == model.components
    p = conditional(model, x, observed)
    assert (counts[p == 0] == 0).all()
    if count < N:
        assert frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
        assert frequencies_fit(counts[p > 0], p[p > 0].flip(0)) < 1e-4, "the test could not tell this from another"


def test_an_exact_completion_of_a_mixture_weighs_its_components_by_what_is_observed():
    """The components disagree about x_0 here, so that equal weights would be wrong."""
    model = build("made 1 x3", 2, seed=11, hidden=(6,), direct=False)
    logits = torch.tensor([[-3.0, -3.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    model.logits = lambda x, k=0, step=None: logits[k].expand_as(x)
    model.clamped = lambda x, observed, u, k: (
        torch.where(observed, x, (u < logits[k].sigmoid()).to(x.dtype)),
        torch.where(observed, torch.where(x == 1, logits[k].sigmoid(), (-logits[k]).sigmoid()).log(), 0).sum(1),
    )
    observed, x = mask(0, n=2), torch.tensor([0.0, 0.0], dtype=torch.float64)
    counts, done = drawn(model, x, observed, 4000)
    p = conditional(model, x, observed)
    assert done.exact and frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
    equal = sum(v.sigmoid() for v in logits[:, 1]) / 3
    assert abs(equal - p[1]) > 0.2, "equal weights would pass as well"


@pytest.mark.parametrize(("kind", "seed", "seen"), CASES)
def test_many_particles_come_near_the_conditional_and_one_does_not(kind, seed, seen):
    model, x, observed = build(kind, N, seed=seed), some(1, N, seed=2)[0], mask(*seen)
    p = conditional(model, x, observed)

    def distance(particles: int, count: int) -> float:
        counts, done = drawn(model, x, observed, count, particles=particles, seed=1)
        assert not done.exact and done.particles >= particles
        return 0.5 * (counts / counts.sum() - p).abs().sum().item()

    assert distance(120, 1200) < 0.06
    assert distance(1, 20_000) > 0.06, "the weights do not matter here, so the test would not see them"


@EVERY_KIND
def test_effective_sample_size_is_between_one_and_all_particles(kind):
    model, x = build(kind, N, seed=3), some(40, N, seed=4)
    observed = some(40, N, seed=5).bool()
    observed[0] = True  # nothing to draw: all weights of a component are equal
    for particles in (1, 2, 50):
        done = model.complete(x, observed, particles=particles)
        assert not done.exact and done.effective.shape == (40,)
        assert done.particles == math.ceil(particles / model.components) * model.components
        assert (done.effective >= 1 - 1e-9).all() and (done.effective <= done.particles + 1e-9).all()
    if model.components == 1:
        assert done.effective[0].item() == pytest.approx(50)
        assert done.effective.min() < 48


def test_effective_sample_size_is_the_squared_sum_by_the_sum_of_squares():
    model, w = build("fvsbn", 3), torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0])
    model.clamped = lambda x, observed, u, k: (x, w.log().repeat(len(x) // 5) + torch.arange(len(x)) // 5)
    done = model.complete(torch.zeros(2, 3), mask(1, n=3), particles=5)
    assert done.effective.tolist() == pytest.approx([4 / 1.3] * 2, rel=1e-5), "nor does it depend on the scale of w"


@EVERY_KIND
def test_exact_is_said_just_where_the_observed_come_first_in_every_ordering(kind):
    model = build(kind, N)
    x, orders = some(2, N), [model.order(k).tolist() for k in range(model.components)]
    for seen in everything(N).bool():
        first = all(set(order[: int(seen.sum())]) == set(seen.nonzero()[:, 0].tolist()) for order in orders)
        done = model.complete(x, seen, particles=3)
        assert done.exact == first
        assert torch.isinf(done.effective).all() == first
    if len(set(map(tuple, orders))) == 1:
        assert model.complete(x, mask(orders[0][0])).exact


def test_one_row_that_is_not_exact_makes_all_approximate():
    model = build("fvsbn", N)
    masks = torch.stack([mask(0, 1), mask(1)])
    assert not model.complete(some(2, N), masks).exact
    assert model.complete(some(2, N), torch.stack([mask(0, 1), mask(0)])).exact


@EVERY_KIND
def test_what_is_observed_never_changes_and_what_is_hidden_is_never_looked_at(kind):
    model = build(kind, 9)
    x, observed = some(50, 9, seed=8), some(50, 9, seed=9).bool()
    done = model.complete(x, observed, particles=4, seed=2)
    assert torch.equal(done.x[observed], x[observed])
    assert not torch.equal(done.x, x)
    for hidden in (1 - x, torch.full_like(x, math.nan), torch.full_like(x, 7)):
        again = model.complete(torch.where(observed, x, hidden), observed, particles=4, seed=2)
        assert torch.equal(again.x, done.x) and torch.equal(again.effective, done.effective)


@EVERY_KIND
def test_a_mask_for_each_row_is_used_for_that_row(kind):
    model = build(kind, 6)
    x = some(1, 6, seed=1).repeat(200, 1)
    observed = torch.zeros(200, 6, dtype=torch.bool)
    observed[::2, :3], observed[1::2, 3:] = True, True
    done = model.complete(x, observed, particles=2).x
    changed = done != x
    assert not changed[observed].any()
    assert changed[::2, 3:].any() and changed[1::2, :3].any()


def test_completions_are_keyed_by_the_seed_alone():
    model = build("made 2 x3 random", 8)
    x, observed = some(40, 8), some(40, 8, seed=3).bool()
    before = torch.get_rng_state()
    one = model.complete(x, observed, seed=1).x
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(model.complete(x, observed, seed=1).x, one)
    assert not torch.equal(model.complete(x, observed, seed=2).x, one)
    same_rows = model.complete(x[:1].repeat(40, 1), observed[:1].repeat(40, 1)).x
    assert len(same_rows.unique(dim=0)) > 1, "equal rows are completed alike"


def test_no_row_and_rows_of_other_kinds():
    model = build("nade", 4, dtype=torch.float32)
    assert model.complete(torch.zeros(0, 4), mask(0, n=4)).x.shape == (0, 4)
    x, observed = some(20, 4, dtype=torch.float32), mask(1, n=4)
    want = model.complete(x, observed).x
    for same in (x.bool(), x.to(torch.uint8), x.double(), x.numpy(), x.int().tolist()):
        assert torch.equal(model.complete(same, observed).x, want)
    assert torch.equal(model.complete(x, observed.tolist()).x, want)


WRONG = [
    (
        torch.zeros(2, 5),
        torch.zeros(4, dtype=torch.bool),
        r"observed is \(4,\) of torch.bool; allowed: a mask of bools",
    ),
    (torch.zeros(2, 5), torch.zeros(5), r"observed is \(5,\) of torch.float32; allowed: a mask of bools"),
    (torch.zeros(2, 5), torch.zeros(1, 2, 5, dtype=torch.bool), r"observed is \(1, 2, 5\)"),
    (torch.zeros(2, 5), torch.zeros((), dtype=torch.bool), r"observed is \(\)"),
    (torch.zeros(2, 5), torch.zeros(3, 5, dtype=torch.bool), r"observed is \(3, 5\) and x \(2, 5\)"),
    (torch.zeros(2, 5), "all", "observed is no array of numbers"),
    (torch.zeros(5), torch.zeros(5, dtype=torch.bool), r"observed is \(5,\) and x \(5,\)|x has shape \(5,\)"),
    (torch.zeros(()), torch.zeros(5, dtype=torch.bool), r"and x \(\)"),
    (torch.zeros(2, 4), torch.zeros(5, dtype=torch.bool), r"x \(2, 4\)"),
    (torch.full((2, 5), 0.5), torch.ones(5, dtype=torch.bool), "x holds 0.5; allowed: 0 and 1"),
    (torch.full((2, 5), math.nan), torch.ones(5, dtype=torch.bool), "x holds nan; allowed: 0 and 1"),
    (None, torch.ones(5, dtype=torch.bool), "x is no array of numbers"),
]


@pytest.mark.parametrize(("x", "observed", "message"), WRONG)
def test_wrong_vectors_and_masks_are_refused(x, observed, message):
    with pytest.raises(InputError, match=message):
        build("fvsbn", 5).complete(x, observed)


@pytest.mark.parametrize("particles", [0, -3])
def test_no_particle_at_all_is_refused(particles):
    with pytest.raises(UsageError, match=f"particles = {particles} is impossible; allowed: at least 1"):
        build("fvsbn", 5).complete(torch.zeros(1, 5), mask(2), particles=particles)


# ---------------------------------------------------------------- marginals


@EVERY_KIND
def test_the_marginal_is_the_sum_over_what_is_missing(kind):
    """Three ways to it: observed first in the ordering, by enumeration, by draws; each against the sum written out."""
    model, n = build(kind, 5), 5
    every = everything(n)
    p = model.log_prob(every).exp()
    first = torch.zeros(n, dtype=torch.bool)
    first[model.order(0)[:2]] = True
    scattered = torch.tensor([False, True, False, True, False])
    for seen, most in ((first, 10), (scattered, 10), (scattered, 0)):
        want = torch.stack([p[(every[:, seen] == x[seen]).all(1)].sum() for x in every]).log()
        got = model.marginal(every, seen, particles=600, most=most)
        if got.exact:
            assert (got.standard_error == 0).all()
            torch.testing.assert_close(got.log_prob, want, rtol=1e-9, atol=1e-9)
        else:
            assert most == 0 and (got.standard_error > 0).any()
            assert ((got.log_prob - want).abs() < 6 * got.standard_error + 1e-9).all()


@EVERY_KIND
def test_marginals_of_nothing_and_of_everything_are_exact(kind):
    model = build(kind, 5)
    x = everything(5)
    nothing, all_ = torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)
    got = model.marginal(x, nothing)
    assert got.exact and got.log_prob.abs().max() < 1e-12
    got = model.marginal(x, all_)
    assert got.exact
    torch.testing.assert_close(got.log_prob, model.log_prob(x), rtol=1e-10, atol=1e-10)


def test_a_marginal_refuses_what_it_cannot_answer():
    model = build("made 1", 5)
    with pytest.raises(UsageError, match="particles = 1 is impossible; allowed: at least 2"):
        model.marginal(everything(5), torch.ones(5, dtype=torch.bool), particles=1)
    with pytest.raises(InputError, match=r"observed is \(4,\)"):
        model.marginal(everything(5), torch.ones(4, dtype=torch.bool))
