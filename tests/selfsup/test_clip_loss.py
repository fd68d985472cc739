"""CLIP by hand: the loss by loops, at collapse and over processes; recall, chance and accuracy by counting."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from ptheta.data.order import generator
from ptheta.selfsup import clip
from ptheta.selfsup.clip import clip_loss, found, found_by_chance, macro


def vectors(n: int, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(seed, 0, "vectors")
    u, v = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return normalize(u), normalize(v)


# ---------------------------------------------------------------- the loss


def test_the_loss_is_that_of_a_loop_over_pairs():
    u, v = vectors(6)
    terms = []
    for i in range(6):
        row = sum(math.exp(3.0 * float(u[i] @ v[j])) for j in range(6))
        column = sum(math.exp(3.0 * float(u[j] @ v[i])) for j in range(6))
        s = math.exp(3.0 * float(u[i] @ v[i]))
        terms.append(-(math.log(s / row) + math.log(s / column)) / 2)
    torch.testing.assert_close(clip_loss(u, v, 3.0), torch.tensor(terms, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_of_texts_that_are_the_same_each_is_right():
    """By a loop over pairs, where texts 0 and 3, and 1, 2 and 4 are the same."""
    u, v = vectors(6)
    of = torch.tensor([0, 1, 1, 0, 1, 2])
    v = v[of]
    terms = []
    for i in range(6):
        row = sum(math.exp(3.0 * float(u[i] @ v[j])) for j in range(6))
        column = sum(math.exp(3.0 * float(u[j] @ v[i])) for j in range(6))
        right = [j for j in range(6) if of[j] == of[i]]
        p = [math.log(math.exp(3.0 * float(u[i] @ v[j])) / row) for j in right]
        q = [math.log(math.exp(3.0 * float(u[j] @ v[i])) / column) for j in right]
        terms.append(-(sum(p) + sum(q)) / 2 / len(right))
    alike = of[:, None] == of
    torch.testing.assert_close(clip_loss(u, v, 3.0, alike=alike), torch.tensor(terms, dtype=torch.float64))
    torch.testing.assert_close(clip_loss(u, v, 3.0, alike=torch.eye(6) > 0), clip_loss(u, v, 3.0))


@pytest.mark.parametrize("n", [2, 7, 64])
def test_the_loss_at_collapse_is_ln_n(n):
    u = vectors(1)[0].expand(n, -1)
    for scale in (0.1, 14.3, 100.0):
        torch.testing.assert_close(clip_loss(u, u, scale), torch.full((n,), math.log(n), dtype=torch.float64))
        torch.testing.assert_close(clip_loss(u, -u, scale), torch.full((n,), math.log(n), dtype=torch.float64))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 9), scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_pictures_and_texts_play_the_same_part_and_order_does_not_count(n, scale, seed):
    u, v = vectors(n, seed=seed)
    loss = clip_loss(u, v, scale)
    torch.testing.assert_close(clip_loss(v, u, scale), loss, rtol=1e-12, atol=1e-12)
    order = torch.randperm(n, generator=generator(seed, 0, "order"))
    torch.testing.assert_close(clip_loss(u[order], v[order], scale), loss[order], rtol=1e-10, atol=1e-10)
    assert (loss >= 0).all()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_average_to_one_in_loss_and_in_gradient(world, monkeypatch):
    u, v = (t.requires_grad_() for t in vectors(6))
    alike = (torch.arange(6) % 4)[:, None] == torch.arange(6) % 4
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    whole = clip_loss(u, v, scale, alike=alike)
    wanted = torch.autograd.grad(whole.mean(), (u, v, scale))
    b, losses = 6 // world, []
    for rank in range(world):
        mine = slice(rank * b, (rank + 1) * b)
        monkeypatch.setattr(clip, "gathered", lambda t, w, mine=mine: u if torch.equal(t, u[mine]) else v)
        losses.append(clip_loss(u[mine], v[mine], scale, rank, world, alike[mine]))
    torch.testing.assert_close(torch.cat(losses), whole, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(torch.stack([l.mean() for l in losses]).mean(), (u, v, scale))
    for a, w in zip(got, wanted):
        torch.testing.assert_close(a, w, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- figures


def test_recall_is_that_of_sorting_by_hand():
    similarity = torch.randn(12, 12, generator=generator(0, 0, "s"))
    texts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    right = torch.tensor([[a == b for b in texts] for a in texts])
    for k in (1, 3, 5, 12, 40):
        for i, hit in enumerate(found(similarity, right, k).tolist()):
            best = sorted(range(12), key=lambda j: -similarity[i, j].item())[:k]
            assert hit == any(texts[j] == texts[i] for j in best)
    assert not found(torch.zeros(9, 9), torch.eye(9).bool(), 3).all(), "where all is alike not all is found"


@pytest.mark.parametrize("k", [1, 2, 5, 6, 9])
def test_chance_is_the_share_of_drawings_that_hold_a_right_one(k):
    right = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1]]).bool()
    draws = list(itertools.combinations(range(6), min(k, 6)))
    want = [sum(any(row[j] for j in draw) for draw in draws) / len(draws) for row in right]
    assert found_by_chance(right, k).tolist() == pytest.approx(want, rel=1e-12)
    assert found_by_chance(torch.eye(325).bool(), 5).mean().item() == pytest.approx(5 / 325)


def test_classes_count_alike_however_many_pictures_they_have():
    hit, y = torch.tensor([1.0, 1, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 0, 3, 3])
    estimate = macro(hit, y)
    assert estimate.mean == pytest.approx((0.75 + 0.5) / 2) and estimate.n == 6
    assert estimate.standard_error == pytest.approx(math.sqrt(0.1875 / 3 + 0.25) / 2)
