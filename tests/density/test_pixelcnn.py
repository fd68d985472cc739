"""PixelCNN: what a pixel sees, the equations with masks multiplied, classes, and sampling without full passes."""

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pixelcnns_by_hand import build, masked_pass, pixels_and_label, walk, with_class
from zoo import clamped, everything, frequencies_fit, number, some, uniform

from ptheta.data.binary import load
from ptheta.data.order import generator
from ptheta.density import pixelcnn
from ptheta.density.likelihood import log_odds
from ptheta.density.pixelcnn import Config, Method, PixelCNN, gate
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware

SHAPES = [(3, 3), (2, 4), (1, 5), (4, 2), (5, 1), (1, 1)]


# ---------------------------------------------------------------- densities


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_probabilities_of_all_pictures_sum_to_one(shape, kernel):
    model = build(shape, kernel=kernel)
    p = model.log_prob(everything(model.n)).exp()
    assert abs(p.sum().item() - 1) < 1e-9 and p.max() > 2 * p.min()


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 2), (6, 1)]), classes=st.integers(0, 3),
    channels=st.integers(1, 5), layers=st.integers(1, 4), kernel=st.sampled_from([3, 5, 7]),
    spread=st.sampled_from([0.1, 1.0, 5.0]), seed=st.integers(0, 2**40),
)  # fmt: skip
def test_any_model_of_any_size_is_a_distribution_and_is_what_it_samples(shape, classes, **arguments):
    model = build(shape, classes, **arguments)
    x = everything(model.n)
    log_p = model.log_prob(x)
    assert abs(log_p.exp().sum().item() - 1) < 1e-9
    seen, log_w = clamped(model, x, torch.ones_like(x, dtype=torch.bool), uniform(*x.shape), 0)
    assert torch.equal(seen, x)
    torch.testing.assert_close(log_w, log_p, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(9, 7), (2, 4), (1, 5)])
def test_one_pass_equals_the_equations_with_masked_squares(shape, kernel, classes):
    model = build(shape, classes, kernel=kernel)
    z = some(4, model.n)
    if classes:
        z[:, :classes] = torch.eye(3)[[0, 1, 2, 1]]
    x, y = pixels_and_label(model, z)
    with torch.no_grad():
        logits = masked_pass(model, x, y)[0]
    torch.testing.assert_close(model.logits(x, y), logits, rtol=1e-10, atol=1e-10)
    p = logits.sigmoid()
    log_p = torch.where(x == 1, p, 1 - p).log().sum(1)
    if y is not None:
        log_p += model.prior.log_softmax(0)[y.argmax(1)]
    torch.testing.assert_close(model.log_prob(z), log_p.detach(), rtol=1e-10, atol=1e-10)


def test_the_gate_is_a_tanh_times_a_sigmoid():
    a = torch.randn(5, 8, 2, 3, generator=generator(0, 0, "gate"), dtype=torch.float64)
    torch.testing.assert_close(gate(a), (a[:, :4] / 2).tanh() * a[:, 4:].sigmoid(), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- what a pixel sees


@pytest.mark.parametrize(
    ("shape", "kernel", "layers", "classes"),
    [((9, 9), 3, 1, 0), ((9, 9), 3, 3, 0), ((9, 9), 5, 2, 0), ((9, 9), 5, 4, 0), ((4, 12), 3, 4, 2), ((8, 3), 7, 2, 0)],
)
def test_a_pixel_sees_all_pixels_before_it_in_its_field_and_no_other(shape, kernel, layers, classes):
    """No blind spot: everything above and to the right counts too. With r = 9 the field is all that comes before."""
    model, (H, W) = build(shape, classes, kernel=kernel, layers=layers, channels=16), shape
    y = torch.eye(classes, dtype=torch.float64)[:1] if classes else None
    J = torch.zeros(H * W, H * W, dtype=torch.float64)
    for x in some(3, H * W):
        J += torch.autograd.functional.jacobian(lambda x: model.logits(x[None], y)[0], x).abs()
    r = 3 + kernel // 2 * (layers - 1)
    i, j = torch.arange(H * W) // W, torch.arange(H * W) % W
    before = torch.ones(H * W, H * W).tril(-1).bool()
    seen = before & ((i[:, None] - i).abs() <= r) & ((j[:, None] - j).abs() <= r)
    assert (J[~seen] == 0).all()
    assert (J[seen] > 0).all()
    assert r < max(shape) or torch.equal(seen, before)


def test_pixels_are_visited_row_by_row():
    model = build((2, 3), classes=2)
    assert model.order().tolist() == list(range(8)) and model.components == 1 and model.shape == (2, 3)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [((3, 3), {}), ((2, 4), {"kernel": 5}), ((1, 5), {}), ((4, 2), {}), ((1, 1), {"layers": 1}),
     ((5, 9), {"kernel": 5}), ((3, 4), {"classes": 3}), ((6, 5), {"classes": 2, "layers": 5})],
)  # fmt: skip
def test_sampling_row_by_row_equals_a_full_pass_for_each_pixel(shape, arguments, monkeypatch):
    monkeypatch.setattr(pixelcnn, "AT_ONCE", 9)
    model = build(shape, **arguments)
    C, z, u = model.classes, some(20, model.n), uniform(20, model.n)
    masks = [torch.zeros_like(z), torch.ones_like(z), some(20, model.n, seed=1)]
    for observed in (m.bool() for m in masks):
        if C:
            observed[:, :C] = observed[:, :1]
            z[:, :C] = torch.eye(C)[torch.arange(20) % C]
        got, log_w = clamped(model, z, observed, u, 0)
        want, log_w_want = walk(model, z, observed, u)
        assert torch.equal(got, want)
        torch.testing.assert_close(log_w, log_w_want, rtol=1e-10, atol=1e-10)
        again, log_p = clamped(model, got, torch.ones_like(observed), u, 0)
        assert torch.equal(again, got)
        torch.testing.assert_close(log_p, model.log_prob(got), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "classes"), [((2, 3), 0), ((2, 2), 3)])
