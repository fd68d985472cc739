"""MAE: how many patches are kept, who sees them, the loss of hidden ones in loops, and pictures that are completed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.nets.encoders import patchify, unpatchify
from ptheta.selfsup.mae import MAE, Config, Method, kept_patches, normalised_patches

SHAPE = (3, 8, 12)  # 6 patches of 4 × 4
ENCODER = {"encoder": "vit", "width": 16, "depth": 2, "patch": 4, "cells": 1, "views": "none"}
both_targets = pytest.mark.parametrize("target", ["normalised", "pixels"])


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "mae"), dtype=torch.float64)


def pictures(b: int, seed: int = 0) -> torch.Tensor:
    return (some(b, *SHAPE, seed=seed) * 255).to(torch.uint8)


def build(target: str = "normalised", hide: float = 0.6, **changes) -> MAE:
    """A model whose weights are far from their small initial values."""
    encoder = {**ENCODER, **{k: v for k, v in changes.items() if k in ENCODER}}
    own = {k: v for k, v in changes.items() if k not in ENCODER}
    model = MAE(SHAPE, 0, "", hide, target, **{"decoder_width": 12, "decoder_depth": 1, **own}, **encoder).double()
    for i, p in enumerate(model.parameters()):
        p.data += 0.3 * torch.randn(p.shape, generator=generator(1, i, "more"), dtype=torch.float64)
    model.start_at(torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.25, 0.3, 0.35]))
    return model


# ---------------------------------------------------------------- patches


@given(
    b=st.integers(1, 3), c=st.sampled_from([1, 3]), rows=st.integers(1, 5), columns=st.integers(1, 5),
    patch=st.integers(1, 6),
)  # fmt: skip
def test_patches_put_together_are_the_picture(b, c, rows, columns, patch):
    h, w = rows * patch, columns * patch
    x = some(b, c, h, w)
    p = patchify(x, patch)
    assert p.shape == (b, rows * columns, c * patch**2)
    assert torch.equal(unpatchify(p, (c, h, w), patch), x)
    assert torch.equal(patchify(unpatchify(p, (c, h, w), patch), patch), p)
    for l in range(rows * columns):
        i, j = l // columns * patch, l % columns * patch
        assert torch.equal(p[:, l], x[:, :, i : i + patch, j : j + patch].flatten(1))


@given(patches=st.integers(2, 400), hide=st.floats(0.001, 0.999))
def test_at_least_one_patch_is_kept_and_one_hidden(patches, hide):
    if patches * hide <= 0.49:
        with pytest.raises(UsageError, match="hides none"):
            kept_patches(patches, hide)
    elif patches * hide > 0.51:
        kept = kept_patches(patches, hide)
        assert 1 <= kept < patches and (kept == 1 or abs(kept - patches * (1 - hide)) <= 0.5)


def test_the_share_that_is_cut_to_zero_elsewhere_keeps_one():
    assert int(10 * (1 - 0.9)) == 0 and kept_patches(10, 0.9) == 1
    assert kept_patches(49, 0.75) == 12 and kept_patches(196, 0.75) == 49 and kept_patches(4, 0.95) == 1
    model = build(hide=0.9)
    assert model.kept == 1 and torch.isfinite(model(pictures(2))[0])


def test_shares_that_keep_or_hide_nothing_are_refused():
    with pytest.raises(UsageError, match=r"hide = 1 keeps none of 6 patches; allowed: from 0.167 .* to 0.833 .*--hide"):
        build(hide=1.0)
    with pytest.raises(UsageError, match=r"hide = 0.01 hides none of 6 patches; allowed: from 0.167"):
        build(hide=0.01)
    with pytest.raises(UsageError, match=r"one patch has none to hide; .*--patch"):
        kept_patches(1, 0.5)
    for value in (0.0, -0.5, 1.5):
        with pytest.raises(UsageError, match="hide = .* is impossible; allowed: above 0 and at most 1"):
            Config(hide=value)
    assert kept_patches(6, 1 / 6) == 5 and kept_patches(6, 5 / 6) == 1  # as the message says


def test_a_patch_of_one_number_cannot_be_normalised():
    encoder = {**ENCODER, "patch": 1}
    with pytest.raises(UsageError, match="a patch of one number has no deviation; allowed: .*--target pixels"):
        MAE((1, 4, 4), target="normalised", **encoder)
    model = MAE((1, 4, 4), target="pixels", **encoder)
    assert torch.isfinite(model(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))[0])


# ---------------------------------------------------------------- eq. (4)


def test_patches_are_normalised_by_the_unbiased_variance():
    p = some(2, 3, 16)
    y, mean, root = normalised_patches(p)
    want = (p.numpy() - p.numpy().mean(-1, keepdims=True)) / np.sqrt(p.numpy().var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y, want, rtol=1e-12)
    torch.testing.assert_close(mean + root * y, p, rtol=1e-12, atol=1e-12)


def test_a_nearly_constant_patch_is_blown_up_and_a_constant_one_is_zero():
    faint = 0.7 + 1e-2 * some(1, 1, 16)
    y, _, root = normalised_patches(faint)
    assert 0.8 < y.var().item() <= 1.0 and root.item() < 0.01, "a hundredth of the scale has become all of it"
    flat = normalised_patches(torch.full((1, 1, 16), 0.7))[0]
    assert flat.abs().max() < 1e-3  # rounding, over √1e-6
    assert normalised_patches(torch.full((1, 1, 16), 0.5))[0].abs().max() == 0


@both_targets
def test_loss_and_gradient_of_constant_pictures_are_finite(target):
    for value in (0, 7, 255):
        model = build(target).float()
        loss, _ = model(torch.full((3, *SHAPE), value, dtype=torch.uint8))
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
        assert torch.isfinite(normalised_patches(patchify(torch.zeros(1, *SHAPE), 4))[0]).all()


# ---------------------------------------------------------------- eqs. (2) and (3)


@both_targets
def test_the_loss_is_that_of_loops_over_pictures_and_patches(target):
    """Tokens in another order than the model's, one picture at a time, and the squares of each number by itself."""
    model, x = build(target), pictures(3)
    order, v = model.order(3, 5), model.normalised(x)
    p = patchify(v, 4)
    assert model.kept == 2 and model.L == 6
    with torch.no_grad():
        losses = []
        for n in range(3):
            kept = sorted(order[n, :2].tolist())
            tokens = torch.stack([model.encoder.W @ p[n, l] + model.encoder.b + model.encoder.places[l] for l in kept])
            z = model.encoder.blocks(tokens[None])[0]
            h = torch.stack([model.e] * 6)
            for l, row in zip(kept, z):
                h[l] = model.W @ row + model.b
            h = model.decoder((h + model.places)[None])[0]
            total = 0.0
            for l in set(range(6)) - set(kept):
                numbers = p[n, l].tolist()
                mean = sum(numbers) / 48
                root = (sum((a - mean) ** 2 for a in numbers) / 47 + 1e-6) ** 0.5
                y = [(a - mean) / root for a in numbers] if target == "normalised" else numbers
                said = (model.A @ h[l] + model.a).tolist()
                total += sum((a - b) ** 2 for a, b in zip(said, y)) / 48
                if target == "normalised":
                    of_patch = (model.S @ h[l] + model.s).tolist()
                    total += ((of_patch[0] - mean) ** 2 + (of_patch[1] - root) ** 2) / 2
            losses.append(total / 4)
        found, _ = model.loss(x, 5)
    torch.testing.assert_close(found, torch.tensor(losses, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(x, 5)[0], found.mean())


@both_targets
def test_what_is_said_of_kept_patches_does_not_count(target):
    model, p = build(target), patchify(some(3, *SHAPE), 4)
    hidden = model.hidden(model.order(3, 0), model.kept)
    assert (hidden.sum(1) == 4).all()
    said = some(3, 6, 48, seed=1).requires_grad_()
    of_patch = some(3, 6, 2, seed=2).requires_grad_() if target == "normalised" else None
    loss, _ = model.compared(said, of_patch, p, hidden)
    loss.sum().backward()
    for part in (said, of_patch):
        if part is not None:
            assert torch.equal((part.grad != 0).all(2), hidden) and (part.grad[~hidden] == 0).all()
    other = torch.where(hidden[..., None], said, -1e9)
    assert torch.equal(model.compared(other, of_patch, p, hidden)[0], loss)
    assert not torch.equal(model.compared(torch.where(hidden[..., None], said + 1, said), of_patch, p, hidden)[0], loss)


def test_the_encoder_sees_kept_patches_alone():
    model, order = build(), build().order(2, 0)
    v = some(2, *SHAPE).requires_grad_()
    model.guess(v, order, model.kept).sum().backward()
    assert v.grad is not None
    seen = (patchify(v.grad, 4) != 0).any(2)
    assert torch.equal(seen, ~model.hidden(order, model.kept))


def test_the_order_of_the_kept_patches_and_of_the_others_says_nothing():
    model, v = build(), some(2, *SHAPE)
    order = model.order(2, 0)
    other = torch.cat([order[:, :2].flip(1), order[:, 2:].roll(1, 1)], 1)
    torch.testing.assert_close(model.decoded(v, order, 2), model.decoded(v, other, 2), rtol=1e-9, atol=1e-9)
    moved = order.roll(1, 1)
    assert not torch.allclose(model.decoded(v, order, 2), model.decoded(v, moved, 2), atol=1e-3)


def test_every_patch_is_kept_equally_often_and_every_picture_keeps_its_own():
    model = build()
    order = model.order(3000, 0)
    assert torch.equal(order.sort(1).values, torch.arange(6).expand(3000, 6))
    count = torch.bincount(order[:, :2].flatten(), minlength=6)
    assert ((count - 1000).abs() < 5 * (3000 * 1 / 3 * 2 / 3) ** 0.5).all()
    assert torch.equal(order[:9], model.order(3000, 0)[:9]) and not torch.equal(order, model.order(3000, 1))


def test_means_and_deviations_are_learned_without_a_gradient_into_the_decoder():
    model, x = build(), pictures(3)
    loss, figures = model(x, 2)
    loss.backward()
    with_both = {k: p.grad.clone() for k, p in model.named_parameters()}
    assert with_both["S"].abs().sum() > 0 and with_both["s"].abs().sum() > 0
    model.zero_grad()
    order, v = model.order(3, 2), model.normalised(x)
    y = model.predicted(model.decoded(v, order, 2))[0]
    target, hidden = normalised_patches(patchify(v, 4))[0], model.hidden(order, 2)
    alone = (y - target)[hidden].square().mean()  # as many in each picture: the mean of means
    alone.backward()
    torch.testing.assert_close(figures["normalised"], alone.detach())
    for k, p in model.named_parameters():
        if k in ("S", "s"):
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, with_both[k], rtol=1e-9, atol=1e-12)


