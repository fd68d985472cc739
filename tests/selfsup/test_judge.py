"""Judging an encoder: labels drawn fairly, the same questions to all, fine-tuning that learns and leaves its source."""

import copy
import dataclasses
import math

import pytest
import torch

from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.nets.probes import linear_probe, nearest_neighbours
from ptheta.selfsup import judge
from ptheta.selfsup.pretraining import moments
from ptheta.selfsup.simclr import SimCLR

CPU = Hardware(torch.device("cpu"), "fp32")


def encoder(seed=0, **more) -> SimCLR:
    options = {"encoder": "resnet", "width": 8, "depth": 1, "patch": 4, "cells": 1, "views": "digits"}
    model = SimCLR((1, 8, 8), seed, "digits", hidden=16, project=8, **{**options, **more})
    model.start_at(*moments(load("digits").split("train")))
    return model.eval()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_a_share_of_the_labels_is_the_same_for_every_class_and_another_for_every_seed(share):
    y = load("digits").labels("train")
    rows = judge.some_labels(y, share, 3)
    assert len(rows) == max(10, round(share * len(y))) and len(rows.unique()) == len(rows)
    counts = torch.bincount(y[rows], minlength=10)
    assert counts.min() >= 1 and (share == 1 or counts.max() - counts.min() <= 1)
    assert torch.equal(rows, judge.some_labels(y, share, 3))
    assert share == 1 or not torch.equal(rows, judge.some_labels(y, share, 4))


def test_rare_classes_give_all_they_have():
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 47)
    counts = torch.bincount(y[judge.some_labels(y, 0.3, 0)])
    assert counts[1] == 3 and counts.sum() == 30 and abs(counts[0] - counts[2]) <= 1


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UsageError, match=r"share = .* is impossible; allowed: above 0 and at most 1"):
        judge.some_labels(torch.arange(10), share, 0)


def test_the_untrained_encoder_has_the_same_architecture_and_other_weights():
    model = encoder()
    one, same, other = judge.untrained(model, 0), judge.untrained(model, 0), judge.untrained(model, 1)
    x = load("digits").split("test")
    assert torch.equal(one.embed(x), model.embed(x)), "this model was never trained, and its seed is 0"
    assert torch.equal(one.embed(x), same.embed(x)) and not torch.equal(one.embed(x), other.embed(x))
    assert torch.equal(other.mean, model.mean) and not other.training


def test_the_probes_are_those_of_the_features():
    data, model = load("digits"), encoder()
    found = judge.probe(judge.embedding(model), data, "test", 5, 0.1, limit=300)
    z, y = model.embed(data.split("train")[:300]), data.labels("train")[:300]
    asked, truth = model.embed(data.split("test")), data.labels("test")
    near = (nearest_neighbours(z, y, asked, 5, 0.1) == truth).double()
    valid = (model.embed(data.split("valid")), data.labels("valid"))
    assert found["knn"].mean == near.mean().item() and found["knn"].n == 270
    assert found["probe"].mean == (linear_probe(z, y, valid, asked) == truth).double().mean().item()
    raw = judge.probe(judge.pixels, data, "test", 5, 0.1, limit=300)
    assert raw["knn"].mean > 0.9 and raw["probe"].mean > 0.85


def test_nothing_is_chosen_on_the_split_that_is_measured():
    """With the labels of that split mixed up, the guesses stay what they were: only the score changes."""
    data = load("digits")
    guesses = []
    for shift in (0, 1):
        labels = {k: data._part(k) for k in ("train_labels", "valid_labels")}
        labels["test_labels"] = (data.labels("test") + shift) % 10
        parts = {**{s: data.split(s) for s in data.splits}, **labels}
        other = dataclasses.replace(data, _read={k: lambda: {} for k in parts}, _cache=parts)
        guesses.append(judge.probe(judge.pixels, other, "test", 5, 0.1)["probe"].mean)
    assert guesses[0] > 0.9 and guesses[1] < 0.1


@pytest.mark.parametrize("k", [0, 301])
def test_more_neighbours_than_pictures_are_refused(k):
    with pytest.raises(UsageError, match=rf"k = {k} neighbours are wanted of 300 pictures; allowed: 1 to 300"):
        judge.probe(judge.pixels, load("digits"), "test", k, 0.1, limit=300)


def test_a_set_without_labels_is_refused():
    with pytest.raises(InputError, match="has no labels to judge features by"):
        judge.labels_of(load(torch.zeros(20, 8, 8, dtype=torch.uint8)), "train")


def test_fine_tuning_learns_and_leaves_its_source_as_it_was():
    data, model = load("digits"), encoder()
    before = copy.deepcopy(model.state_dict())
    y = data.labels("train")
    rows = judge.some_labels(y, 0.2, 0)
    nets = [
        judge.fine_tuned(model, data.split("train")[rows], y[rows], 10, 0, 1e-2, CPU, updates=updates)
        for updates in (1, 100)
    ]
    scores = [judge.accuracy(net, data.split("test"), data.labels("test")).mean for net in nets]
    assert scores[1] > 0.8 > scores[0]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and not model.training
    assert not torch.equal(nets[1].model.encoder.stem[0].W, model.encoder.stem[0].W), "the encoder learns too"
    again = judge.fine_tuned(model, data.split("train")[rows], y[rows], 10, 0, 1e-2, CPU, updates=1)
    assert torch.equal(again.W, nets[0].W) and not again.training


def test_the_mean_over_seeds_has_the_error_of_the_mean():
    found = judge.over_seeds([0.8, 0.9, 0.85])
    assert found.mean == pytest.approx(0.85) and found.standard_error == pytest.approx(0.05 / 3**0.5)
    assert math.isnan(judge.over_seeds([0.8]).standard_error)
