"""DINO: eqs. (1) to (5) by hand, views of two sizes, frozen prototypes, and that neither collapse comes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect
from ptheta.selfsup import dino, simclr
from ptheta.selfsup.dino import DINO, Config, Method, agreement, slowness, targets

ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "auto"}
SMALL = {"hidden": 12, "prototypes": 10, "local_views": 2, "frozen": 0}


def build(shape=(1, 8, 8), **changes) -> DINO:
    return DINO(list(shape), **{"data": "digits", **SMALL, **ENCODER, **changes})


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


def pictures(n: int, shape=(1, 8, 8), seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


def learner(steps: int = 40, Method=Method, Config=Config, **changes):
    data = load("digits")
    chosen = {"learning_rate": 0.01, "warmup": 0, "width": 8, "batch_size": 64, **changes}
    return Method(Config(**chosen), data, 0, detect("cpu", "fp32", 1), steps), data


def copies(tensors) -> list[torch.Tensor]:
    return [t.detach().clone() for t in tensors]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- the loss


@settings(deadline=None, max_examples=20)
@given(
    g=st.integers(1, 2), small=st.integers(0, 2), b=st.integers(1, 3), K=st.integers(2, 4),
    hot=st.floats(0.1, 1), cold=st.floats(0.04, 0.5), seed=st.integers(0, 2**30),
)  # fmt: skip
def test_the_loss_and_its_gradient_are_those_of_the_naive_sum(g, small, b, K, hot, cold, seed):
    v = g + small + (g == 1 and small == 0)
    t, s, c = some(g, b, K, seed=seed).requires_grad_(), some(v, b, K, seed=seed + 1).requires_grad_(), some(K)
    loss = agreement(targets(t, c, cold), s, hot)
    loss.sum().backward()
    mine, want = s.detach().requires_grad_(), []
    for n in range(b):
        terms = []
        for i in range(g):
            P = ((t[i, n].detach() - c) / cold).exp()
            P = P / P.sum()
            for j in range(v):
                if i != j:
                    e = (mine[j, n] / hot).exp()
                    terms.append(-sum(P[k] * (e[k] / e.sum()).log() for k in range(K)))
        assert len(terms) == g * (v - 1)
        want.append(sum(terms) / len(terms))
    torch.testing.assert_close(loss, torch.stack(want), rtol=1e-8, atol=1e-8)
    torch.stack(want).sum().backward()
    torch.testing.assert_close(s.grad, mine.grad, rtol=1e-7, atol=1e-7)
    assert t.grad is None, "the teacher is taken for a constant"


@pytest.mark.parametrize("K", [2, 10, 1024])
def test_where_all_classes_are_alike_the_loss_is_the_logarithm_of_their_number(K):
    P = targets(torch.zeros(2, 3, K), torch.zeros(K), 0.04)
    torch.testing.assert_close(agreement(P, torch.zeros(5, 3, K), 0.1), torch.full((3,), math.log(K)))


def test_the_other_collapse_costs_nothing_unless_it_is_centred():
    one = torch.zeros(2, 4, 10)
    one[..., 3] = 1
    assert agreement(targets(one, torch.zeros(10), 0.04), one, 0.04).max() < 1e-6
    centred = targets(one, one.mean((0, 1)), 0.04)
    torch.testing.assert_close(centred, torch.full_like(one, 0.1))
    assert agreement(centred, one, 0.04).min() > math.log(10)


def test_a_small_temperature_sharpens_what_the_centre_leaves():
    t, c = some(3, 6), some(6)
    warm, cold = targets(t, c, 0.5), targets(t, c, 0.05)
    assert torch.equal(warm.argmax(-1), (t - c).argmax(-1)) and (cold.amax(-1) > warm.amax(-1)).all()
    torch.testing.assert_close(targets(t + 1.5 * c, c * 2.5, 0.5), warm)


def by_hand(model: DINO, x: torch.Tensor, step: int) -> torch.Tensor:
    """Eqs. (1) to (3), view by view; the statistics of batch norms are those of all large, and of all small, views."""
    b, K = len(x), model.head.w.shape[0]

    def read(views, net, head) -> list[torch.Tensor]:
        z = net(torch.cat(views))
        for W, bias in list(zip(head.W, head.b))[:2]:
            z = torch.nn.functional.gelu(z @ W.t() + bias)
        h = z @ head.W[2].t() + head.b[2]
        s = [(h @ w) / (h.norm(dim=1) * w.norm()) for w in head.w]
        return list(torch.stack(s, 1).split(b))

    large = [model.view(x, step, f"large view {i}", views=model.large) for i in range(2)]
    small = [model.view(x, step, f"small view {i}", model.side, model.small) for i in range(model.local_views)]
    s = read(large, model.encoder, model.head) + (read(small, model.encoder, model.head) if small else [])
    with torch.no_grad():
        t = read(large, *model.teacher)
    want = torch.zeros(b)
    for i in range(2):
        P = ((t[i] - model.centre) / model.heat(step)).softmax(1)
        for j in range(len(s)):
            if i != j:
                want = want - (P * (s[j] / model.temperature).log_softmax(1)).sum(1)
    assert len(s) == 2 + model.local_views and s[0].shape == (b, K)
    return want / (2 * (len(s) - 1))


@pytest.mark.parametrize("local_views", [0, 3])
def test_loss_and_gradient_of_the_model_are_those_of_the_naive_computation(local_views):
    model, x = build(local_views=local_views, temperature=0.3).train(), pictures(5)
    model.centre.copy_(0.1 * some(10))
    for p in model.teacher.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator(0, 0, "moved"))
    loss, _ = model.loss(x, 400)
    loss.mean().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    want = by_hand(model, x, 400)
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)
    want.mean().backward()
    for name, p in model.named_parameters():
        if name.startswith("teacher."):
            assert p.grad is None and not p.requires_grad
        else:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-3, atol=1e-5)
            assert p.grad.abs().max() > 1e-6, name


def test_neither_the_length_of_a_prototype_nor_that_of_the_last_layer_counts():
    head, z = build().head.double(), some(7, 16)
    s = head(z)
    assert s.abs().max() <= 1
    head.w.data *= torch.arange(1, 11)[:, None]
    head.W[2].data *= 3
    torch.testing.assert_close(head(z), s)


# ---------------------------------------------------------------- views


@pytest.mark.parametrize(
    ("shape", "changes", "sides"),
    [((1, 8, 8), {}, (4, 4)), ((1, 28, 28), {}, (14, 14)), ((3, 9, 9), {}, (4, 4)), ((1, 6, 6), {}, (6, 6)),
     ((1, 8, 8), {"cells": 2}, (8, 8)), ((1, 28, 28), {"cells": 2}, (14, 14)), ((1, 28, 28), {"cells": 4}, (28, 28)),
     ((1, 8, 8), {"encoder": "vit", "width": 32}, (8, 8)),
     ((3, 8, 12), {}, (8, 12))],
)  # fmt: skip
def test_small_views_are_half_as_large_where_the_encoder_takes_any_size(shape, changes, sides, monkeypatch):
    model, drawn = build(shape, **changes).train(), {}
    view = model.view

    def noted(x, step, stream, size=None, views=None):
        drawn[stream] = (views, view(x, step, stream, size, views))
        return drawn[stream][1]

    monkeypatch.setattr(model, "view", noted)
    loss, _ = model.loss(pictures(4, shape), 0)
    assert torch.isfinite(loss).all()
    assert set(drawn) == {"large view 0", "large view 1", "small view 0", "small view 1"}
    for stream, (preset, made) in drawn.items():
        large = stream.startswith("large")
        assert tuple(made.shape[2:]) == (shape[1:] if large else sides)
        assert preset.crop == ((0.45, 1.0) if large else (0.2, 0.4))
    assert not torch.equal(drawn["large view 0"][1], drawn["large view 1"][1])


def test_large_views_show_at_least_what_small_ones_show_at_most():
    model = build(local_area=0.6)
    assert model.large.crop == (0.6, 1.0) and model.small.crop == (0.3, 0.6)
    assert model.large.turn == model.small.turn == model.views.turn == 15


# ---------------------------------------------------------------- teacher, centre, temperature


def test_the_teachers_temperature_rises():
    model = build(teacher_temperature=0.07, teacher_warmup=10)
    assert [model.heat(k) for k in (0, 5, 10, 2**40)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert build(teacher_temperature=0.05, teacher_warmup=0).heat(1) == pytest.approx(0.05)


@pytest.mark.parametrize("changes", [{}, {"cells": 2}, {"encoder": "vit", "width": 32}])
def test_the_teacher_begins_as_a_frozen_copy(changes):
    model = build(**changes).eval()
    v = model.view(pictures(5), 0, "first view")
    torch.testing.assert_close(model.teach(v), model.head(model.features(v)))
    mine = {p.data_ptr() for p in model.student.parameters()}
    assert mine.isdisjoint({p.data_ptr() for p in model.teacher.parameters()})
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_teacher_and_centre_move_once_an_update_and_after_the_step(monkeypatch):
    method, _ = learner(steps=8, momentum=0.5, centre_momentum=0.75, **SMALL)
    model, batches, seen = method.model, method.batches(0, 0, 1), []
    teach, used = model.teach, []
    monkeypatch.setattr(model, "teach", lambda v: (seen.append(teach(v)), seen[-1])[1])
    monkeypatch.setattr(dino, "targets", lambda t, c, tau: (used.append(c.clone()), targets(t, c, tau))[1])
    for step in range(3):
        before, centre = copies(model.teacher.parameters()), model.centre.clone()
        method.update(next(batches))
        m = slowness(0.5, step, 8)
        for old, new, theta in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
            torch.testing.assert_close(new, m * old + (1 - m) * theta.detach())
        assert not equal(before, model.teacher.parameters())
        assert torch.equal(used[step], centre), "the loss has the centre of the updates before"
        torch.testing.assert_close(model.centre, 0.75 * centre + 0.25 * seen[step].mean(0))


def test_losses_and_gradients_of_several_batches_leave_teacher_and_centre_alone():
    model = build().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before, student = copies(model.teacher.parameters()), copies(model.student.parameters())
    for i in range(3):
        model(pictures(6, seed=i), 0)[0].backward()
    optimizer.step()
    assert equal(before, model.teacher.parameters()) and not equal(student, model.student.parameters())
    assert not model.centre.any()
    model.after_update(0, 10)
    assert not equal(before, model.teacher.parameters()) and model.centre.any()


def test_the_students_prototypes_stand_still_at_first_and_nothing_else_does():
    """A gradient of zero, not of none, and no change of direction: weight decay changes lengths, which do not count."""
    method, _ = learner(**{**SMALL, "frozen": 3}, weight_decay=0.5)
    model, batches = method.model, method.batches(0, 0, 1)
    start, rest = model.head.w.detach().clone(), copies([*model.encoder.parameters(), *model.head.W, *model.head.b])

    def turned(w) -> float:
        return (torch.nn.functional.normalize(w.detach()) - torch.nn.functional.normalize(start)).abs().max().item()

    for _ in range(3):
        method.update(next(batches))
        assert turned(model.head.w) < 1e-6 and turned(model.teacher[1].w) < 1e-6
    now = [*model.encoder.parameters(), *model.head.W, *model.head.b]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(rest, now, strict=True))
    assert not equal(model.teacher.parameters(), copies(model.student.parameters()))
    method.update(next(batches))
    assert turned(model.head.w) > 1e-3, "then they move"
    assert 1e-6 < turned(model.teacher[1].w) < turned(model.head.w), "and the teacher's follow"

    model(next(batches), 2)[0].backward()
    assert model.head.w.grad is not None and not model.head.w.grad.any()
    model(next(batches), 3)[0].backward()
    assert model.head.w.grad.any()


def test_an_encoder_from_elsewhere_is_the_teachers_too():
    method, _ = learner(**SMALL)
    other, _ = learner(Method=simclr.Method, Config=simclr.Config)
    method.start_from(other.model)
    assert equal(method.model.encoder.state_dict().values(), other.model.encoder.state_dict().values())
    assert equal(method.model.teacher.state_dict().values(), method.model.student.state_dict().values())
    trained, _ = learner(**SMALL)
    trained.update(next(trained.batches(0, 0, 1)))
    method.start_from(trained.model)
    assert equal(method.model.state_dict().values(), trained.model.state_dict().values())
    assert not equal(method.model.teacher.parameters(), method.model.student.parameters())


# ---------------------------------------------------------------- many processes, held-out pictures, errors


def test_processes_compute_parts_of_what_one_would_and_share_a_centre(monkeypatch):
    """Teacher and student in eval mode, since batch norms of one process see half of the batch here."""
    x, used = pictures(8), []

    def learning(rank: int, world: int) -> DINO:
        model = build()
        model.rank, model.world = rank, world
        model.centre.copy_(0.1 * some(10))
        model.train()
        model.encoder.eval(), model.teacher.eval()
        return model

    one = learning(0, 1)
    whole, figures = one.loss(x, 5)
    one.after_update(0, 10)
    models = [learning(rank, 2) for rank in (0, 1)]

    def halves() -> list:
        return [model.loss(x[4 * model.rank : 4 * model.rank + 4], 5) for model in models]

    monkeypatch.setattr(dino, "gathered_without_gradient", lambda u, world: (used.append(u), u)[1])
    parts = [loss for loss, _ in halves()]
    monkeypatch.setattr(dino, "gathered_without_gradient", lambda u, world: torch.cat(used))
    for _, told in halves():
        torch.testing.assert_close(told["classes"], figures["classes"])
    seen = [model.seen for model in models]
    torch.testing.assert_close(torch.cat(parts), whole)
    monkeypatch.setattr(dino, "gathered_without_gradient", lambda u, world: torch.stack(seen))
    for model in models:
        model.after_update(0, 10)
        torch.testing.assert_close(model.centre, one.centre)
    assert (seen[0] - seen[1]).abs().max() > 1e-3


def test_a_held_out_loss_is_centred_by_itself_and_changes_nothing():
    model = build().eval()
    with torch.no_grad():
        loss, _ = model(pictures(6), 2**40)
        model.centre.copy_(some(10))
        before = copies(model.state_dict().values())
        assert torch.equal(model(pictures(6), 2**40)[0], loss)
        large = torch.cat([model.view(pictures(6), 2**40, f"large view {i}", views=model.large) for i in range(2)])
        model.centre.copy_(model.teach(large).mean(0))
        torch.testing.assert_close(by_hand(model, pictures(6), 2**40).mean(), loss)
    model.centre.copy_(some(10))
    assert equal(before, model.state_dict().values()) and model.seen is None


def test_a_batch_of_one_is_refused():
    with pytest.raises(UsageError, match="dino .* got 1; raise --batch-size"):
        build().train().loss(pictures(1), 0)


@pytest.mark.parametrize(
    "field",
    [{"local_views": -1}, {"local_area": 0.0}, {"momentum": 1.5}, {"centre_momentum": -0.1}, {"temperature": 0.0},
     {"teacher_temperature": 0.0}, {"frozen": -1}, {"prototypes": 1}],
)  # fmt: skip
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name.replace('_', '-')}"):
        Config(**field)


# ---------------------------------------------------------------- training


def test_updates_lower_the_loss_and_collapse_neither_way():
    chosen = {"prototypes": 64, "hidden": 64, "frozen": 5, "local_views": 0, "teacher_temperature": 0.04}
    method, data = learner(steps=90, **chosen)
    before, batches = method.evaluate(data, "valid"), method.batches(0, 0, 1)
    for count in (30, 60):
        for _, batch in zip(range(count), batches):
            logs = method.update(batch)
        after = method.evaluate(data, "valid")
        assert after["loss"].mean < before["loss"].mean - 0.3
        assert after["rank_me"].mean > before["rank_me"].mean and after["spread"].mean > before["spread"].mean
    assert after["loss"].mean < math.log(64) - 0.05, "better than all classes alike"
    assert logs["entropy"] < math.log(64) - 0.2 and logs["classes"] > math.log(64) - 0.2, "sharp, and of all classes"
    assert after["knn"].mean > before["knn"].mean + 0.03
