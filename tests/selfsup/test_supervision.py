"""Three ways to learn: PCA and k-means against scikit-learn, mutual information by its definition, one table."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from test_judge import CPU, encoder

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.selfsup.supervision import as_json, assigned, compete, k_means, mutual_information, pca, table


def clouds(k=4, each=60, d=5, apart=6.0, seed=0):
    """k Gaussian clouds and which of them each vector is of."""
    g = generator(seed, 0, "clouds")
    centres = apart * torch.randn(k, d, generator=g)
    y = torch.arange(k).repeat_interleave(each)
    return centres[y] + torch.randn(k * each, d, generator=g), y


def test_principal_directions_are_those_of_scikit_learn():
    x, _ = clouds()
    mine, theirs = pca(x, 3)(x), torch.tensor(PCA(3).fit_transform(x.numpy()))
    torch.testing.assert_close(mine.abs(), theirs.abs(), rtol=1e-3, atol=1e-3)
    held, _ = clouds(seed=1)
    want = torch.tensor(PCA(3).fit(x.numpy()).transform(held.numpy()))
    torch.testing.assert_close(pca(x, 3)(held).abs(), want.abs(), rtol=1e-3, atol=1e-3)


def test_k_means_ends_where_no_vector_is_nearer_to_another_centre_and_finds_clouds():
    x, y = clouds()
    c = k_means(x, 4, seed=0)
    a = assigned(x, c)
    means = torch.stack([x[a == j].mean(0) for j in range(4)])
    torch.testing.assert_close(c, means, rtol=1e-4, atol=1e-4)
    inertia = (x - c[a]).square().sum().item()
    assert inertia <= 1.01 * KMeans(4, n_init=5, random_state=0).fit(x.numpy()).inertia_
    assert mutual_information(a, y) == pytest.approx(1.0)
    assert torch.equal(k_means(x, 4, seed=0), c) and not torch.equal(k_means(x, 4, seed=1)[0], c[0])


def test_k_means_of_equal_vectors_and_of_as_many_clusters_as_vectors():
    assert torch.isfinite(k_means(torch.ones(9, 3), 4, seed=0)).all()
    x, _ = clouds(k=2, each=4)
    assert len(assigned(x, k_means(x, 8, seed=0)).unique()) == 8
    for k in (0, 9):
        with pytest.raises(UsageError, match=rf"k = {k} clusters of 8 vectors are impossible; allowed: 1 to 8"):
            k_means(x, k, seed=0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=40))
def test_mutual_information_is_that_of_scikit_learn(pairs):
    a, y = (torch.tensor(column) for column in zip(*pairs))
    if len(a.unique()) == 1 or len(y.unique()) == 1:
        assert mutual_information(a, y) == 0
    else:
        want = normalized_mutual_info_score(y.numpy(), a.numpy())
        assert mutual_information(a, y) == pytest.approx(want, abs=1e-9)


def test_every_way_is_asked_the_same_and_told_what_it_says():
    data = load("digits")
    rows = compete(encoder(), data, "test", 60, 0, CPU)
    told = {r.name: r.told for r in rows}
    assert told["raw pixels"] == told["untrained encoder"] == "nothing" and told["simclr, self-supervised"] == "x"
    assert [r.told for r in rows if r.name == "supervised encoder"] == ["x, y of 13", "x, y of 1,257"]
    by_name = {(r.name, r.told): r for r in rows}
    assert by_name[("raw pixels", "nothing")].probe.mean > 0.9
    all_labels, none = by_name[("supervised encoder", "x, y of 1,257")], by_name[("untrained encoder", "nothing")]
    assert all_labels.nmi > none.nmi and all_labels.knn.mean > none.knn.mean
    text = table(rows, "test")
    assert all(name in text for name in told) and "NMI" in text
    out = json.loads(as_json(rows, "digits", "test"))
    assert len(out["ways"]) == len(rows) and out["ways"][0]["knn"] == rows[0].knn.mean
    assert all(r["seconds"] is None or math.isfinite(r["seconds"]) for r in out["ways"])