def test_two_processes_equal_one():
    model, x = build(), pictures(6)
    whole, _ = model.loss(x, 3)
    model.world, parts = 2, []
    for model.rank in (0, 1):
        parts.append(model.loss(x[3 * model.rank : 3 * model.rank + 3], 3)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


# ---------------------------------------------------------------- the features


def test_whole_pictures_are_embedded_by_the_encoder():
    model, x = build().eval(), pictures(4)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(x), model.encoder(model.normalised(x)).float(), rtol=1e-6, atol=1e-6)
    assert model.embed(x).shape == (4, 16)


# ---------------------------------------------------------------- completing


@both_targets
@pytest.mark.parametrize("kind", [torch.uint8, torch.float64])
def test_what_is_observed_stays_as_it_is(target, kind):
    model, x = build(target).eval(), pictures(5)
    pixels = (x.float() / 255).double()  # as bytes are read
    observed = some(5, 8, 12, seed=4) < 0.98
    observed[:, :4, :4] = True
    done = model.complete(x if kind == torch.uint8 else pixels, observed)
    assert done.shape == x.shape and done.min() >= 0 and done.max() <= 1
    seen = observed[:, None].expand_as(done)
    assert torch.equal(done[seen], pixels[seen]) and not (done[~seen] == pixels[~seen]).any()


