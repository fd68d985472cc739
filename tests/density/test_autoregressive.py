"""What holds for every model and every ordering, by enumeration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import (
    EVERY_KIND,
    build,
    clamped,
    conditionals,
    everything,
    frequencies_fit,
    number,
    scatter,
    some,
    uniform,
    walk,
)

from ptheta.density import fvsbn, made
from ptheta.density.fvsbn import FVSBN
from ptheta.density.made import MADE
from ptheta.density.nade import NADE
from ptheta.engine.errors import InputError, UsageError


@EVERY_KIND
def test_probabilities_of_all_vectors_sum_to_one(kind):
    for n in range(1, 13):
        p = build(kind, n, seed=n).log_prob(everything(n)).exp()
        assert p.shape == (2**n,)
        assert abs(p.sum().item() - 1) < 1e-9, n


orderings = st.sampled_from(["natural", "random"])
sizes = {"n": st.integers(1, 7), "ordering": orderings, "seed": st.integers(0, 2**40)}


@settings(deadline=None, max_examples=60)
@given(
    model=st.one_of(
        st.builds(FVSBN, **sizes),
        st.builds(NADE, hidden=st.integers(1, 9), **sizes),
        st.builds(
            MADE,
            hidden=st.lists(st.integers(1, 12), max_size=3),
            masks=st.integers(1, 4),
            direct=st.booleans(),
            **sizes,
        ),
    ),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_any_model_of_any_size_is_a_distribution_and_is_what_it_samples(model, spread):
    model = scatter(model, 1, spread).double().eval()
    x = everything(model.n)
    log_p, each = model.log_prob(x), []
    assert abs(log_p.exp().sum().item() - 1) < 1e-9
    for k in range(model.components):
        assert sorted(model.order(k).tolist()) == list(range(model.n))
        seen, log_w = clamped(model, x, torch.ones_like(x, dtype=torch.bool), uniform(*x.shape), k)
        assert torch.equal(seen, x)
        each.append(log_w)
    mixed = torch.stack(each).logsumexp(0) - math.log(model.components)
    torch.testing.assert_close(mixed, log_p, rtol=1e-9, atol=1e-9)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three variables, so that small models have several."""
    monkeypatch.setattr(fvsbn, "BLOCK", 3)
    monkeypatch.setattr(made, "BLOCK", 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n", [1, 2, 3, 4, 11])
@EVERY_KIND
def test_clamped_sampling_equals_a_loop_of_full_passes(kind, n):
    model = build(kind, n, seed=n)
    b = 30
    x, u = some(b, n), uniform(b, n)
    masks = {"none": torch.zeros(b, n), "all": torch.ones(b, n), "some": some(b, n, seed=1)}
    for k in range(model.components):
        for name, observed in masks.items():
            observed = observed.bool()
            got, log_w = clamped(model, x, observed, u, k)
            want, log_w_want = walk(model, x, observed, u, k)
            assert torch.equal(got, want), (k, name)
            torch.testing.assert_close(log_w, log_w_want, rtol=1e-10, atol=1e-10)
        assert torch.equal(clamped(model, x, masks["all"].bool(), u, k)[0], x)
        log_p = model.component_log_prob(x, k)
        torch.testing.assert_close(clamped(model, x, masks["all"].bool(), u, k)[1], log_p, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "b"),
    [(FVSBN(70, "random"), 20), (NADE(40, 8, "random"), 520), (MADE(70, (90, 80)), 20), (MADE(5, (8192,)), 150)],
    ids=["fvsbn", "nade", "made", "made wide"],
)
def test_clamped_sampling_equals_a_loop_where_it_works_in_pieces(model, b):
    model = scatter(model, 3).double().eval()
    x, u, observed = some(b, model.n), uniform(b, model.n), some(b, model.n, seed=4).bool()
    for seen in (observed, torch.zeros_like(observed)):
        got, log_w = clamped(model, x, seen, u, 0)
        want, log_w_want = walk(model, x, seen, u, 0)
        assert torch.equal(got, want)
        torch.testing.assert_close(log_w, log_w_want, rtol=1e-9, atol=1e-9)


