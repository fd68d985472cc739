"""BYOL: its loss, where gradients stop, when the teacher moves, and that nothing collapses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect
from ptheta.selfsup import simclr
from ptheta.selfsup.byol import BYOL, Config, Method, distance, slowness

ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "auto"}


def build(**changes) -> BYOL:
    return BYOL([1, 8, 8], **{"data": "digits", "hidden": 12, "project": 6, **ENCODER, **changes})


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


def learner(steps: int = 40, Method=Method, Config=Config, **changes):
    data = load("digits")
    chosen = {"learning_rate": 0.01, "warmup": 0, "width": 8, "batch_size": 64, **changes}
    return Method(Config(**chosen), data, 0, detect("cpu", "fp32", 1), steps), data


def tensors(module) -> list[torch.Tensor]:
    return [t.clone() for t in module.parameters()]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- the equations


@settings(deadline=None, max_examples=25)
@given(b=st.integers(1, 4), d=st.integers(1, 5), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**30))
def test_the_distance_is_that_of_points_on_the_sphere(b, d, scale, seed):
    p, z = some(b, d, seed=seed), some(b, d, seed=seed + 1)
    loss = distance(p, z)
    for i in range(b):
        cosine = (p[i] @ z[i]) / math.sqrt((p[i] @ p[i]) * (z[i] @ z[i]))
        unit = p[i] / p[i].norm() - z[i] / z[i].norm()
        assert loss[i].item() == pytest.approx(2 - 2 * cosine.item(), abs=1e-9)
        assert loss[i].item() == pytest.approx((unit @ unit).item(), abs=1e-9)
    torch.testing.assert_close(distance(scale * p, z), loss)  # the length of either side says nothing
    torch.testing.assert_close(distance(p, scale * z), loss)
    torch.testing.assert_close(distance(p, p), torch.zeros(b).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(distance(p, -p), torch.full((b,), 4.0).double(), rtol=0, atol=1e-9)


def test_the_gradient_is_the_closed_form_and_stops_at_the_target():
    p, z = some(3, 5).requires_grad_(), some(3, 5, seed=1).requires_grad_()
    distance(p, z).sum().backward()
    unit, target = (t.detach() / t.detach().norm(dim=1, keepdim=True) for t in (p, z))
    cosine = (unit * target).sum(1, keepdim=True)
    torch.testing.assert_close(p.grad, -2 * (target - cosine * unit) / p.detach().norm(dim=1, keepdim=True))
    assert z.grad is None


def by_hand(model: BYOL, x: torch.Tensor, step: int) -> torch.Tensor:
    """Eq. (2) picture by picture, the teacher's words as numbers."""
    v, v2 = model.view(x, step, "first view"), model.view(x, step, "second view")
    p, p2 = (model.predictor(model.head(model.encoder(u))) for u in (v, v2))
    with torch.no_grad():
        z, z2 = (model.teacher[1](model.teacher[0](u)).clone() for u in (v, v2))

    def cosine(a, b):
        return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())

    return torch.stack([4 - 2 * cosine(p[i], z2[i]) - 2 * cosine(p2[i], z[i]) for i in range(len(x))])


def test_loss_and_gradient_are_those_of_the_naive_computation():
    """Both views predict and both are targets; training mode, where batch norms see the batch."""
    model, x = build().train(), pictures(6)
    for p in model.teacher.parameters():  # a teacher unlike the student, so that it matters who says what
        p.data += 0.1 * torch.randn(p.shape, generator=generator(0, 0, "moved"))
    loss, _ = model.loss(x, 3)
    loss.mean().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    want = by_hand(model, x, 3)
    want.mean().backward()
    torch.testing.assert_close(loss, want)
    assert loss.min() > 0 and loss.max() < 8 and loss.std() > 0.01
    for name, p in model.named_parameters():
        if name.startswith("teacher."):
            assert p.grad is None
        elif p.requires_grad:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-6)
            assert p.grad.abs().max() > 1e-6, name


def test_a_bias_before_the_predictor_would_change_nothing():
    model, v = build().train(), build().view(pictures(6), 0, "first view")
    p = model.predictor(model.head(model.encoder(v)))
    assert model.head.b is None
    model.head.b = torch.nn.Parameter(some(6).float())
    torch.testing.assert_close(model.predictor(model.head(model.encoder(v))), p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"cells": 2}, {"encoder": "vit", "width": 32}])
