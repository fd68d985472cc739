"""PixelCNN of pictures and their classes, the label first or last."""

import math

import pytest
import torch
from pixelcnns_by_hand import build, masked_pass, put, walk, with_class
from zoo import clamped, everything, frequencies_fit, number, some, uniform

from ptheta.data.order import generator
from ptheta.density.likelihood import log_odds
from ptheta.density.pixelcnn import PixelCNN

LABELS = pytest.mark.parametrize("label", ["first", "last"])


def posterior(model, x):
    """p(y | x) from log p(x, y) of every class."""
    return model.log_prob(with_class(x, model.classes, model.label)).view(model.classes, -1).softmax(0).T


@LABELS
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 1)])
def test_probabilities_of_all_pictures_with_their_class_sum_to_one(shape, label):
    model = build(shape, classes=3, label=label)
    z = everything(model.n)
    log_p, (_, y) = model.log_prob(z), model.split(z)
    assert abs(log_p.exp().sum().item() - 1) < 1e-9
    assert (log_p[y.sum(1) != 1] == -math.inf).all() and torch.isfinite(log_p[y.sum(1) == 1]).all()
    if label == "first":
        each = model.log_prob(with_class(everything(model.n - 3), 3)).exp().view(3, -1)
        torch.testing.assert_close(each.sum(1), model.prior.detach().softmax(0), rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- the label first


def test_the_class_changes_the_first_pixel_and_every_other():
    model, x = build((3, 3), classes=3, channels=16), some(1, 9).expand(3, -1)
    logits = model.logits(x, torch.eye(3, dtype=torch.float64))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (logits[one] - logits[other]).abs().min() > 1e-4
    z = with_class(everything(1), 3)
    first = build((1, 1), classes=3).log_prob(z).exp().view(3, 2)
    p = first[:, 1] / first.sum(1)
    assert (p[:, None] - p).abs().max() > 0.05


def test_the_class_enters_every_gate():
    model = build((3, 3), classes=2)
    model(with_class(some(4, 9), 2)).sum().backward()
    for layer in model.layers:
        for of_class in (layer.V, layer.U):
            assert (of_class.grad.abs() > 1e-12).all() and not torch.allclose(of_class.grad[0], of_class.grad[1])


def test_one_uniform_number_draws_the_class_by_the_inverse_of_its_distribution():
    model = build((1, 1), classes=3)
    model.prior.data = torch.tensor([0.2, 0.5, 0.3]).log() + 7
    u = torch.full((6, 4), 0.99, dtype=torch.float64)
    u[:, 0] = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.999])
    z = clamped(model, torch.zeros_like(u), torch.zeros_like(u).bool(), u, 0)[0]
    assert z[:, :3].argmax(1).tolist() == [0, 0, 1, 1, 2, 2] and (z[:, :3].sum(1) == 1).all()
    model.prior.data[0] = -2000
    z = clamped(model, torch.zeros_like(u), torch.zeros_like(u).bool(), u, 0)[0]
    assert z[:, 0].sum() == 0, "a class without probability is not drawn by u = 0 either"


@LABELS
def test_what_is_no_class_has_no_weight(label):
    model, y = build((1, 2), classes=2, label=label), torch.tensor([[0.0, 0], [1, 1], [0, 1]]).double()
    z, observed = (put(t, like, label) for t, like in ((torch.ones(3, 2), y), (torch.zeros(3, 2), torch.ones(3, 2))))
    log_w = clamped(model, z.double(), observed.bool(), uniform(3, 4), 0)[1]
    assert log_w[:2].tolist() == [-math.inf] * 2 and math.isfinite(log_w[2])


# ---------------------------------------------------------------- the label last