@EVERY_KIND
def test_clamped_sampling_changes_none_of_what_it_is_given(kind):
    model = build(kind, 6)
    x, u, observed = some(9, 6), uniform(9, 6), some(9, 6, seed=2).bool()
    before = x.clone(), u.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    clamped(model, x, observed, u, 0)
    assert torch.equal(x, before[0]) and torch.equal(u, before[1])
    assert all(torch.equal(v, before[2][k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("n", [1, 2, 7])
@EVERY_KIND
def test_a_conditional_depends_on_the_variables_before_it_and_on_no_other(kind, n):
    """By flips of single bits: no gradient that a model might fail to give is needed."""
    model = build(kind, n)
    for k in range(model.components):
        rank = model.order(k).argsort()
        moved = torch.zeros(n, n)  # of logit i by a flip of x_j
        for x in some(20, n, seed=5):
            flips = (x - torch.eye(n, dtype=x.dtype)).abs()
            logits = conditionals(model, torch.cat([x[None], flips]), k)
            moved += (logits[1:] - logits[0]).abs().T
        before = rank[None] < rank[:, None]
        assert (moved[~before] < 1e-12).all()
        assert all(moved[i].max() > 1e-3 for i in range(n) if rank[i] > 0), "some conditional ignores its past"


@pytest.mark.parametrize("n", [1, 7])
@EVERY_KIND
def test_the_jacobian_of_the_conditionals_is_triangular_in_the_ordering(kind, n):
    if kind.startswith("nade"):
        pytest.skip("gives no gradient of its input; the flips above tell as much")
    model = build(kind, n)
    for k in range(model.components):
        rank = model.order(k).argsort()
        J = torch.zeros(n, n, dtype=torch.float64)
        for x in some(10, n, seed=6):
            J += torch.autograd.functional.jacobian(lambda v, k=k: conditionals(model, v[None], k)[0], x).abs()
        before = rank[None] < rank[:, None]
        assert (J[~before] == 0).all()
        assert all(J[i].max() > 1e-3 for i in range(n) if rank[i] > 0)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("n", [1, 6])
@EVERY_KIND
def test_frequencies_of_samples_are_the_probabilities(kind, n):
    model = build(kind, n, seed=2, dtype=torch.float32)
    drawn = model.sample(20_000, seed=8)
    p = model.double().log_prob(everything(n)).exp()
    counts = torch.bincount(number(drawn), minlength=2**n)
    assert frequencies_fit(counts, p) > 1e-4
    if n > 1:
        assert frequencies_fit(counts, p.flip(0)) < 1e-4, "the test could not tell this from another distribution"


@EVERY_KIND
def test_a_seed_gives_the_same_samples_and_another_seed_others(kind):
    model = build(kind, 9, dtype=torch.float32)
    before = torch.get_rng_state()
    x = model.sample(2300, seed=5)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(77)
    assert torch.equal(model.sample(2300, seed=5), x)
    for count in (1, 999, 1000, 1001):
        assert torch.equal(model.sample(count, seed=5), x[:count])
    assert not torch.equal(model.sample(2300, seed=6), x)
    assert not torch.equal(x[:1000], x[1000:2000]), "the pieces repeat"
    assert x.shape == (2300, 9) and x.dtype == torch.float32 and {0.0, 1.0} == set(x.unique().tolist())


def test_mixtures_sample_every_component_equally_often():
    model = MADE(1, (2,), masks=4).eval()
    model.clamped = lambda x, observed, u, k: (torch.full_like(x, k), x.new_zeros(len(x)))
    counts = torch.bincount(model.sample(8000, seed=1)[:, 0].long())
    assert frequencies_fit(counts, torch.full((4,), 0.25)) > 1e-4


@pytest.mark.parametrize("count", [0, -1])
def test_no_sample_at_all_is_refused(count):
    with pytest.raises(UsageError, match=f"count = {count} is impossible; allowed: at least 1"):
        NADE(3, 2).sample(count)


# ---------------------------------------------------------------- densities and features


@EVERY_KIND
def test_the_density_of_a_vector_does_not_depend_on_its_neighbours_or_dtype(kind):
    model = build(kind, 6)
    x = everything(6)
    log_p = model.log_prob(x)
    assert not log_p.requires_grad and log_p.dtype == torch.float64
    for chunk in (1, 7, 64):
        torch.testing.assert_close(model.log_prob(x, chunk=chunk), log_p, rtol=1e-12, atol=1e-12)
    for same in (x.bool(), x.to(torch.uint8), x.float(), x.bfloat16(), x.numpy(), x.int().tolist()):
        assert torch.equal(model.log_prob(same), log_p)
    assert model.log_prob(x[:0]).shape == (0,)


WRONG = [
    (torch.zeros(4), r"x has shape \(4,\); allowed: \(b, 4\)"),
    (torch.zeros(2, 3), r"x has shape \(2, 3\); allowed: \(b, 4\)"),
    (torch.zeros(1, 2, 4), r"x has shape \(1, 2, 4\)"),
    (torch.full((1, 4), 2), "x holds 2; allowed: 0 and 1"),
    (torch.tensor([[0, 1, 0.5, 1]]), "x holds 0.5; allowed: 0 and 1"),
    (torch.tensor([[0, 1, float("nan"), 1]]), "x holds nan; allowed: 0 and 1"),
    (torch.tensor([[0, 1, -1, 1]]), "x holds -1; allowed: 0 and 1"),
    ([[0, 1, 1, 0], [1, 1]], "x is no array of numbers"),
    ("0110", "x is no array of numbers"),
    (None, "x is no array of numbers"),
]


@pytest.mark.parametrize(("x", "message"), WRONG)
@pytest.mark.parametrize("kind", ["fvsbn", "nade", "made 1"])
def test_what_is_no_binary_vector_is_refused(kind, x, message):
    model = build(kind, 4)
    for use in (model.log_prob, model.embed):
        with pytest.raises(InputError, match=message):
            use(x)


@EVERY_KIND
def test_training_loss_is_minus_the_density_of_the_component_whose_turn_it_is(kind):
    model = build(kind, 5)
    x = everything(5)
    for step in range(2 * model.components):
        k = step % model.components
        torch.testing.assert_close(model(x, step), -model.component_log_prob(x, k), rtol=1e-12, atol=1e-12)
    if model.components > 1:
        assert not torch.allclose(model(x, 0), model(x, 1))


@EVERY_KIND
def test_bf16_products_change_the_loss_by_less_than_two_percent(kind, device):
    model = build(kind, 60, dtype=torch.float32).to(device)
    x = some(100, 60, dtype=torch.float32).to(device)
    exact = model(x).mean()
    with torch.autocast(device, torch.bfloat16):
        loss = model(x).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() / exact.item() - 1) < 0.02
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@EVERY_KIND
def test_a_model_is_the_same_on_every_device(kind, device):
    model = build(kind, 8)
    x = everything(8)
    log_p, drawn = model.log_prob(x), model.sample(100, seed=3)
    done = model.complete(x[:20], torch.arange(8) % 2 == 0, seed=1)
    model = model.to(device)
    torch.testing.assert_close(model.log_prob(x).cpu(), log_p, rtol=1e-9, atol=1e-9)
    assert torch.equal(model.sample(100, seed=3).cpu(), drawn)
    there = model.complete(x[:20], torch.arange(8) % 2 == 0, seed=1)
    assert torch.equal(there.x.cpu(), done.x)
    torch.testing.assert_close(there.effective.cpu(), done.effective, rtol=1e-9, atol=1e-9)


@EVERY_KIND
def test_a_saved_model_comes_back_as_it_was(kind, tmp_path):
    model = build(kind, 6, seed=9, dtype=torch.float32)
    again = type(model).from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert not again.training and again.arguments == model.arguments
    assert torch.equal(again.log_prob(everything(6)), model.log_prob(everything(6)))
    assert torch.equal(again.sample(50, seed=1), model.sample(50, seed=1))