def test_frequencies_of_samples_are_the_probabilities(shape, classes):
    model = build(shape, classes, seed=2, dtype=torch.float32)
    counts = torch.bincount(number(model.sample(20_000, seed=8)), minlength=2**model.n)
    p = model.double().log_prob(everything(model.n)).exp()
    assert counts[p == 0].sum() == 0
    assert frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
    assert frequencies_fit(counts[p > 0], p[p > 0].flip(0)) < 1e-4, "nor could it tell this from another distribution"


def test_completions_are_exact_where_what_is_observed_comes_first():
    """The class and the upper row given: the frequencies of the lower row are those of Bayes' rule."""
    model = build((2, 2), classes=2, seed=4, dtype=torch.float32)
    z = torch.tensor([0.0, 1, 1, 0, 0, 0])
    done = model.complete(z.expand(4000, -1), torch.arange(6) < 4, seed=1)
    assert done.exact and torch.equal(done.x[:, :4], z[:4].expand(4000, -1))
    p = model.double().log_prob(torch.cat([z[:4].expand(4, -1), everything(2)], 1)).softmax(0)
    assert frequencies_fit(torch.bincount(number(done.x[:, 4:]), minlength=4), p) > 1e-4


def test_a_seed_gives_the_same_model_and_samples_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (PixelCNN(12, 4, 2, dropout=0.5, shape=(3, 4), seed=s) for s in (3, 3, 4))
    one.train()(some(5, 12).float(), 1).sum().backward()
    x = one.eval().sample(150, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert torch.equal(same.eval().sample(150, seed=5), x) and torch.equal(one.sample(20, seed=5), x[:20])
    assert not torch.equal(one.sample(150, seed=6), x) and not torch.equal(one.layers[0].N, other.layers[0].N)


# ---------------------------------------------------------------- training


def test_a_new_model_is_that_of_independent_pixels_at_the_log_odds():
    x = (torch.rand(50, 6, generator=generator(0, 0, "x")) < torch.linspace(0.1, 0.8, 6)).float()
    model = PixelCNN(6, 4, 2, shape=(2, 3))
    model.start_at(log_odds(x))
    share = (x.sum(0) + 1) / 52
    torch.testing.assert_close(model.log_prob(x), torch.where(x == 1, share, 1 - share).log().sum(1))


def test_dropout_is_of_channels_keyed_by_the_step_and_ends_with_training():
    model, x = build((3, 4), dropout=0.3, channels=400, layers=2), some(6, 12)
    whole = model(x, 5)
    torch.testing.assert_close(whole, -model.log_prob(x))
    model.train()
    loss = model(x, 5)
    assert torch.equal(model(x, 5), loss) and not torch.equal(model(x, 6), loss)
    assert not torch.allclose(loss, whole)
    torch.testing.assert_close(model.component_log_prob(x, 0), -whole)
    like = torch.ones(6, 400, 3, 4, dtype=torch.float64)
    kept = torch.stack([model._kept(like, l, 5) for l in (1, 2)]).flatten(0, 1)  # both stacks of two layers
    values = torch.tensor([0, 1 / 0.7], dtype=torch.float64)
    torch.testing.assert_close(kept.unique(), values)
    assert (kept > 0).double().mean() == pytest.approx(0.7, abs=0.02)
    assert (kept.prod(0) > 0).double().mean() == pytest.approx(0.7**4, abs=0.04), "layers and stacks are independent"


def test_processes_drop_what_one_process_would():
    model, x = build((2, 2), dropout=0.5).train(), some(8, 4)
    whole, parts = model(x, 3), []
    model.world = 2
    for model.rank in (0, 1):
        parts.append(model(x[4 * model.rank : 4 * model.rank + 4], 3))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 3])
