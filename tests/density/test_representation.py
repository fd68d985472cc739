"""Features judged: the neighbours' vote by a naive loop, the probe on what can and cannot be told."""

import math

import pytest
import torch

from ptheta.data.binary import load
from ptheta.density.made import MADE
from ptheta.density.representation import judge, linear_probe, nearest_neighbours
from ptheta.engine.errors import InputError


def test_the_vote_is_that_of_a_naive_loop():
    g = torch.Generator().manual_seed(0)
    train, y, asked = (
        torch.randn(60, 5, generator=g),
        torch.randint(4, (60,), generator=g),
        torch.randn(30, 5, generator=g),
    )
    for k in (1, 7, 100):
        want = []
        for f in asked:
            cosine = [(torch.dot(f, t) / f.norm() / t.norm()).item() for t in train]
            near = sorted(range(60), key=lambda i: -cosine[i])[:k]
            votes = [sum(math.exp(cosine[i] / 0.07) for i in near if y[i] == c) for c in range(4)]
            want.append(max(range(4), key=lambda c: votes[c]))
        assert nearest_neighbours(train, y, asked, k=k).tolist() == want


def test_the_probe_reads_what_is_linear_whatever_its_scale():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(600, 6, generator=g) * torch.tensor([1e-3, 1e3, 1, 1, 1, 0])
    y = ((f / torch.tensor([1e-3, 1e3, 1, 1, 1, 1])).sum(1) > 0).long()
    guess = linear_probe(f[:400], y[:400], (f[400:500], y[400:500]), f[500:])
    assert (guess == y[500:]).float().mean() > 0.95
    noise = torch.randint(2, (600,), generator=g)
    guess = linear_probe(f[:400], noise[:400], (f[400:500], noise[400:500]), f[500:])
    assert (guess == noise[500:]).float().mean() < 0.65


def test_features_and_raw_vectors_are_judged_side_by_side():
    data = load("digits")
    found = judge(MADE(64, (100,)).eval(), data, "test", limit=500)
    assert set(found) == {"knn", "knn_raw", "probe", "probe_raw"}
    assert found["knn_raw"].mean > 0.8 and found["probe_raw"].mean > 0.8 and found["knn"].n == 270
    joint = judge(MADE(74, (100,), label="first", classes=10).eval(), data, "test", limit=500)
    assert joint["knn_raw"].mean == found["knn_raw"].mean and joint["knn"].mean > 0.2
    with pytest.raises(InputError, match="has no labels"):
        judge(MADE(6, (10,)), load(torch.eye(20, 6)), "test")
