"""Inpainting: what the network is told, the loss of the hidden part, and pictures that are completed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, relu

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.inpaint import Config, ContextEncoder, Method
from ptheta.selfsup.masks import drawn

SHAPE = (3, 9, 12)
ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none"}


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "inpaint"), dtype=torch.float64)


def pictures(b: int, seed: int = 0) -> torch.Tensor:
    return (some(b, *SHAPE, seed=seed) * 255).to(torch.uint8)


def build(hide: float = 0.4, shape=SHAPE) -> ContextEncoder:
    """A model in eval mode whose weights and running statistics are those of no training."""
    model = ContextEncoder(shape, 0, "", hide, **ENCODER).double()
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * torch.randn(p.shape, generator=generator(1, i, "more"), dtype=torch.float64)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(some(*buffer.shape, seed=2) - 0.5)
    model.start_at(*(torch.linspace(low, low + 0.1, shape[0]) for low in (0.4, 0.25)))
    return model.eval()


# ---------------------------------------------------------------- eq. (1)


def test_hidden_pixels_are_never_seen_and_the_network_is_told_which_they_are():
    model, x = build(), pictures(3)
    m = model.masks(3, 0)
    v = model.normalised(x).requires_grad_()
    said = model.restored(v, m)
    (said * some(*SHAPE, seed=3)).sum().backward()
    assert v.grad is not None and torch.equal(v.grad != 0, ~m.expand_as(v))
    assert torch.equal(model.restored(v.detach() + 9 * m, m), said)
    mean = torch.zeros(1, *SHAPE, dtype=torch.float64)  # where nothing tells the hidden from the seen but m
    assert not torch.allclose(model.restored(mean, m[:1]), model.restored(mean, m[1:2]), atol=1e-3)


def test_the_first_layer_is_a_convolution_of_the_picture_and_one_of_the_mask():
    model, x = build(), pictures(2)
    v, m = model.normalised(x), model.masks(2, 0)
    first, h = model.encoder.stem[0], None
    h = conv2d(v * ~m, first.W, None, first.stride, first.padding)
    h = relu(first.norm(h + conv2d(m.double(), model.W_m, None, first.stride, first.padding)))
    for layer in [*model.encoder.layers]:
        h = layer(h)
    assert len(model.encoder.stem) == 1
    torch.testing.assert_close(model.map(v, m), h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [SHAPE, (1, 28, 28), (1, 50, 45)])
def test_the_encoder_of_whole_pictures_is_the_plain_one(shape):
    """So features of whole pictures need no mask, and the encoder starts other methods."""
    model = build(shape=shape)
    x = (some(2, *shape) * 255).to(torch.uint8)
    v = model.normalised(x)
    nothing = torch.zeros(2, 1, *shape[1:], dtype=torch.bool)
    torch.testing.assert_close(model.map(v, nothing), model.encoder.map(v), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.embed(x), model.encoder(v).float(), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- eq. (2)


def test_the_loss_is_the_mean_square_over_hidden_numbers():
    model, x = build(), pictures(4)
    m, v = model.masks(4, 7), model.normalised(x)
    assert torch.equal(m, drawn(4, 9, 12, 0.4, generator(0, 7, "hidden part")))
    with torch.no_grad():
        said = model.restored(v, m)
        want = [((said[n] - v[n])[:, m[n, 0]] ** 2).mean() for n in range(4)]
        found, _ = model.loss(x, 7)
    torch.testing.assert_close(found, torch.stack(want))
    torch.testing.assert_close(model(x, 7)[0], found.mean())
    assert not torch.equal(model.loss(x, 8)[0], found)


def test_only_what_is_said_of_hidden_pixels_is_learned_from():
    model, x = build(), pictures(3)
    said, m = [], model.masks(3, 0)
    model.decoder.register_forward_hook(lambda _, __, out: (out.retain_grad(), said.append(out))[0])
    model(x, 0)[0].backward()
    assert torch.equal(said[0].grad != 0, m.expand(3, *SHAPE))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_two_processes_equal_one():
    model, x = build(), pictures(6)
    whole, _ = model.loss(x, 3)
    model.world, parts = 2, []
    for model.rank in (0, 1):
        parts.append(model.loss(x[3 * model.rank : 3 * model.rank + 3], 3)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("value", [0.0, 0.95])
def test_shares_that_hide_nothing_or_nearly_all_are_refused(value):
    with pytest.raises(UsageError, match="hide = .* is impossible; allowed: above 0 and at most 0.9"):
        Config(hide=value)


# ---------------------------------------------------------------- completing


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.02, 0.98), each=st.booleans(), seed=st.integers(0, 99))
def test_what_is_observed_stays_as_it_is_whatever_its_shape(share, each, seed):
    model, x = COMPLETING, pictures(3, seed)
    observed = some(3, 9, 12, seed=seed) < share if each else some(9, 12, seed=seed) < share
    observed[..., 0, 0] = True
    pixels = (x.float() / 255).double()
    for given_ in (x, pixels):
        done = model.complete(given_, observed)
        seen = observed.expand(3, 9, 12)[:, None].expand_as(done)
        assert torch.equal(done[seen], pixels[seen]) and done.min() >= 0 and done.max() <= 1
        guess = model.unit(model.restored(model.normalised(x), ~seen[:, :1])).detach()
        torch.testing.assert_close(done[~seen], guess[~seen])


COMPLETING = build()


def test_completing_wants_something_to_go_by():
    model, x = build(), pictures(2)
    assert torch.equal(model.complete(x, torch.ones(9, 12, dtype=torch.bool)), (x.float() / 255).double())
    with pytest.raises(UsageError, match="nothing is observed of picture 0; allowed: at least one pixel"):
        model.complete(x, torch.zeros(9, 12, dtype=torch.bool))
    with pytest.raises(InputError, match=r"observed is bool \(12, 9\); allowed: bool \(9, 12\)"):
        model.complete(x, torch.ones(12, 9, dtype=torch.bool))
    with pytest.raises(InputError, match="x holds 2; allowed"):
        model.complete(x.double() * 0 + 2, torch.ones(9, 12, dtype=torch.bool))


def test_a_reconstruction_is_a_completion_of_the_hidden_part():
    model, x = build(), pictures(3)
    seen = model.reconstruct(x, 4)
    assert torch.equal(seen.hidden, model.masks(3, 4)) and (seen.shown[seen.hidden.expand_as(x)] == 0.5).all()
    torch.testing.assert_close(model.complete(x, ~seen.hidden[:, 0]), seen.guess)


# ---------------------------------------------------------------- learning


def learned(x: torch.Tensor, steps: int) -> float:
    """The share that is recovered of pictures, after training on them."""
    config = Config(width=8, batch_size=64, learning_rate=0.01, warmup=5)
    method = Method(config, load((x.numpy() * 255).astype(np.uint8)), 0, Hardware(torch.device("cpu"), "fp32"), steps)
    for _, batch in zip(range(steps), method.batches(0, 0, 1)):
        method.update(batch)
    return method.evaluate(method.data, "valid")["recovered"].mean


def test_what_the_rest_tells_is_recovered_and_what_it_does_not_tell_is_not():
    """Pictures of one grey and one slope each; and pictures of noise, of which the mean is the best guess."""
    level, slope = some(600, 1, 1), some(600, 1, 1, seed=1) - 0.5
    plain = (level * 0.5 + 0.25 + 0.05 * slope * (torch.arange(6) - 2.5)).expand(600, 6, 6)
    assert learned(plain, 80) > 0.7
    assert -0.3 < learned(some(600, 6, 6, seed=2), 40) < 0.05
