"""The transformer: its tokens, any ordering, the label's token, training, saving."""

import math

import pytest
import torch
from transformers_by_hand import (
    EVERY_KIND,
    KINDS,
    PICTURES_TOO,
    X,
    all_of,
    build,
    log_p_by_hand,
    order,
    place,
    steps_by_hand,
)
from zoo import everything, frequencies_fit, some

from ptheta.data.binary import load
from ptheta.density.transformer import Config, Method, Transformer
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import Hardware

# ---------------------------------------------------------------- the density


@EVERY_KIND
@pytest.mark.parametrize("n_x", [1, 5])
def test_probabilities_of_all_vectors_sum_to_one_and_codes_of_no_class_have_none(kind, n_x):
    model = build(kind, n_x, seed=n_x)
    assert abs(model.log_prob(all_of(model)).exp().sum().item() - 1) < 1e-9
    log_p = model.log_prob(everything(model.n))
    assert abs(log_p.exp().sum().item() - 1) < 1e-9
    if model.classes:
        one_hot = everything(model.n)[:, place(model, n_x)].sum(1) == 1
        assert (log_p[~one_hot] == -math.inf).all() and torch.isfinite(log_p[one_hot]).all()


@pytest.mark.parametrize("kind", X)
def test_ten_variables_sum_to_one_in_double_precision(kind):
    model = build(kind, 10, seed=3)
    assert abs(model.log_prob(everything(10)).exp().sum().item() - 1) < 1e-9


@EVERY_KIND
@PICTURES_TOO
def test_the_density_is_the_equations_written_out(kind, shape):
    model = build(kind, 4, shape=shape)
    x = all_of(model)[:: 7 if model.classes else 3]
    each = [[log_p_by_hand(model, row, order(model, k)) for row in x] for k in range(model.components)]
    each = torch.tensor(each, dtype=torch.float64)
    for k in range(model.components):
        torch.testing.assert_close(model.component_log_prob(x, k), each[k], rtol=1e-10, atol=1e-10)
    mixed = each.logsumexp(0) - math.log(model.components)
    torch.testing.assert_close(model.log_prob(x), mixed, rtol=1e-10, atol=1e-10)
    if model.components > 1:
        assert (each - mixed).abs().max() > 0.05, "the components are too alike to tell"


@EVERY_KIND
def test_a_conditional_depends_on_the_variables_before_it_and_on_no_other(kind):
    """Over all vectors: those that agree on the past of a variable agree on its conditional."""
    model = build(kind, 4)
    x = all_of(model)
    for k in range(model.components):
        logits, o = model.logits(x, k), order(model, k)
        for t, v in enumerate(o):
            past = torch.cat([torch.zeros_like(x[:, :1]), *(x[:, place(model, j)] for j in o[:t])], 1)
            _, group = past.unique(dim=0, return_inverse=True)
            same = group[:, None] == group[None]
            mine = logits[:, place(model, v)]
            apart = torch.cdist(mine, mine, p=math.inf, compute_mode="donot_use_mm_for_euclid_dist")
            assert apart[same].max() < 1e-12
            assert t == 0 or apart[~same].max() > 1e-2, "the past does not matter"


@EVERY_KIND
def test_the_jacobian_over_the_tokens_is_triangular(kind):
    """The token of variable o(t − 1) moves the output of o(t) and of those after, and nothing else."""
    model = build(kind, 4)
    o = model.orders[-1][None]
    value, seen, asked = model.tokens(model.values(all_of(model)[5:6])[0].gather(1, o), o)

    def outputs(e):
        return torch.cat([part[0] for part in model.conditionals(model.blocks(e[None]), asked)[:1]])

    e = (model.E[value] + model.S[seen] + model.A[asked]).detach()[0]
    reach = torch.autograd.functional.jacobian(outputs, e).abs().amax(-1)
    later = torch.ones(model.m, model.m, dtype=torch.bool).triu(1)
    assert (reach[later] == 0).all() and (reach[~later] > 1e-6).all()


def test_logits_are_those_of_the_conditionals_by_hand():
    for kind in ("any x3", "first any x3", "last random"):
        model, k = build(kind, 4, seed=1), KINDS[kind].get("orderings", 1) - 1
        for x in all_of(model)[3:20:8]:
            logits = model.logits(x[None], k)[0].detach()
            for p, v in zip(steps_by_hand(model, x, order(model, k)), order(model, k), strict=True):
                got = logits[place(model, v)]
                want = p.log() if v == model.n_x else (p[1:] / p[:1]).log()
                torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- orderings


