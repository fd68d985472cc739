"""Denoising: the noise that is put in and its levels, the loss, and what is taken away again."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.denoise import Config, DenoisingAutoencoder, Method, spoilt

SHAPE = (3, 9, 12)
ENCODERS = {
    "resnet": {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none"},
    "vit": {"encoder": "vit", "width": 8, "depth": 1, "patch": 3, "cells": 1, "views": "none"},
}


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "denoise"), dtype=torch.float64)


def pictures(b: int, seed: int = 0, shape=SHAPE) -> torch.Tensor:
    return (some(b, *shape, seed=seed) * 255).to(torch.uint8)


def build(gaussian: float = 1.0, masking: float = 0.5, shape=SHAPE, encoder: str = "resnet") -> DenoisingAutoencoder:
    """A model in eval mode with weights that are not small."""
    model = DenoisingAutoencoder(shape, 0, "", gaussian, masking, **ENCODERS[encoder]).double()
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * torch.randn(p.shape, generator=generator(1, i, "more"), dtype=torch.float64)
    model.start_at(*(torch.linspace(low, low + 0.1, shape[0]) for low in (0.4, 0.25)))
    return model.eval()


# ---------------------------------------------------------------- eq. (1)


def test_a_number_is_spoilt_as_the_equation_says():
    x, epsilon, u = some(2, *SHAPE), some(2, *SHAPE, seed=1) - 0.5, some(2, 1, 9, 12, seed=2)
    sigma, nu = torch.tensor([0.3, 0.8], dtype=torch.float64), torch.tensor([0.6, 0.1], dtype=torch.float64)
    found = spoilt(x, sigma, nu, epsilon, u)
    for n, c, i, j in np.ndindex(2, *SHAPE):
        lost = u[n, 0, i, j] < nu[n]
        want = 0.0 if lost else x[n, c, i, j] + sigma[n] * epsilon[n, c, i, j]
        assert found[n, c, i, j] == want
    none = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(spoilt(x, none, none, epsilon, u), x)


def test_each_picture_has_its_own_level_of_gaussian_noise():
    """Its deviation is uniform up to the greatest, and its entries are normal."""
    model = build(gaussian=2.0, masking=0.0, shape=(1, 40, 50))
    x = pictures(400, shape=(1, 40, 50))
    noise = model.spoil(model.normalised(x), 3) - model.normalised(x)
    sigma = noise.flatten(1).std(1)
    assert kstest(sigma.numpy() / 2.0, "uniform").pvalue > 1e-3
    assert kstest((noise[0] / sigma[0]).flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(noise[:2].flatten(1))[0, 1]) < 5 / math.sqrt(2000)


def test_each_picture_loses_its_own_share_of_pixels_with_all_their_channels():
    model, x = build(gaussian=0.0, masking=0.8, shape=(3, 40, 50)), pictures(300, shape=(3, 40, 50))
    v = model.normalised(x)
    seen = model.spoil(v, 0)
    lost = (seen == 0).all(1)
    assert torch.equal(torch.where(lost[:, None], 0, v), seen)
    share = lost.flatten(1).double().mean(1)
    assert kstest(share.numpy() / 0.8, "uniform").pvalue > 1e-3
    assert torch.equal(seen[:4], model.spoil(v, 0)[:4]) and not torch.equal(seen, model.spoil(v, 1))


def test_spoiling_nothing_is_refused():
    with pytest.raises(UsageError, match="gaussian = 0 and masking = 0 spoil nothing; allowed: one of them above 0"):
        build(gaussian=0.0, masking=0.0)
    for field, value in (("gaussian", -0.1), ("gaussian", 11.0), ("masking", -0.1), ("masking", 1.0)):
        with pytest.raises(UsageError, match=f"{field} = .* is impossible; allowed: at least 0"):
            Config(**{field: value})


# ---------------------------------------------------------------- eq. (2)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_compares_with_the_clean_picture(encoder):
    model, x = build(encoder=encoder), pictures(4)
    v = model.normalised(x)
    with torch.no_grad():
        said = model.decoder(model.encoder.map(model.spoil(v, 7)))
        want = [sum(((a - b) ** 2).item() for a, b in zip(said[n].flatten(), v[n].flatten())) / 324 for n in range(4)]
        found, _ = model.loss(x, 7)
    torch.testing.assert_close(found, torch.tensor(want, dtype=torch.float64))
    torch.testing.assert_close(model(x, 7)[0], found.mean())
    model(x, 7)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_two_processes_equal_one():
    model, x = build(), pictures(6)
    whole, _ = model.loss(x, 3)
    model.world, parts = 2, []
    for model.rank in (0, 1):
        parts.append(model.loss(x[3 * model.rank : 3 * model.rank + 3], 3)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


# ---------------------------------------------------------------- for users


def test_what_is_observed_stays_and_the_rest_is_what_the_model_says_of_lost_pixels():
    model, x = build(), pictures(5)
    pixels = (x.float() / 255).double()
    observed = some(5, 9, 12, seed=3) < 0.6
    for given in (x, pixels):
        done, seen = model.complete(given, observed), observed[:, None].expand(5, *SHAPE)
        assert torch.equal(done[seen], pixels[seen]) and done.min() >= 0 and done.max() <= 1
        v = spoilt(
            model.normalised(x),
            torch.zeros(5).double(),
            torch.full((5,), 0.5).double(),
            pixels,
            observed[:, None] * 1.0,
        )
        torch.testing.assert_close(done[~seen], model.unit(model.restored(v)).detach()[~seen])
    other = torch.where(observed[:, None], x, 255 - x)
    assert torch.equal(model.complete(other, observed), model.complete(x, observed)), "hidden pixels were seen"
    with pytest.raises(UsageError, match=r"never saw lost pixels \(masking = 0\); train one with --masking"):
        build(masking=0.0).complete(x, observed)
    with pytest.raises(UsageError, match="nothing is observed of picture 0"):
        model.complete(x, observed & False)
    with pytest.raises(InputError, match=r"allowed: bool \(9, 12\) or \(5, 9, 12\)"):
        model.complete(x, observed[:2])


def test_denoising_is_the_network_on_what_was_given():
    model, x = build(), pictures(3)
    want = model.unit(model.decoder(model.encoder.map(model.normalised(x)))).detach()
    torch.testing.assert_close(model.denoise(x), want)
    torch.testing.assert_close(model.denoise((x.float() / 255).double()), want)
    with pytest.raises(InputError, match="x has shape"):
        model.denoise(x[:, :1])


def test_a_reconstruction_is_measured_against_the_spoilt_picture():
    data = load(pictures(60, shape=(1, 8, 8)).numpy()[:, 0])
    method = Method(Config(width=4, batch_size=16), data, 0, Hardware(torch.device("cpu"), "fp32"), 1)
    x = data.split("train")
    seen = method.still().reconstruct(x, 2**40)
    assert seen.hidden.all() and torch.equal(seen.x, x.float() / 255)
    spoilt = method.model.unit(method.model.spoil(method.model.normalised(x), 2**40))
    assert torch.equal(seen.shown, spoilt) and torch.equal(method.untaught(seen), spoilt)
    ratio = (seen.guess - seen.x).square().sum() / (spoilt - seen.x).square().sum()
    assert method.evaluate(data, "train")["recovered"].mean == pytest.approx(1 - ratio.item(), abs=1e-5)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("noise", [{"masking": 0.0}, {"gaussian": 0.0}])
def test_noise_is_taken_away(noise):
    """Of pictures of one grey each, whose noise is told by its mean over the picture."""
    x = (some(600, 1, 1) * 0.6 + 0.2).expand(600, 6, 6)
    config = Config(width=8, batch_size=64, learning_rate=0.01, warmup=5, **noise)
    data, hardware = load((x.numpy() * 255).astype(np.uint8)), Hardware(torch.device("cpu"), "fp32")
    method = Method(config, data, 0, hardware, 80)
    before = method.evaluate(data, "valid")["recovered"].mean
    for _, batch in zip(range(80), method.batches(0, 0, 1)):
        method.update(batch)
    after = method.evaluate(data, "valid")["recovered"].mean
    assert before < 0.1 and after > 0.6