@pytest.mark.parametrize(("shape", "kernel"), [((9, 7), 3), ((2, 4), 5), ((1, 5), 3), ((4, 4), 3), ((11, 3), 3)])
def test_the_last_label_is_told_by_the_whole_picture(shape, kernel):
    """p(y | x) by eq. (7) cell by cell; and log p(x, y) is log p(x), which knows no class, and its logarithm."""
    model = build(shape, 3, kernel=kernel, label="last")
    x = some(5, model.n - 3)
    with torch.no_grad():
        logits, p_y = masked_pass(model, x, None)
    y = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1, 0]]
    p = torch.where(x == 1, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(model.log_prob(put(x, y, "last")), p.log().sum(1) + (p_y * y).sum(1).log())
    torch.testing.assert_close(model.classify(x), p_y)
    torch.testing.assert_close(posterior(model, x), p_y)
    torch.testing.assert_close(model.joint_log_prob(x), p.log().sum(1, keepdim=True) + p_y.log())
    for pixel in range(x.shape[1]):
        other = x.clone()
        other[:, pixel] = 1 - other[:, pixel]
        assert ((model.classify(other) - p_y).abs().amax(1) > 1e-9).all(), pixel


@pytest.mark.parametrize("shape", [(2, 3), (5, 6)])
def test_a_last_label_is_drawn_when_the_picture_is_there(shape):
    model = build(shape, 3, label="last")
    n, u = model.n, uniform(20, model.n)
    z = put(some(20, n - 3), torch.eye(3, dtype=torch.float64)[torch.arange(20) % 3], "last")
    for observed in (torch.zeros_like(z), torch.ones_like(z), some(20, n, seed=1)):
        observed = torch.cat([observed[:, : n - 3], observed[:, -1:].expand(-1, 3)], 1).bool()
        got, log_w = clamped(model, z, observed, u, 0)
        want, log_w_want = walk(model, z, observed, u)
        assert torch.equal(got, want)
        torch.testing.assert_close(log_w, log_w_want, rtol=1e-10, atol=1e-10)


@LABELS
def test_frequencies_of_pictures_and_classes_are_the_probabilities(label):
    model = build((2, 2), 3, seed=2, dtype=torch.float32, label=label)
    counts = torch.bincount(number(model.sample(20_000, seed=8)), minlength=2**model.n)
    p = model.double().log_prob(everything(model.n)).exp()
    assert counts[p == 0].sum() == 0 and frequencies_fit(counts[p > 0], p[p > 0]) > 1e-4
    done = model.float().complete(
        put(torch.ones(1, 4), torch.eye(3)[:1], label).expand(4000, -1), model.join(torch.ones(1, 4))[0].bool(), seed=1
    )
    y = torch.bincount(model.split(done.x)[1].argmax(1), minlength=3)
    assert done.exact == (label == "last")
    assert label == "first" or frequencies_fit(y, posterior(model.double(), torch.ones(1, 4).double())[0]) > 1e-4


def test_pictures_without_their_class_teach_a_model_whose_label_is_last():
    model, x = build((3, 3), 3, label="last").train(), some(6, 9)
    y = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    unknown = model(put(x, 0 * y, "last"), 4)
    torch.testing.assert_close(-unknown, model.log_x(put(x, y, "last")))
    torch.testing.assert_close(model(put(x, y, "last"), 4), -model.log_prob(put(x, y, "last")))
    assert model.takes_unlabelled and not build((3, 3), 3).takes_unlabelled


@LABELS
def test_a_new_model_gives_every_class_its_share(label):
    x = (torch.rand(50, 6, generator=generator(0, 0, "x")) < torch.linspace(0.1, 0.8, 6)).float()
    y = torch.eye(4)[torch.arange(50) % 7 % 4]
    model = PixelCNN(10, 4, 2, shape=(2, 3), label=label, classes=4)
    model.start_at(log_odds(put(x, y, label)))
    of_x, of_y = (x.sum(0) + 1) / 52, (y.sum(0) + 1) / 52
    by_hand = torch.where(x == 1, of_x, 1 - of_x).log().sum(1) + (of_y / of_y.sum()).log() @ y.T
    torch.testing.assert_close(model.log_prob(put(x, y, label)), by_hand)


@LABELS
def test_features_are_of_the_picture_and_of_a_class_that_came_before(label):
    model, x = build((3, 2), 2, label=label), some(1, 6)
    features = model.embed(with_class(x, 2, label))
    assert features.shape == (2, 6) and torch.allclose(features[0], features[1]) == (label == "last")


@LABELS
def test_a_saved_model_of_pictures_and_classes_comes_back_as_it_was(label, tmp_path):
    model = build((2, 3), 3, dtype=torch.float32, label=label)
    again = PixelCNN.from_pretrained(model.save_pretrained(tmp_path / "model"))
    x = everything(6, torch.float32)
    assert torch.equal(again.joint_log_prob(x), model.joint_log_prob(x))
    assert torch.equal(again.sample(50, seed=1), model.sample(50, seed=1))