def test_a_patch_with_a_hidden_pixel_is_not_seen_and_pictures_may_differ_in_what_is():
    model, x = build().eval(), pictures(4)
    observed = torch.ones(4, 8, 12, dtype=torch.bool)
    observed[0, :, 4:] = False  # 2 patches are left
    observed[1, 1, 1] = False  # 5
    observed[2, :4] = False  # 3
    together = model.complete(x, observed)
    for n in range(4):
        torch.testing.assert_close(model.complete(x[n : n + 1], observed[n])[0], together[n])
    assert torch.equal(together[3], (x[3].float() / 255).double()), "nothing was hidden of it"
    other = x.clone()
    other[1, :, 0, 0] = 255 - other[1, :, 0, 0]  # observed, in a patch that is not
    assert torch.equal(model.complete(other, observed)[1, :, 1, 1], together[1, :, 1, 1])
    other[1, :, 0, 5] = 255 - other[1, :, 0, 5]
    assert not torch.equal(model.complete(other, observed)[1, :, 1, 1], together[1, :, 1, 1])
    order = torch.tensor([[0, 3, 1, 2, 4, 5]])
    guess = model.guess(model.normalised(x[:1]), order, 2).detach()
    torch.testing.assert_close(together[:1, :, :, 4:], guess[:, :, :, 4:])


