"""Where prompts are, place by place."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from ptheta.sam.marks import HEADS, NEAR, Marks
from ptheta.sam.model import SAM

SIZE, SIDE, CHANNELS = 64, 8, 16
LABELS = {"a click": [1, -1], "both kinds": [1, 0, 1], "a box": [2, 3], "a box and clicks": [0, 1, 2, 3]}


def drawn(seed):
    g = torch.Generator().manual_seed(seed)
    marks = Marks(CHANNELS, SIZE)
    for p in marks.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return marks, torch.randn(2, CHANNELS, SIDE, SIDE, generator=g), g


def by_hand(marks, at, labels, z, i, j):
    """What is at row i and column j, before the linear map."""
    cell = SIZE / SIDE
    p = ((j + 0.5) * cell - 0.5, (i + 0.5) * cell - 0.5)
    found = []
    clicks = [[c for c, label in zip(at, labels) if label == wanted] for wanted in (1, 0)]
    for of in clicks:
        for part in NEAR:
            each = [math.exp(-0.5 * math.dist(p, c) ** 2 / (SIZE / part) ** 2) for c in of]
            found.append(max(each, default=0.0))
    parts = marks.seen.weight.unflatten(0, (HEADS, -1))
    for of in clicks:
        for W in parts:
            there = [z[:, int((c[1] + 0.5) / cell), int((c[0] + 0.5) / cell)] for c in of]
            each = [cosine_similarity(W @ z[:, i, j], W @ other, 0).item() for other in there]
            found.append(max(each, default=0.0))
    if 2 not in labels:
        return torch.tensor([*found, 0.0, 0.0])
    (l, t), (r, b) = at[labels.index(2)], at[labels.index(2) + 1]
    within = 1.0
    for off in (p[0] - l, r - p[0], p[1] - t, b - p[1]):
        within /= 1 + math.exp(-off * 64 / SIZE)
    half = max(1, (r - l) / 2), max(1, (b - t) / 2)
    away = ((p[0] - (l + r) / 2) / half[0]) ** 2 + ((p[1] - (t + b) / 2) / half[1]) ** 2
    return torch.tensor([*found, within, math.exp(-away)])


@pytest.mark.parametrize("kind", LABELS)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000))
def test_they_are_the_formulas(kind, seed):
    marks, z, g = drawn(seed)
    labels = LABELS[kind]
    at = (SIZE - 1) * torch.rand(4, len(labels), 2, generator=g)
    if 2 in labels:
        k = labels.index(2)
        at[:, k : k + 2] = at[:, k : k + 2].sort(1).values
    found = marks(at, torch.tensor(labels).expand(4, -1), z)
    assert found.shape == (4, CHANNELS, SIDE, SIDE)
    for row in range(4):
        for i, j in ((0, 0), (3, 6), (7, 2)):
            own = marks.mix(by_hand(marks, at[row].tolist(), labels, z[row // 2], i, j))
            torch.testing.assert_close(found[row, :, i, j], own, rtol=1e-4, atol=1e-4)


def test_clicks_beyond_the_picture_are_at_its_edge():
    marks, z, _ = drawn(0)
    out, edge = torch.tensor([[[-30.0, 500.0]]]), torch.tensor([[[0.0, 63.0]]])
    assert torch.equal(marks.alike(out, z[:1]), marks.alike(edge, z[:1]))


def test_they_are_added_for_points_and_boxes_and_not_for_a_mask_alone():
    model = SAM("tiny", 64)
    image = torch.randn(1, model.map_channels, 8, 8)
    prompts, mask = model.prompt_encoder, torch.randn(1, 1, 32, 32)
    alone = prompts.map(mask, None, image)
    prompt = prompts.joined(torch.tensor([[[5.0, 9.0]]]), torch.tensor([[1]]), None)
    assert torch.equal(alone, prompts.mask_downscaling(mask))
    torch.testing.assert_close(prompts.map(mask, prompt, image) - alone, prompts.marks(*prompt[:2], image[:, :128]))
    assert prompts.map(None, None, image).shape == (1, 128, 1, 1)


def test_published_models_have_none():
    with torch.device("meta"):
        assert SAM("vit_b").prompt_encoder.marks is None
