"""MADE: its masks, its mixture of masks, and dropout."""

import copy
import math
from unittest.mock import patch

import pytest
import torch
from zoo import MADES, build, everything, masked_pass, scatter, some

from ptheta.data.binary import load
from ptheta.density import masked_linear
from ptheta.density.made import MADE, Config, Method, draw_degrees
from ptheta.density.masked_linear import mask
from ptheta.engine.hardware import Hardware


@MADES
@pytest.mark.parametrize("n", [1, 2, 7])
def test_one_pass_equals_the_equations_with_masks_written_out(kind, n):
    model, x = build(kind, n), some(30, n)
    for k in range(model.components):
        h, logits = masked_pass(model, x, k)
        torch.testing.assert_close(model.hidden_units(x, k), h, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.logits(x, k), logits, rtol=1e-12, atol=1e-12)
    features = model.embed(x)
    assert not features.requires_grad
    torch.testing.assert_close(features, masked_pass(model, x, 0)[0], rtol=1e-12, atol=1e-12)


@MADES
@pytest.mark.parametrize("n", [1, 2, 7])
def test_paths_lead_only_from_a_variable_to_those_after_it(kind, n):
    model = build(kind, n)
    for k in range(model.components):
        m, rank = model.degrees(k), model.order(k).argsort()
        paths = torch.eye(n)
        for l in range(model.layers):
            paths = mask(m[l + 1], m[l], False).float() @ paths
        paths = mask(m[0], m[-1], True).float() @ paths
        if model.A is not None:
            paths += mask(m[0], m[0], True).float()
        before = rank[None] < rank[:, None]
        assert (paths[~before] == 0).all()
        assert (paths[before] > 0).all(), "with this many units every variable reaches all after it"


@MADES
def test_degrees_lie_between_one_and_n_minus_one(kind):
    for n in (1, 2, 7):
        for seed in range(10):
            model = build(kind, n, seed=seed)
            for k in range(model.components):
                first, *hidden = model.degrees(k)
                assert sorted(first.tolist()) == list(range(1, n + 1))
                for below, m in zip([first, *hidden], hidden, strict=False):
                    assert m.min() >= max(1, below.min()) and m.max() <= max(1, n - 1)


def test_every_degree_occurs_equally_often_in_a_wide_layer():
    m = draw_degrees(6, (4000,), [torch.arange(1, 7)], torch.Generator().manual_seed(0))["degrees1"][0]
    counts = torch.bincount(m, minlength=6)[1:]
    assert len(counts) == 5 and counts.min() > 700 and counts.max() < 900


def test_one_narrow_unit_does_not_cut_a_deep_model_off():
    """Degrees are never below the least of the layer before: every unit of every layer sees something."""
    for seed in range(50):
        model = MADE(8, (2, 3, 2), seed=seed)
        m = model.degrees(0)
        for l in range(3):
            assert mask(m[l + 1], m[l], False).any(1).all()


def test_masks_differ_in_degrees_and_orderings_only_if_random_are_asked_for():
    natural, mixed = MADE(9, (20,), masks=4), MADE(9, (20,), masks=4, ordering="random")
    for model in (natural, mixed):
        assert len({tuple(model.degrees(k)[1].tolist()) for k in range(4)}) == 4
    assert {tuple(natural.order(k).tolist()) for k in range(4)} == {tuple(range(9))}
    assert len({tuple(mixed.order(k).tolist()) for k in range(4)}) == 4
    again, other = (MADE(9, (20,), masks=4, ordering="random", seed=s) for s in (0, 1))
    assert torch.equal(again.ranks, mixed.ranks) and torch.equal(again.degrees1, mixed.degrees1)
    assert not torch.equal(other.ranks, mixed.ranks) and not torch.equal(other.degrees1, mixed.degrees1)


def test_sorted_units_have_the_degrees_of_shuffled_ones_by_size():
    """The same draws, dealt out by size: masks still differ, each is a staircase, and a unit keeps its place."""
    dealt, by_size = (MADE(100, (600, 500), masks=4, units=units, seed=2) for units in ("shuffled", "sorted"))
    for l in (1, 2):
        m = torch.stack([by_size.degrees(k)[l] for k in range(4)])
        assert torch.equal(m, torch.stack([dealt.degrees(k)[l].sort().values for k in range(4)]))
        assert len({tuple(row.tolist()) for row in m}) == 4
        assert (m.max(0).values - m.min(0).values).max() < 20
    with patch.object(masked_linear, "LARGE", 1):
        assert all(len(layer) > 1 for k in range(4) for layer in by_size.plan(k))


