"""All masks of a picture beside a plain loop over points; support by hand."""

import copy

import numpy as np
import pytest
import torch

from ptheta.data import nested, rle
from ptheta.sam import closer, twice
from ptheta.sam.boxes import around, suppressed
from ptheta.sam.evaluation import overlaps
from ptheta.sam.everything import Found, grid
from ptheta.sam.predictor import Predictor

PICTURE = np.ascontiguousarray(nested.scene(0, "valid", 3, 160).picture.transpose(1, 2, 0))


@pytest.fixture
def predictor(tiny):
    """Of a model that expects IoUs between 0 and 1, most of them."""
    model = copy.deepcopy(tiny)
    with torch.no_grad():
        last = model.mask_decoder.iou_prediction_head.layers[-1]
        last.weight.mul_(0.1)
        last.bias.copy_(torch.tensor([0.6, 0.7, 0.8, 0.5]))
        model.mask_decoder.scoring.last.weight.mul_(0.1)
        model.mask_decoder.scoring.last.bias.zero_()
    return Predictor(model)


def found(logits, points, ious):
    n = len(logits)
    return Found(logits, torch.tensor(ious), torch.ones(n), around(logits > 0).float(), torch.tensor(points))


def test_support_is_the_share_of_points_that_say_the_same(predictor):
    predictor.set_image(PICTURE)
    a = predictor.model.side  # 80 cells, 2 pixels each
    logits = torch.full((4, a, a), -5.0)
    logits[0, :40, :40] = 5.0  # holds 4 of 16 points
    logits[1, :40, :39] = 5.0  # nearly the same, from the same point
    logits[2, :39, :40] = 5.0  # and from another
    logits[3, :40, :80] = 5.0  # another thing, from a third
    every = found(logits, [[20.0, 20.0], [20.0, 20.0], [60.0, 20.0], [60.0, 60.0]], [0.9] * 4)
    at = torch.from_numpy(grid(4) * 160)
    told = twice.support(predictor, every[torch.tensor([0, 3])], every, at)
    assert told.tolist() == [0.5, 0.125]
    logits[0] = -5.0
    logits[0, 15:17, 15:17] = 5.0  # where the grid has no point
    assert twice.support(predictor, every[torch.tensor([0])], every, at).tolist() == [1.0]


@pytest.mark.parametrize(("sure", "overlap"), [(0.0, 1.0), (0.3, 1.0), (0.0, 0.6)])
def test_masks_are_those_of_a_plain_loop(predictor, monkeypatch, sure, overlap):
    monkeypatch.setattr(twice, "LOOSE", 0.0)  # of what is 0 or less no mask comes to `sure`, but for sure = 0
    monkeypatch.setattr(twice, "ALIKE", 1.0)
    predictor.set_image(PICTURE)
    at, parts = grid(3) * 160, []
    for x, y in at:
        answer = predictor.predict([[x, y]], [1])
        parts += [
            (m, s.item(), i, [x, y]) for m, s, i in zip(answer.logits, answer.ious, answer.masks) if m.gt(0).any()
        ]
    small, full = torch.stack([one[0] for one in parts]) > 0, torch.stack([one[2] for one in parts])
    s = torch.tensor([one[1] for one in parts])
    wanted = []
    for i in suppressed(around(full).float(), s, twice.ALIKE).tolist():
        same = {tuple(one[3]) for one, io in zip(parts, overlaps(small[i : i + 1], small)[0]) if io > twice.SAME}
        inside = sum(bool(small[i, int(y / 2), int(x / 2)]) for x, y in at)
        box = around(full[i : i + 1])[0].tolist()
        box = [box[0], box[1], box[2] + 1, box[3] + 1]
        left, top, right, bottom = where = closer.window(tuple(box), (160, 160), 160)
        near = Predictor(predictor.model)
        near.set_image(PICTURE[top:bottom, left:right])
        ends = np.array(box) - (left, top, left, top)
        logits = closer.handed(parts[i][0][None], (0, 0, 160, 160), where)
        answer = near.predict(boxes=ends, masks=logits, several=False)
        q = s[i].clamp(0, 1) * min(1, len(same) / max(1, inside)) ** 0.5 * answer.ious[0].clamp(0, 1)
        mask = torch.zeros(160, 160, dtype=torch.bool)
        mask[top:bottom, left:right] = answer.masks[0]
        if q >= sure and mask.any():
            wanted.append((q, mask, parts[i][3]))
    assert len(wanted) > 2 and (sure == 0 or len(wanted) < 27), "there is something to compare"
    kept = suppressed(
        around(torch.stack([m for _, m, _ in wanted])).float(), torch.stack([q for q, *_ in wanted]), overlap
    )
    got = twice.twice(predictor, PICTURE, twice.Twice(points=3, batch=4, sure=sure, overlap=overlap))
    assert len(got) == len(kept)
    for one, i in zip(got, kept.tolist()):
        q, mask, point = wanted[i]
        assert one["confidence"] == pytest.approx(float(q), abs=1e-4) and one["point_coords"] == [pytest.approx(point)]
        assert (rle.decode(one["segmentation"]) ^ mask.numpy()).sum() <= 3 and abs(one["area"] - mask.sum()) <= 3
        left, top, width, height = one["bbox"]
        assert around(mask[None])[0].tolist() == pytest.approx([left, top, left + width, top + height], abs=1)
    assert [one["confidence"] for one in got] == sorted((one["confidence"] for one in got), reverse=True)


def test_no_mask_is_an_answer(predictor):
    assert twice.twice(predictor, PICTURE, twice.Twice(points=2, sure=1.0)) == []
    assert twice.twice(predictor, np.zeros((3, 4, 3), np.uint8), twice.Twice(points=1, sure=0.999)) == []