def test_the_teacher_begins_as_a_frozen_copy(changes):
    model = build(**changes).eval()
    v = model.view(pictures(5), 0, "first view")
    torch.testing.assert_close(model.target(v), model.head(model.features(v)))
    mine = {p.data_ptr() for p in model.student.parameters()}
    assert mine.isdisjoint({p.data_ptr() for p in model.teacher.parameters()})
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not model.target(v).requires_grad


# ---------------------------------------------------------------- the teacher


def test_the_teacher_moves_once_an_update_and_after_the_step():
    method, _ = learner(steps=8, momentum=0.5)
    model, batches = method.model, method.batches(0, 0, 1)
    for step in range(3):
        before = tensors(model.teacher)
        method.update(next(batches))
        m = slowness(0.5, step, 8)
        for old, new, theta in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
            torch.testing.assert_close(new, m * old + (1 - m) * theta.detach())
        assert not equal(before, model.teacher.parameters())


def test_gradients_of_several_batches_leave_the_teacher_alone():
    model = build().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before, student = tensors(model.teacher), tensors(model.student)
    for i in range(3):
        model(pictures(6, i), 0)[0].backward()
    optimizer.step()
    assert equal(before, model.teacher.parameters()) and not equal(student, model.student.parameters())
    model.after_update(0, 10)
    assert not equal(before, model.teacher.parameters())


def test_an_encoder_from_elsewhere_is_the_teachers_too():
    method, _ = learner()
    other, _ = learner(Method=simclr.Method, Config=simclr.Config)
    method.start_from(other.model)
    assert equal(method.model.encoder.state_dict().values(), other.model.encoder.state_dict().values())
    assert equal(method.model.teacher.state_dict().values(), method.model.student.state_dict().values())
    trained, _ = learner()
    trained.update(next(trained.batches(0, 0, 1)))
    method.start_from(trained.model)
    assert equal(method.model.state_dict().values(), trained.model.state_dict().values())
    assert not equal(method.model.teacher.parameters(), method.model.student.parameters())


# ---------------------------------------------------------------- many processes, held-out pictures, errors


def test_processes_compute_parts_of_what_one_would():
    model, x = build().eval(), pictures(8)
    whole, parts = model.loss(x, 5)[0], []
    model.world = 2
    for model.rank in (0, 1):
        parts.append(model.loss(x[4 * model.rank : 4 * model.rank + 4], 5)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_held_out_loss_changes_nothing_and_takes_one_picture():
    model = build().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        loss, figures = model(pictures(1), 2**40)
    assert torch.isfinite(loss) and figures["alike"].item() == pytest.approx(1 - loss.item() / 4)
    assert equal(before.values(), model.state_dict().values())


def test_a_batch_of_one_is_refused():
    with pytest.raises(UsageError, match="byol .* got 1; raise --batch-size"):
        build().train().loss(pictures(1), 0)


@pytest.mark.parametrize("field", [{"momentum": 1.5}, {"momentum": -0.1}, {"hidden": 0}, {"project": 0}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name}"):
        Config(**field)


# ---------------------------------------------------------------- training


def test_updates_lower_the_loss_and_collapse_nothing():
    """First p is the mean of all targets, then it depends on the picture, though nothing pushes pictures apart."""
    method, data = learner(steps=150, learning_rate=5e-3, momentum=0.9, hidden=64, project=32)
    before, batches, x = method.evaluate(data, "valid"), method.batches(0, 0, 1), data.split("valid")

    def cosines() -> tuple[float, float]:
        model = method.model.eval()
        with torch.no_grad():
            v, v2 = (model.view(x, 0, s) for s in ("a", "b"))
            p, z = model.predictor(model.head(model.features(v))), model.target(v2)
            return tuple((1 - distance(p, target) / 2).mean().item() for target in (z, z.roll(1, 0)))

    for count in (30, 120):
        for _, batch in zip(range(count), batches):
            method.update(batch)
        after = method.evaluate(data, "valid")
        assert after["loss"].mean < before["loss"].mean - 1
        assert after["rank_me"].mean > before["rank_me"].mean and after["spread"].mean > before["spread"].mean
    own, others = cosines()
    assert own > others + 0.3 and after["knn"].mean > before["knn"].mean + 0.05