def test_completing_wants_a_whole_patch_of_each_picture():
    model, x = build().eval(), pictures(3)
    assert torch.equal(model.complete(x, torch.ones(8, 12, dtype=torch.bool)), (x.float() / 255).double())
    observed = torch.ones(3, 8, 12, dtype=torch.bool)
    observed[2, ::4, ::4] = False
    with pytest.raises(UsageError, match=r"no patch of picture 2 is observed as a whole; .* 6 patches of 4x4") as said:
        model.complete(x, observed)
    assert "\n" not in str(said.value)
    with pytest.raises(UsageError, match="nothing is observed of picture 0"):
        model.complete(x, torch.zeros(8, 12, dtype=torch.bool))
    with pytest.raises(InputError, match=r"allowed: bool \(8, 12\)"):
        model.complete(x, torch.ones(12, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="x has shape"):
        model.complete(x[:, :1], observed)


def test_a_normalised_prediction_is_put_back_with_what_is_said_of_its_patch():
    model = build().eval()
    y, mean, root = normalised_patches(patchify(model.normalised(pictures(1)), 4))
    for p in (model.A, model.S):
        p.data.zero_()
    model.a.data, model.s.data = y[0, 3].clone(), torch.cat([mean[0, 3], root[0, 3]])
    observed = torch.ones(8, 12, dtype=torch.bool)
    observed[4:, :4] = False  # patch 3
    torch.testing.assert_close(model.complete(pictures(1), observed), (pictures(1).float() / 255).double())


def test_hidden_patches_of_a_reconstruction_are_the_models_and_others_the_pictures():
    model, x = build().eval(), pictures(4)
    seen = model.reconstruct(x, 9)
    pixels = (x.float() / 255).double()
    assert torch.equal(seen.hidden[:, 0, ::4, ::4].flatten(1), model.hidden(model.order(4, 9), 2))
    of_patch = patchify(seen.hidden, 4)
    assert torch.equal(of_patch.all(2), of_patch.any(2))
    m = seen.hidden.expand_as(x)
    assert torch.equal(seen.guess[~m], pixels[~m]) and (seen.shown[m] == 0.5).all()
    torch.testing.assert_close(model.complete(x, ~seen.hidden[:, 0]), seen.guess)


# ---------------------------------------------------------------- learning


def learned(x: torch.Tensor, target: str, steps: int) -> float:
    """The share that is recovered of pictures, after training on them."""
    config = Config(width=16, depth=1, decoder_width=16, decoder_depth=1, batch_size=64, learning_rate=0.01, warmup=5,
                    target=target, hide=0.5, patch=2)  # fmt: skip
    method = Method(config, load((x.numpy() * 255).astype(np.uint8)), 0, Hardware(torch.device("cpu"), "fp32"), steps)
    for _, batch in zip(range(steps), method.batches(0, 0, 1)):
        method.update(batch)
    return method.evaluate(method.data, "valid")["recovered"].mean


@both_targets
def test_what_the_rest_tells_is_recovered_and_what_it_does_not_tell_is_not(target):
    """Pictures of one grey and one slope each; and pictures of noise, of which the mean is the best guess."""
    level, slope = some(600, 1, 1), (some(600, 1, 1, seed=1) - 0.5) * 0.08
    plain = (level * 0.5 + 0.25 + slope * (torch.arange(4) - 1.5)).expand(600, 4, 4)
    assert learned(plain, target, 150) > {"pixels": 0.7, "normalised": 0.15}[target]  # see "Differs from the paper"
    if target == "pixels":
        assert -0.3 < learned(some(600, 4, 4, seed=2), target, 30) < 0.05