def test_hidden_step_slows_the_weights_between_hidden_layers_alone():
    """Adam's first step has the size of the step size, whatever the gradient: it tells each weight's share."""
    x = (torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    config = Config(hidden=(30, 30, 30), hidden_step=0.25, learning_rate=0.01, warmup=0, decay=0.0, batch_size=50)
    method = Method(config, load(x), 0, Hardware(torch.device("cpu"), "fp32"), 10)
    before = {name: p.detach().clone() for name, p in method.model.named_parameters()}
    method.update(next(method.batches(0, 0, 1)))
    for name, p in method.model.named_parameters():
        moved = (p.detach() - before[name]).abs().max().item()
        assert moved == pytest.approx(0.0025 if name in ("W2", "W3") else 0.01, rel=0.01), name


@MADES
def test_masks_are_saved_with_the_weights_and_neither_changes_in_use(kind):
    model, x = build(kind, 6), some(5, 6)
    before = copy.deepcopy(model.state_dict())
    assert {"ranks", *(f"degrees{l}" for l in range(1, model.layers + 1))} <= before.keys()
    for training in (True, False):
        model.train(training)
        for step in range(5):
            model(x, step).sum().backward()
        model.log_prob(x)
        model.sample(3)
        model.complete(x, x.bool())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    first = model.log_prob(x)
    model(x, 1)
    assert torch.equal(model.log_prob(x), first), "the density depends on what was computed before it"


def test_forbidden_weights_get_no_gradient_and_keep_their_value():
    model = build("made 1 x3", 6)
    x = some(40, 6)
    for k in range(3):
        model.zero_grad()
        model(x, k).sum().backward()
        m = model.degrees(k)
        for W, allowed in ((model.W1, mask(m[1], m[0], False)), (model.V, mask(m[0], m[1], True))):
            assert (W.grad[~allowed] == 0).all() and W.grad[allowed].abs().max() > 0
            assert (W.detach()[~allowed] != 0).all()


# ---------------------------------------------------------------- several masks


@pytest.mark.parametrize("kind", ["made 1 x3", "made 2 x3 random", "made 3 x3 indirect random"])
def test_the_density_is_the_exact_mixture_and_not_that_of_averaged_logits(kind):
    model, x = build(kind, 6, seed=4), everything(6)
    each = [masked_pass(model, x, k)[1] for k in range(3)]

    def bernoulli(logits):
        p = logits.sigmoid()
        return torch.where(x == 1, p, 1 - p).log().sum(1)

    by_hand = torch.stack([bernoulli(logits).exp() for logits in each]).mean(0).log()
    log_p = model.log_prob(x)
    torch.testing.assert_close(log_p, by_hand, rtol=1e-10, atol=1e-10)
    averaged = bernoulli(sum(each) / 3)
    assert (averaged - log_p).abs().max() > 0.1
    if "random" in kind:
        assert abs(averaged.exp().sum().item() - 1) > 1e-4, "which is no density at all when the orderings differ"


def test_training_takes_the_masks_in_turn():
    model, x = build("made 2 x3 random", 6), everything(6)
    each = [model.component_log_prob(x, k) for k in range(3)]
    for step in range(7):
        torch.testing.assert_close(model(x, step), -each[step % 3], rtol=1e-12, atol=1e-12)
    assert all((each[a] - each[b]).abs().max() > 0.1 for a, b in ((0, 1), (0, 2), (1, 2)))


# ---------------------------------------------------------------- dropout, start


def test_dropout_is_keyed_by_the_step_scales_what_is_left_and_ends_with_training():
    model = scatter(MADE(6, (4000,), dropout=0.75, seed=3), 1).double()
    x = everything(6)
    whole = model.eval().hidden_units(x, 0, step=5)
    torch.testing.assert_close(model.hidden_units(x, 0), whole)
    model.train()
    before = torch.get_rng_state()
    h = model.hidden_units(x, 0, step=5)
    assert torch.equal(torch.get_rng_state(), before)
    kept = (h != 0) & (whole != 0)
    torch.testing.assert_close(h[kept], 4 * whole[kept])
    assert kept.sum() / (whole != 0).sum() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(model.hidden_units(x, 0, step=5), h)
    assert not torch.equal(model.hidden_units(x, 0, step=6), h)
    torch.manual_seed(9)
    assert torch.equal(model(x, 5), model(x, 5)) and not torch.equal(model(x, 5), model(x, 6))


def test_layers_drop_different_units():
    model = scatter(MADE(6, (500, 500), dropout=0.5, seed=3), 1).double().train()
    model.degrees1[:], model.degrees2[:] = 1, 1
    model.W1.data[:], model.W2.data[:] = 1.0, torch.eye(500)
    model.b1.data[:], model.b2.data[:] = 1.0, 0.0
    h = model.hidden_units(torch.ones(1, 6).double(), 0, step=1)
    assert (h != 0).double().mean() == pytest.approx(0.25, abs=0.06), "two independent draws leave a quarter"


@pytest.mark.parametrize("ordering", ["natural", "random"])
def test_output_biases_start_at_the_log_odds(ordering):
    model, odds = MADE(6, (5,), masks=2, ordering=ordering), torch.linspace(-2, 2, 6)
    model.start_at(odds)
    with torch.no_grad():
        model.V.zero_()
    torch.testing.assert_close(model.log_prob(torch.eye(6)) - model.log_prob(torch.zeros(1, 6)), odds)
    assert model.log_prob(torch.zeros(1, 6)).item() == pytest.approx(-sum(math.log1p(math.exp(v)) for v in odds))


def test_the_first_layer_sees_the_variables_before_its_degree_in_its_own_ordering():
    """A unit of degree m changes with the first m variables of the ordering and with no other."""
    model = build("made 1 x3", 7, ordering="random")
    x = some(1, 7)
    with torch.no_grad():
        model.b1.add_(100)  # no unit is at rest
    for k in range(3):
        rank, m = model.ranks[k], model.degrees(k)[1]
        h = model.hidden_units(x, k)
        for j in range(7):
            flipped = x.clone()
            flipped[0, j] = 1 - x[0, j]
            moved = (model.hidden_units(flipped, k) != h)[0]
            assert torch.equal(moved, m >= rank[j])


@pytest.mark.parametrize("direct", [True, False])
def test_the_penalty_on_direct_weights_is_added_to_the_loss_of_training_and_to_no_density(direct):
    arguments = {"direct": direct, "ordering": "random"}
    model, x = build("made 1 x3", 5, seed=4, lasso=0.7, **arguments), some(20, 5)
    nats = build("made 1 x3", 5, seed=4, **arguments)(x, 2)
    torch.testing.assert_close(model(x, 2), nats)
    density = model.log_prob(x)
    model.train()
    penalty = 0.7 * model.A.abs().sum() if direct else torch.zeros(())
    torch.testing.assert_close(model(x, 2), nats + penalty)
    torch.testing.assert_close(model.log_prob(x), density)