def test_bf16_changes_the_loss_by_less_than_two_percent(classes, device):
    model = build((8, 8), classes, dtype=torch.float32, channels=32, spread=0.5, dropout=0.1).to(device)
    x = some(60, 64, dtype=torch.float32).to(device)
    if classes:
        x = torch.cat([torch.eye(3)[torch.arange(60) % 3].to(device), x], 1)
    exact = model(x).mean()
    with torch.autocast(device, torch.bfloat16):
        loss, dropped = model(x).mean(), model.train()(x, 1).mean()
    dropped.backward()
    assert loss.dtype == torch.float32 and abs(loss.item() / exact.item() - 1) < 0.02
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all((p.grad != 0).any() for p in model.parameters())


def test_training_learns_what_lies_above_and_to_the_right():
    """Each row repeats the one above, moved one pixel to the left; only the first row and the last column are free."""
    g = generator(0, 0, "rows")
    x = torch.randint(2, (2000, 4, 4), generator=g)
    for i in range(1, 4):
        x[:, i, :3] = x[:, i - 1, 1:]
    data = dataclasses.replace(load(x.flatten(1).numpy()), shape=(4, 4))
    config = Config(channels=8, layers=2, kernel=3, learning_rate=0.03, warmup=0, average=0.9)
    method = Method(config, data, 0, Hardware(torch.device("cpu"), "fp32"), 150)
    for _, batch in zip(range(150), method.batches(0, 0, 1)):
        method.update(batch)
    entropy = 7 * math.log(2)
    start = 16 * math.log(2)
    assert entropy * 0.97 < method.evaluate(data, "train")["nats"].mean < entropy + 0.03 * (start - entropy)


# ---------------------------------------------------------------- use


@pytest.mark.parametrize("classes", [0, 2])
def test_features_are_means_over_the_pixels(classes, monkeypatch):
    monkeypatch.setattr(pixelcnn, "AT_ONCE", 3)
    model = build((3, 2), classes)
    z = with_class(some(5, 6), 2) if classes else some(5, 6)
    x, y = pixels_and_label(model, z)
    features = model.embed(z)
    assert features.shape == (len(z), 6) and not features.requires_grad
    by_hand = sum(model.features(x, y)[:, :, i, j] for i in range(3) for j in range(2)) / 6
    torch.testing.assert_close(features, by_hand.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_saved_model_comes_back_as_it_was_and_no_use_changes_it(classes, tmp_path):
    model = build((2, 3), classes, dtype=torch.float32, kernel=5, dropout=0.2)
    before = copy.deepcopy(model.state_dict())
    again = PixelCNN.from_pretrained(model.save_pretrained(tmp_path / "model"))
    x = everything(model.n)
    assert not again.training and again.arguments == model.arguments and again.shape == (2, 3)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert torch.equal(again.sample(50, seed=1), model.sample(50, seed=1))
    assert torch.equal(again.embed(x[:9]), model.embed(x[:9]))
    model.train()(model.sample(4), 0).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_density_of_a_picture_does_not_depend_on_its_neighbours(monkeypatch):
    model, x = build((2, 3)), everything(6)
    log_p = model.log_prob(x)
    monkeypatch.setattr(pixelcnn, "AT_ONCE", 5)
    for chunk in (1, 7, 64):
        torch.testing.assert_close(model.log_prob(x, chunk=chunk), log_p, rtol=1e-12, atol=1e-12)
    assert model.log_prob(x[:0]).shape == (0,) and model.embed(x[:0]).shape == (0, 6)
    with pytest.raises(InputError, match=r"x has shape \(2, 5\); allowed: \(b, 6\)"):
        model.log_prob(x[:2, :5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"shape": None}, "pixelcnn wants pictures, and these vectors of 12 columns have no shape; allowed: data with"),
     ({"shape": (3, 3)}, "shape = 3 x 3 is impossible for 12 columns; allowed"),
     ({"shape": (-3, -4)}, "shape = -3 x -4 is impossible for 12 columns; allowed"),
     ({"shape": (3, 4), "label": "first", "classes": 2}, "for 10 columns beside the 2 of the label"),
     ({"shape": (3, 4), "label": "first", "classes": 0}, "classes = 0 is impossible; allowed: 1 to 11"),
     ({"shape": (3, 4), "label": "first", "classes": 12}, "classes = 12 is impossible; allowed: 1 to 11"),
     ({"shape": (2, 5), "label": "after", "classes": 2}, "label 'after' is unknown; allowed: first, last, none"),
     ({"shape": (3, 4), "label": "last", "classes": 0}, "classes = 0 is impossible; allowed: 1 to 11"),
     ({"shape": (3, 4), "kernel": 4}, "kernel = 4 is impossible; allowed: odd numbers from 3")],
)  # fmt: skip
def test_what_it_has_no_equation_for_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        PixelCNN(12, 4, 1, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", [{"kernel": 4}, {"kernel": 1}, {"channels": 0}, {"layers": 0}, {"dropout": 1.0}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name}"):
        Config(**field)
