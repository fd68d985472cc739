"""Jigsaw: permutations against enumeration, tiles against slices, what must not give the order away, and learning."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.jigsaw import CELL, EPSILON, Config, Jigsaw, Method, cut, far_apart, levelled, orders, sides
from ptheta.selfsup.pretraining import HELD_OUT

TINY = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "photographs"}


def build(shape=(3, 8, 8), seed: int = 0, **more) -> Jigsaw:
    return Jigsaw(list(shape), seed, "", **{"hidden": 8, "grid": 2, "permutations": 6, **TINY, **more})


def some(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, *shape), generator=generator(seed, 0, "x"), dtype=torch.uint8)


# ---------------------------------------------------------------- permutations


@pytest.mark.parametrize("n", range(6))
def test_orders_are_all_there_are(n):
    assert sorted(map(tuple, orders(n).tolist())) == sorted(itertools.permutations(range(n)))


@pytest.mark.parametrize(("tiles", "count"), [(4, 2), (4, 7), (4, 24), (5, 12)])
def test_each_permutation_is_as_far_as_can_be_from_those_before(tiles, count):
    pi = far_apart(tiles, count, 5).tolist()
    assert len(set(map(tuple, pi))) == count and all(sorted(p) == list(range(tiles)) for p in pi)

    def distance(a, b):
        return sum(x != y for x, y in zip(a, b))

    for p in range(1, count):
        best = max(min(distance(q, before) for before in pi[:p]) for q in itertools.permutations(range(tiles)))
        assert min(distance(pi[p], before) for before in pi[:p]) == best


def test_four_tiles_have_four_permutations_that_differ_everywhere():
    """The greedy choice finds as many as there can be: no fifth has its first tile in yet another place."""
    for seed in range(5):
        pi = far_apart(4, 4, seed)
        assert ((pi[:, None] != pi).sum(2) + 4 * torch.eye(4, dtype=torch.long) == 4).all()


def test_permutations_of_nine_tiles_are_far_apart_and_follow_from_the_seed():
    pi = far_apart(9, 24, 0)
    distances = (pi[:, None] != pi).sum(2)[~torch.eye(24, dtype=torch.bool)]
    assert distances.min() >= 7 and distances.float().mean() > 7.9  # those drawn at random differ in 8 on average
    assert torch.equal(pi.sort(1).values, torch.arange(9).expand(24, 9))
    far_apart.cache_clear()
    assert torch.equal(far_apart(9, 24, 0), pi) and not torch.equal(far_apart(9, 24, 1), pi)
    assert torch.equal(far_apart(9, 24, 0)[:10], far_apart(9, 10, 0))


# ---------------------------------------------------------------- tiles


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(8, 19), width=st.integers(8, 19), grid=st.sampled_from([2, 3]),
    gap=st.sampled_from([0, 0.2, 0.5]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_tiles_are_slices_inside_their_cells(height, width, grid, gap, seed):
    if min(height, width) < CELL * grid:
        return
    x = torch.arange(2 * height * width).view(2, 1, height, width).float()
    u = torch.rand(2, grid**2 + 1, 2, generator=generator(seed, 0, "u"))
    tiles = cut(x, u, grid, gap)
    (cell_h, cell_w), (h, w) = sides(height, width, grid, gap)
    assert tiles.shape == (2, grid**2, 1, h, w)
    assert (cell_h, cell_w) == (height // grid, width // grid) and h <= cell_h and w <= cell_w
    for b, t in itertools.product(range(2), range(grid**2)):
        top, left = divmod(int(tiles[b, t, 0, 0, 0]) - b * height * width, width)
        assert torch.equal(tiles[b, t, 0], x[b, 0, top : top + h, left : left + w])
        whole = [int(u[b, -1, a] * (side - grid * side_of + 1)) for a, side, side_of in
                 ((0, height, cell_h), (1, width, cell_w))]  # fmt: skip
        row, column = divmod(t, grid)
        assert 0 <= top - whole[0] - row * cell_h <= cell_h - h
        assert 0 <= left - whole[1] - column * cell_w <= cell_w - w


def test_tiles_put_back_give_the_picture_where_there_is_no_gap():
    x = torch.rand(3, 2, 12, 15, generator=generator(0, 0, "x"))
    tiles = cut(x, torch.rand(3, 10, 2, generator=generator(0, 0, "u")), 3, 0.0)
    rows = [torch.cat([tiles[:, 3 * r + c] for c in range(3)], 3) for r in range(3)]
    assert torch.equal(torch.cat(rows, 2), x)


def test_a_tile_lies_at_every_place_of_its_cell_equally_often():
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(8000, 1, 8, 8)
    tiles = cut(x, torch.rand(8000, 5, 2, generator=generator(0, 0, "u")), 2, 0.5)  # cells of 4, tiles of 2
    for t, first in enumerate((0, 4, 32, 36)):
        counts = torch.bincount((tiles[:, t, 0, 0, 0] - first).long(), minlength=19)
        places = [8 * i + j for i in range(3) for j in range(3)]
        assert counts[places].sum() == 8000 and (counts[places] - 8000 / 9).abs().max() < 4.5 * math.sqrt(8000 / 9)
    corners = torch.stack([tiles[:, t, 0, 0, 0] for t in range(4)])
    assert torch.corrcoef(corners).fill_diagonal_(0).abs().max() < 0.05, "each cell by itself"


def test_tiles_are_levelled_each_by_itself_and_noise_is_not_blown_up():
    tiles = torch.rand(4, 9, 3, 5, 6, generator=generator(0, 0, "tiles")).double() * 3 + 7
    out = levelled(tiles)
    for b, t in itertools.product(range(4), range(9)):
        one = tiles[b, t].numpy()
        want = (one - one.mean()) / np.sqrt(one.var() + EPSILON)
        np.testing.assert_allclose(out[b, t].numpy(), want, rtol=1e-10)
    torch.testing.assert_close(levelled(tiles * 100 + 3), levelled(tiles * 100), rtol=1e-6, atol=1e-6)
    assert (levelled(torch.full((1, 4, 1, 3, 3), 0.7)).abs() < 1e-5).all()
    assert levelled(tiles * 1e-4).abs().max() < 0.01


# ---------------------------------------------------------------- the puzzle


def test_the_loss_is_that_of_tiles_shuffled_by_hand():
    model = build(views="none").eval()
    x = some(5, 3, 9, 8)
    model.shape, step, b = (3, 9, 8), 4, 5
    loss, figures = model.loss(x, step)
    g = generator(0, step, "tiles")
    u, p = torch.rand(b, 5, 2, generator=g), torch.randint(6, (b,), generator=g)
    nats, right = [], []
    for i in range(b):
        tiles = levelled(cut(model.view(x, step, "view")[i : i + 1], u[i : i + 1], 2, 0.15))[0]
        shuffled = [tiles[int(t)] for t in model.permutations[p[i]]]
        z = torch.cat([model.encoder(tile[None]) for tile in shuffled], 1)
        logits = model.head(z)[0]
        nats.append(-logits.log_softmax(0)[p[i]])
        right.append(float(logits.argmax() == p[i]))
    torch.testing.assert_close(loss, torch.stack(nats), rtol=1e-4, atol=1e-5)
    assert figures["accuracy"].item() == pytest.approx(np.mean(right)) and len(set(p.tolist())) > 1


def test_the_loss_where_nothing_can_be_told_is_ln_p():
    model, x = build().eval(), some(4, 3, 8, 8)
    with torch.no_grad():
        model.head.W[-1].zero_()
    assert model(x, 0)[0].item() == pytest.approx(math.log(6), rel=1e-6)


def test_brightness_and_contrast_of_tiles_give_nothing_away():
    """Pictures of which each tile has a grey value of its own are, for the network, all the same."""
    model = build(views="none", gap=0.0).eval()
    x = (torch.tensor([[0.1, 0.4], [0.6, 0.9]]).repeat_interleave(4, 0).repeat_interleave(4, 1)).expand(7, 3, 8, 8)
    tiles = levelled(cut(model.normalised(x), torch.rand(7, 5, 2, generator=generator(0, 0, "u")), 2, 0.0))
    assert tiles.abs().max() < 1e-5


def test_draws_are_keyed_and_those_of_processes_are_slices():
    model, x = build().eval(), some(6, 3, 8, 8)
    whole, _ = model.loss(x, 3)
    assert torch.equal(model.loss(x, 3)[0], whole) and not torch.allclose(model.loss(x, 4)[0], whole)
    model.world, parts = 2, []
    for model.rank in (0, 1):
        parts.append(model.loss(x[3 * model.rank : 3 * model.rank + 3], 3)[0])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- training and use


def corners(n: int, seed: int) -> np.ndarray:
    """Four textures, each in its own quarter: stripes across, stripes down, a board, noise."""
    r = np.random.RandomState(seed)
    x = np.zeros((n, 8, 8), np.uint8)
    i = np.arange(8)
    for picture in x:
        a = r.randint(2)
        picture[:4, :4] = ((i[:4] + a) % 2 * 200)[:, None]
        picture[:4, 4:] = (i[:4] + a) % 2 * 200
        picture[4:, :4] = ((i[:4, None] + i[:4] + a) % 2) * 200
        picture[4:, 4:] = 255 * (r.rand(4, 4) < 0.1)
    return x


def test_training_learns_which_texture_belongs_where():
    data = load(corners(400, 0))
    config = Config(width=8, batch_size=64, learning_rate=0.01, warmup=0, hidden=32, views="none", grid=2)
    method = Method(config, data, 0, Hardware(torch.device("cpu"), "fp32"), 60)
    before = method.evaluate(data, "valid")["loss"].mean
    for _, batch in zip(range(60), method.batches(0, 0, 1)):
        logs = method.update(batch)
    after = method.evaluate(data, "valid")["loss"].mean
    assert before > 0.9 * math.log(24) and after < 0.25 * math.log(24) and logs["accuracy"] > 0.8
    assert method.model.embed(data.split("test")).shape == (40, 32), "whole pictures have features too"


def test_everything_is_reached_by_the_gradient_and_measuring_changes_nothing():
    model, x = build(), some(8, 3, 8, 8)
    model.train()(x, 0)[0].backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.eval()(x, HELD_OUT)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_saved_model_comes_back_and_a_seed_gives_the_same_weights(tmp_path):
    model, x = build(seed=3, cells=2), some(4, 3, 8, 8)
    again = Jigsaw.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert again.arguments == model.arguments and torch.equal(again.embed(x), model.eval().embed(x))
    assert torch.equal(again.loss(x, 1)[0], model.loss(x, 1)[0])
    assert torch.equal(build(seed=3).permutations, model.permutations)
    assert not torch.equal(build(seed=4).permutations, model.permutations)


def test_bf16_gives_a_finite_loss_in_float32():
    model, x = build().train(), some(8, 3, 8, 8)
    exact = copy.deepcopy(model)(x, 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, 0)[0]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"shape": (1, 8, 8), "grid": 3}, r"8x8 are too small for 3x3 tiles; allowed: sides from 12 on, or --grid 2"),
     ({"shape": (1, 7, 20), "grid": 3}, r"7x20 are too small for 3x3 tiles; allowed: sides from 12 on\.$"),
     ({"shape": (1, 7, 20)}, r"7x20 are too small for 2x2 tiles; allowed: sides from 8 on\.$"),
     ({"permutations": 25}, "permutations = 25 is impossible for 4 tiles; allowed: 2 to 24"),
     ({"encoder": "vit"}, "encoder = vit takes pictures of one size alone.*allowed: resnet")],
)  # fmt: skip
def test_impossible_puzzles_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        build(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", [{"grid": 4}, {"gap": 0.6}, {"permutations": 1}, {"hidden": 0}, {"encoder": "vit"}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name}"):
        Config(**field)
