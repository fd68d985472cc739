"""MoCo: eq. (1) by hand, the queue, when the teacher moves, and that no key depends on its neighbours."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect
from ptheta.selfsup import moco, simclr
from ptheta.selfsup.moco import Config, Method, MoCo, info_nce, need_whole, scores

ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "auto"}


def build(**changes) -> MoCo:
    return MoCo([1, 8, 8], **{"data": "digits", "queue": 24, "hidden": 12, "project": 6, **ENCODER, **changes})


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


def learner(Method=Method, Config=Config, **changes):
    data = load("digits")
    chosen = {"learning_rate": 0.01, "warmup": 0, "width": 8, "batch_size": 64, **changes}
    return Method(Config(**chosen), data, 0, detect("cpu", "fp32", 1), 60), data


def copies(tensors) -> list[torch.Tensor]:
    return [t.detach().clone() for t in tensors]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- the loss


@settings(deadline=None, max_examples=25)
@given(b=st.integers(1, 4), K=st.integers(1, 6), tau=st.floats(0.05, 5), seed=st.integers(0, 2**30))
def test_the_loss_and_its_gradient_are_those_of_the_naive_sum(b, K, tau, seed):
    q, k, queue = (some(n, 3, seed=seed + i).requires_grad_() for i, n in enumerate((b, b, K)))
    loss = info_nce(scores(q, k, queue, tau))
    loss.sum().backward()
    for i in range(b):
        mine = q[i].detach().requires_grad_()
        own = ((mine * k[i]).sum() / tau).exp()
        total = own + sum(((mine * queue[j]).sum() / tau).exp() for j in range(K))
        want = -(own / total).log()
        (gradient,) = torch.autograd.grad(want, mine)
        assert loss[i].item() == pytest.approx(want.item(), rel=1e-9, abs=1e-9)
        torch.testing.assert_close(q.grad[i], gradient, rtol=1e-8, atol=1e-8)
    assert k.grad is None and queue.grad is None, "keys are constants"


@pytest.mark.parametrize("K", [1, 7, 100])
def test_where_all_keys_are_alike_the_loss_is_the_logarithm_of_their_number(K):
    u = torch.full((5, 4), 0.5)
    torch.testing.assert_close(info_nce(scores(u, u, u[:1].expand(K, 4), 0.2)), torch.full((5,), math.log(K + 1)))


def test_a_collapsed_model_loses_the_logarithm_too():
    model = build().train()
    for head in (model.head, model.teacher[1]):
        head.W[-1].data.zero_()
        head.b.data.copy_(torch.arange(6.0))
    model.queue.copy_(model.keys(model.view(pictures(1), 0, "any")).expand_as(model.queue))
    loss, figures = model.loss(pictures(5), 0)
    torch.testing.assert_close(loss, torch.full((5,), math.log(25)))
    assert figures["alike"].item() == pytest.approx(1)


def test_loss_and_gradient_of_the_model_are_those_of_the_naive_computation():
    model, x = build().train(), pictures(6)
    for p in model.teacher.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator(0, 0, "moved"))
    loss, _ = model.loss(x, 3)
    loss.mean().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    q = model.head(model.encoder(model.view(x, 3, "first view")))
    with torch.no_grad():
        k = model.teacher[1](model.teacher[0](model.view(x, 3, "second view")))
    want = []
    for i in range(6):
        unit, own = q[i] / q[i].norm(), k[i] / k[i].norm()
        e = torch.stack([unit @ own, *(unit @ other for other in model.queue)]) / 0.2
        want.append(e.exp().sum().log() - e[0])
    torch.testing.assert_close(loss, torch.stack(want))
    torch.stack(want).mean().backward()
    for name, p in model.named_parameters():
        if name.startswith("teacher."):
            assert p.grad is None and not p.requires_grad
        else:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-6)
            assert p.grad.abs().max() > 1e-6, name


# ---------------------------------------------------------------- the teacher


@pytest.mark.parametrize("changes", [{}, {"cells": 2}, {"encoder": "vit", "width": 32}])
def test_the_teacher_begins_as_a_copy(changes):
    model = build(**changes).eval()
    v = model.view(pictures(5), 0, "first view")
    u = model.head(model.features(v))
    torch.testing.assert_close(model.keys(v), u / u.norm(dim=1, keepdim=True))
    mine = {t.data_ptr() for t in model.student.state_dict().values()}
    assert mine.isdisjoint({t.data_ptr() for t in model.teacher.state_dict().values()})


def test_a_key_depends_on_its_own_picture_alone():
    """A query in training sees its batch; were keys to see it too, the two could know each other by that."""
    model = build().train()
    v = model.view(pictures(8), 0, "first view")
    torch.testing.assert_close(model.keys(v)[:3], model.keys(v[:3]))
    u, part = model.head(model.encoder(v))[:3], model.head(model.encoder(v[:3]))
    assert (u - part).abs().max() > 0.1
    assert model.training and not any(m.training for m in model.teacher.modules())


def test_the_teacher_moves_before_the_keys_are_made_and_never_else(monkeypatch):
    method, _ = learner(momentum=0.75, queue=128, hidden=16, project=8)
    model, batches, seen = method.model, method.batches(0, 0, 1), []
    keys = model.keys
    monkeypatch.setattr(model, "keys", lambda v: (seen.append(copies(model.teacher.state_dict().values())), keys(v))[1])
    method.update(next(batches))
    for _ in range(2):
        teacher = copies(model.teacher.state_dict().values())
        student = copies(model.student.state_dict().values())
        method.update(next(batches))
        for old, new, theta in zip(teacher, seen[-1], student, strict=True):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * theta)
        assert not equal(teacher, seen[-1])
        assert equal(seen[-1], model.teacher.state_dict().values()), "nothing after the keys"
    assert len(seen) == 3


def test_gradients_of_several_batches_leave_the_teacher_alone():
    model = build().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before, student = copies(model.teacher.state_dict().values()), copies(model.student.parameters())
    for i in range(3):
        model(pictures(6, i), 0)[0].backward()
    optimizer.step()
    assert equal(before, model.teacher.state_dict().values()) and not equal(student, model.student.parameters())
    model.before_update(1, 10)
    assert not equal(before, model.teacher.state_dict().values())


# ---------------------------------------------------------------- the queue


def test_the_queue_takes_the_keys_of_an_update_once_and_lets_go_of_the_oldest():
    model = build(queue=12).train()
    start, history = model.queue.clone(), []
    for step in range(7):
        for x in (pictures(4, 99), pictures(4, step)):  # the last loss before the step counts, once
            model.loss(x, step)
        assert torch.equal(model.queue, start if not history else torch.cat(expected)), "not before the step"
        history.append(model.keys(model.view(pictures(4, step), step, "second view")))
        model.after_update(step, 10)
        slots = [start[:4], start[4:8], start[8:]]
        for i, keys in enumerate(history):
            slots[i % 3] = keys
        expected = slots
        assert torch.equal(model.queue, torch.cat(expected)) and model.pointer.item() == 4 * (step + 1) % 12
    torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(12))


def test_a_new_run_begins_with_keys_of_training_pictures():
    method, data = learner(queue=192, hidden=16, project=8)
    model = method.model
    rows = [b for _, b in zip(range(3), method.batches(0, 0, 1))]
    want = torch.cat([model.keys(model.view(b, i, "first keys")) for i, b in enumerate(rows)])
    assert torch.equal(model.queue, want) and model.pointer.item() == 0
    loss = method.evaluate(data, "valid")["loss"].mean
    assert math.log(193) - 1 < loss < math.log(193), "an untrained encoder hardly tells keys apart"


@pytest.mark.parametrize(
    ("queue", "batch", "near"),
    [(100, 64, "64 or 128"), (63, 64, "64"), (4096, 100, "4000 or 4100"), (65, 64, "64 or 128")],
)
def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(queue, batch, near):
    message = (
        f"queue = {queue} is no multiple of the {batch} pictures .*allowed: {batch}, {2 * batch}, .*nearest {near} "
    )
    with pytest.raises(UsageError, match=message) as error:
        need_whole(queue, batch)
    assert "\n" not in str(error.value)
    for k in map(int, near.split(" or ")):
        need_whole(k, batch)


def test_the_multiple_is_of_the_pictures_of_all_processes_and_of_the_set(monkeypatch):
    with pytest.raises(UsageError, match="queue = 4096 is no multiple of the 1257 pictures"):
        learner(batch_size=2000, queue=4096)
    with pytest.raises(UsageError, match="queue = 32 is no multiple of the 64 pictures .*nearest 64"):
        learner(queue=32)
    model = build(queue=12).train()
    model.world = 2
    monkeypatch.setattr(moco, "gathered_without_gradient", lambda u, world: torch.cat([u] * world))
    model.loss(pictures(4), 0)
    with pytest.raises(UsageError, match="queue = 12 is no multiple of the 8 pictures"):
        model.after_update(0, 10)


# ---------------------------------------------------------------- processes, held-out pictures, other encoders


def test_two_processes_lose_what_one_would_and_keep_the_same_queue(monkeypatch):
    """In eval mode, since batch norms of one process see half of the batch here; see test_contract_processes.py."""
    x, parts, fresh = pictures(8), [], []
    one = build(queue=16).eval()
    whole = one.loss(x, 5)[0]
    one.enqueue(one.keys(one.view(x, 5, "second view")))
    models = [build(queue=16).eval() for _ in range(2)]
    for rank, model in enumerate(models):
        model.rank, model.world = rank, 2
        half = x[4 * rank : 4 * rank + 4]
        parts.append(model.loss(half, 5)[0])
        fresh.append(model.keys(model.view(half, 5, "second view")))
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close((parts[0].mean() + parts[1].mean()) / 2, whole.mean())

    def gathered(u, world):
        assert world == 2 and any(u is mine for mine in fresh)
        return torch.cat(fresh)

    monkeypatch.setattr(moco, "gathered_without_gradient", gathered)
    for model, mine in zip(models, fresh):
        model.enqueue(mine)
        torch.testing.assert_close(model.queue, one.queue)
        assert model.pointer.item() == one.pointer.item() == 8


def test_a_held_out_loss_changes_nothing_and_takes_one_picture():
    model = build().eval()
    before = copies(model.state_dict().values())
    with torch.no_grad():
        assert torch.isfinite(model(pictures(1), 2**40)[0])
    assert equal(before, model.state_dict().values()) and model.fresh is None


def test_an_encoder_from_elsewhere_is_the_teachers_too_and_fills_the_queue():
    chosen = {"queue": 128, "hidden": 16, "project": 8}
    method, _ = learner(**chosen)
    other, _ = learner(Method=simclr.Method, Config=simclr.Config)
    before = method.model.queue.clone()
    method.start_from(other.model)
    assert equal(method.model.encoder.state_dict().values(), other.model.encoder.state_dict().values())
    assert equal(method.model.teacher.state_dict().values(), method.model.student.state_dict().values())
    first = method.model.keys(method.model.view(next(method.batches(0, 0, 1)), 0, "first keys"))
    assert torch.equal(method.model.queue[:64], first) and not torch.equal(method.model.queue, before)
    trained, _ = learner(**chosen)
    trained.update(next(trained.batches(0, 0, 1)))
    method.start_from(trained.model)
    assert equal(method.model.state_dict().values(), trained.model.state_dict().values())


def test_a_batch_of_one_is_refused():
    with pytest.raises(UsageError, match="moco .* got 1; raise --batch-size"):
        build().train().loss(pictures(1), 0)


@pytest.mark.parametrize("field", [{"temperature": 0.0}, {"momentum": 1.5}, {"queue": 0}, {"hidden": 0}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name}"):
        Config(**field)


# ---------------------------------------------------------------- training


def test_updates_lower_the_loss_and_collapse_nothing():
    method, data = learner(queue=512)
    before = method.evaluate(data, "valid")
    batches = method.batches(0, 0, 1)
    for count in (30, 30):
        for _, batch in zip(range(count), batches):
            method.update(batch)
        after = method.evaluate(data, "valid")
        assert after["loss"].mean < before["loss"].mean - 0.5
        assert after["rank_me"].mean > before["rank_me"].mean and after["spread"].mean > before["spread"].mean
    assert after["knn"].mean > 0.8