def test_orderings_are_what_was_asked_for_and_the_label_is_at_its_end_or_anywhere():
    for seed in range(2):
        assert order(build("natural", 5, seed=seed), 0) == [0, 1, 2, 3, 4]
        assert order(build("first natural", 4, seed=seed), 0) == [4, 0, 1, 2, 3]
        assert order(build("last natural", 4, seed=seed), 0) == [0, 1, 2, 3, 4]
        assert order(build("first random", 7, seed=seed), 0)[0] == 7 == order(build("last random", 7, seed=seed), 0)[-1]
    drawn = build("any", 9, orderings=50).orders
    assert (drawn.sort(1).values == torch.arange(9)).all() and len(drawn.unique(dim=0)) == 50
    where = (build("first any", 3, orderings=200).orders == 3).nonzero()[:, 1]
    assert frequencies_fit(torch.bincount(where, minlength=4), torch.full((4,), 0.25)) > 1e-4
    orders = [build("random", 30, seed=seed).orders for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_the_mixture_may_be_widened_afterwards_by_the_orderings_that_more_would_have_given():
    narrow, wide = build("first any", 4), build("first any", 4, orderings=5)
    narrow.components = 5
    x = all_of(wide)
    for k in range(5):
        assert torch.equal(narrow.order(k), wide.order(k))
    assert torch.equal(narrow.log_prob(x), wide.log_prob(x)) and torch.equal(narrow.sample(9), wide.sample(9))
    assert not torch.allclose(narrow.log_prob(x), build("first any", 4).log_prob(x))


@EVERY_KIND
def test_the_order_of_the_columns_keeps_those_of_the_label_together(kind):
    model = build(kind, 4)
    for k in range(model.components):
        want = [c for v in order(model, k) for c in range(model.n)[place(model, v)]]
        assert model.order(k).tolist() == want and sorted(want) == list(range(model.n))


def test_training_gives_each_row_a_uniform_ordering_of_its_own_keyed_by_seed_and_step():
    model, x, before = build("any", 3), some(6000, 3), torch.get_rng_state()
    o = model.fresh_orders(x, step=4)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(model.fresh_orders(x, 4), o)
    for other in (model.fresh_orders(x, 5), build("any", 3, seed=1).fresh_orders(x, 4)):
        assert (other == o).all(1).double().mean().item() == pytest.approx(1 / 6, abs=0.02)
    kinds, counts = o.unique(dim=0, return_counts=True)
    assert len(kinds) == 6 and frequencies_fit(counts, torch.full((6,), 1 / 6)) > 1e-4


@EVERY_KIND
def test_the_loss_is_minus_log_p_in_the_ordering_of_each_row(kind):
    model = build(kind, 4)
    x = all_of(model)[::5]
    o = model.fresh_orders(x, 7) if model.any_order else model.orders.expand(len(x), -1)
    want = torch.tensor([-log_p_by_hand(model, row, each) for row, each in zip(x, o.tolist(), strict=True)])
    torch.testing.assert_close(model(x, 7), want.double(), rtol=1e-6, atol=1e-6)


def test_classes_tried_on_one_x_are_compared_in_one_ordering():
    model = build("last any", 5)
    x = all_of(model)  # each x with each of three classes
    o = model.fresh_orders(x, 2).view(-1, 3, 6)
    assert (o == o[:, :1]).all() and len(o[:, 0].unique(dim=0)) > 25
    total = (-model(x, 2)).exp().view(-1, 3).sum(1)
    for row, each in zip(range(0, len(x), 3), total, strict=True):
        alone = [math.exp(log_p_by_hand(model, x[row + c], o[row // 3, 0].tolist())) for c in range(3)]
        assert each.item() == pytest.approx(sum(alone), rel=1e-9)


@pytest.mark.parametrize("kind", ["any", "first any", "random"])
def test_processes_draw_what_one_process_would(kind):
    model = build(kind, 5, dropout=0.3).train()
    x = all_of(model)[::4][:6]
    whole, parts = model(x, 3), []
    for model.rank in range(2):
        model.world = 2
        parts.append(model(x[3 * model.rank : 3 * model.rank + 3], 3))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- the label


@pytest.mark.parametrize("name", ["natural", "random"])
def test_the_class_moves_the_first_variable_when_it_comes_first_and_is_moved_by_x_when_last(name):
    first, last = build(f"first {name}", 4), build(f"last {name}", 4)
    p = first.log_prob(all_of(first)).exp().view(16, 3)
    given = p / p.sum(0)
    on = everything(4)[:, order(first, 0)[1]] == 1
    of_each = given[on].sum(0)
    assert (of_each.max() - of_each.min()).item() > 1e-3, "y does not reach the first variable"
    log_prior = first.logits(all_of(first)[:1])[0, :3]
    torch.testing.assert_close(p.sum(0), log_prior.exp().detach(), rtol=1e-9, atol=1e-9)
    p = last.log_prob(all_of(last)).exp().view(16, 3)
    posterior = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(last.logits(all_of(last)[::3])[:, 4:].exp().detach(), posterior, rtol=1e-9, atol=1e-9)
    assert (posterior.amax(0) - posterior.amin(0)).max() > 1e-3


@pytest.mark.parametrize("kind", ["natural", "any", "first natural", "last any"])
def test_output_biases_start_at_the_log_odds_of_variables_and_the_shares_of_classes(kind):
    model = build(kind, 4)
    shares = torch.tensor([0.2, 0.5, 0.3]) if model.classes else torch.zeros(0)
    p_x = torch.tensor([0.1, 0.4, 0.7, 0.9])
    p = torch.cat([shares, p_x] if model.label == "first" else [p_x, shares]).double()
    model.start_at((p / (1 - p)).log())
    with torch.no_grad():
        model.W_x.zero_()
        if model.W_y is not None:
            model.W_y.zero_()
    x = all_of(model)
    want = torch.where(x[:, model.pixels] == 1, p_x.double(), 1 - p_x.double()).log().sum(1)
    if model.classes:
        want = want + (x[:, model.block] @ shares.double()).log()
    torch.testing.assert_close(model.log_prob(x), want, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- training, saving, refusals


@EVERY_KIND
@pytest.mark.parametrize("n_x", [1, 30])
def test_every_parameter_is_trained_and_bf16_products_change_the_loss_little(kind, n_x):
    model = build(kind, n_x, dtype=torch.float32, spread=0.3).train()
    x = some(60, model.n, dtype=torch.float32)
    if model.classes:
        x[:, model.block] = torch.eye(3)[torch.arange(60) % 3]
    exact = model(x, 1).mean()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, 1).mean()
    loss.backward()
    assert loss.dtype == torch.float32 and abs(loss.item() / exact.item() - 1) < 0.02
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_is_keyed_by_the_step_and_ends_with_training():
    model, x = build("natural", 5, dropout=0.4), some(20, 5)
    whole = model(x, 1)
    torch.testing.assert_close(whole, build("natural", 5)(x, 1))
    model.train()
    before = torch.get_rng_state()
    dropped = model(x, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model(x, 1), dropped) and not torch.allclose(model(x, 2), dropped)
    assert not torch.allclose(dropped, whole)
    torch.testing.assert_close(model.log_prob(x), model.eval().log_prob(x))


@pytest.mark.parametrize("label", ["none", "first", "last"])
def test_pixels_are_turned_by_row_and_column_over_wavelengths_from_3_to_96(label):
    classes = 0 if label == "none" else 3
    model = Transformer(12 + classes, 28, 1, 2, shape=(3, 4), label=label, classes=classes)
    assert model.angles.shape == (model.m + 1, 7)
    for v, angles in enumerate(model.angles.tolist()):
        row, col = divmod(v, 4) if v < 12 else (0, 0)  # label and start are nowhere
        wanted = [2 * math.pi * row / (3 * 32 ** (i / 3)) for i in range(4)]
        wanted += [2 * math.pi * col / (3 * 32 ** (i / 2)) for i in range(3)]
        assert angles == pytest.approx(wanted, rel=1e-6)
    assert not any("angles" in name for name in model.state_dict())


def test_positions_of_near_pixels_start_alike_where_the_ordering_is_any():
    row, col = torch.arange(12).repeat_interleave(9), torch.arange(9).repeat(12)
    distance = ((row[:, None] - row) ** 2 + (col[:, None] - col) ** 2).sqrt()
    for kind in ("any", "last any", "natural"):
        model = Transformer(108 + (3 if "last" in kind else 0), 64, 1, 2, shape=(12, 9), **KINDS[kind])
        for table in (model.S[:108], model.A[:108]):
            unit = (table / table.norm(dim=1, keepdim=True)).detach()
            near, far = (unit @ unit.T)[distance == 1].mean().item(), (unit @ unit.T)[distance > 6].mean().item()
            assert near > 0.6 and far < 0.4 if model.any_order else abs(near) < 0.1
            assert table.std().item() == pytest.approx(0.1, rel=0.2)
        assert not torch.allclose(model.S[:108], model.A[:108], atol=0.05)


@pytest.mark.parametrize("ordering", ["random", "any"])
def test_it_learns_what_no_single_variable_tells(ordering):
    """x_2 = x_0 xor x_1 and x_3 = x_0: 2 log 2 nats in any ordering, and 4 log 2 for independent variables."""
    a, b = everything(2, torch.uint8).T
    x = torch.stack([a, b, a ^ b, a], 1).repeat(25, 1)
    config = Config(width=32, depth=2, heads=2, ordering=ordering, learning_rate=0.005, warmup=20, average=0.9)
    method = Method(config, load(x.numpy()), 0, Hardware(torch.device("cpu"), "fp32"), 150)
    for _, batch in zip(range(150), method.batches(0, 0, 1)):
        method.update(batch)
    assert -method.averaged.log_prob(x).mean().item() == pytest.approx(2 * math.log(2), abs=0.1)


def test_features_are_the_mean_over_tokens_and_leave_the_last_variable_out():
    model, x = build("random", 5), everything(5)
    o = model.orders[0]
    features = model.embed(x)
    assert features.shape == (32, 16) and not features.requires_grad
    row = x[11]
    past = [model.E[-1] + model.S[-1], *(model.E[int(row[v])] + model.S[v] for v in o[:-1].tolist())]
    want = model.blocks((torch.stack(past) + model.A[o])[None])[0].mean(0)
    torch.testing.assert_close(features[11], want.detach(), rtol=1e-10, atol=1e-10)
    flipped = x.clone()
    flipped[:, o[-1]] = 1 - x[:, o[-1]]
    assert torch.equal(model.embed(flipped), features)
    flipped[:, o[0]] = 1 - x[:, o[0]]
    assert not torch.allclose(model.embed(flipped), features)


@EVERY_KIND
def test_a_saved_model_comes_back_as_it_was(kind, tmp_path):
    model = build(kind, 4, seed=9, dtype=torch.float32)
    with torch.no_grad():
        model.orders[:] = model.orders.flip(1)  # orderings that no seed gives: they are saved, and not drawn again
    again = Transformer.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert not again.training and again.arguments == model.arguments
    assert torch.equal(again.log_prob(all_of(model)), model.log_prob(all_of(model)))
    assert torch.equal(again.sample(50, seed=1), model.sample(50, seed=1))


def test_a_seed_gives_the_weights_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (Transformer(5, 16, 2, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.E, other.E) and one.S.std().item() == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 10, "heads": 3}, "width = 10 cannot be shared by heads = 3; choose a multiple of 3"),
        ({"ordering": "raster"}, "ordering 'raster' is unknown; allowed: any, natural, random"),
        ({"orderings": 4}, "orderings = 4 with ordering = natural is impossible; allowed: 1, or ordering = any"),
        ({"orderings": 0, "ordering": "any"}, "orderings = 0 with ordering = any is impossible; allowed: at least 1"),
        ({"label": "middle", "classes": 2}, "label 'middle' is unknown; allowed: first, last, none"),
        ({"label": "first"}, "classes = 0 with label = first is impossible; allowed: at least 1"),
        ({"classes": 2}, "classes = 2 with label = none is impossible; allowed: 0"),
        ({"shape": (1, 5), "width": 6}, "3 columns a head cannot be turned in pairs; choose an even width/heads"),
        ({"label": "last", "classes": 5}, "n = 5 columns, 5 of them a label's, leave none for x; allowed: above 5"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Transformer(5, **{"width": 16, "depth": 1, "heads": 2, **arguments})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("depth", 0),
        ("heads", 0),
        ("orderings", 0),
        ("dropout", 1.0),
        ("ordering", "raster"),
        ("width", 1.5),
    ],
)
def test_impossible_fields_are_refused(field, value):
    with pytest.raises(UsageError, match=f"{field}.*allowed"):
        Config(**{field: value})
