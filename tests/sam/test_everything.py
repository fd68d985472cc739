"""All masks of a picture, beside a plain loop over its points."""

import copy

import numpy as np
import pytest
import torch

from ptheta.data import rle
from ptheta.engine.errors import UsageError
from ptheta.sam import everything as module
from ptheta.sam.boxes import suppressed
from ptheta.sam.everything import Everything, cleaned, crops, everything, grid
from ptheta.sam.predictor import Predictor

PICTURE = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def predictor(plain):
    """Of a model that is surer of itself: of smaller logits none is above 1."""
    sure = copy.deepcopy(plain)
    with torch.no_grad():
        for head in sure.mask_decoder.output_hypernetworks_mlps:
            for p in head.layers[2].parameters():
                p.mul_(12)
    return Predictor(sure)


def by_hand(predictor, n, iou, stability, overlap):
    """As the paper tells it, a point at a time."""
    predictor.set_image(PICTURE)
    masks, boxes, scores = [], [], []
    for x, y in grid(n) * [90, 60]:
        answer = predictor.predict(points=[[x, y]], labels=[1])
        full = predictor.model.enlarged(answer.logits[None], 60, 90)[0]
        for m, s in zip(full, answer.ious):
            high, low = (m > 1).sum(), (m > -1).sum()
            if s <= iou or not high / low >= stability:
                continue
            rows, columns = (m > 0).nonzero().T
            boxes.append([columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0, 0, 0, 0])
            masks.append((m > 0).numpy())
            scores.append(s)
    keep = suppressed(torch.tensor(boxes).float().view(-1, 4), torch.tensor(scores), overlap).tolist()
    return [masks[i] for i in keep]


def test_it_is_the_plain_loop(predictor):
    predictor.set_image(PICTURE)
    s = predictor.looked(torch.from_numpy(grid(5) * [90, 60]))[2][:, 1:]
    iou = max(0.01, s.flatten().quantile(0.5).item())
    overlap = 1.0  # masks of such weights reach from edge to edge: what is suppressed is seen in test_boxes.py
    loose = everything(predictor, PICTURE, Everything(points=5, iou=iou, stability=0.0, overlap=overlap))
    stability = float(np.median([one["stability_score"] for one in loose])) + 1e-4
    wanted = by_hand(predictor, 5, iou, stability, overlap)
    assert 1 < len(wanted) < 37
    for batch in (1, 7, 64):
        asked = Everything(points=5, batch=batch, iou=iou, stability=stability, overlap=overlap)
        found = everything(predictor, PICTURE, asked)
        assert len(found) == len(wanted)
        for one, mask in zip(found, wanted):
            assert (rle.decode(one["segmentation"]) == mask).mean() > 0.999 and abs(one["area"] - mask.sum()) <= 5
            x, y, w, h = one["bbox"]
            rows, columns = np.nonzero(rle.decode(one["segmentation"]))
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert (
                one["crop_box"] == [0, 0, 90, 60] and one["predicted_iou"] > iou and one["stability_score"] >= stability
            )


def test_no_mask_is_an_answer(predictor):
    assert everything(predictor, np.zeros((20, 30, 3), np.uint8), Everything(points=2, iou=1.0)) == []
    assert len(everything(predictor, np.zeros((1, 1, 3), np.uint8), Everything(points=1, stability=0.0, iou=0.0))) <= 3


def test_crops_give_masks_of_the_picture(predictor, monkeypatch):
    told = []
    asked = Everything(points=3, layers=1, iou=0.0, stability=0.1)
    assert {tuple(one["crop_box"]) for one in everything(predictor, PICTURE, asked)} == {
        (0, 0, 90, 60)
    }  # others are cut
    monkeypatch.setattr(module, "EDGE", -1.0)
    found = everything(predictor, PICTURE, asked, lambda i, n: told.append((i, n)))
    assert found and all(one["segmentation"]["size"] == [60, 90] for one in found)
    assert any(one["crop_box"] != [0, 0, 90, 60] for one in found) and told[-1] == (45, 45)


def test_boxes_of_crops():
    assert crops(60, 90, 0, 0.3) == [(0, (0, 0, 90, 60))]
    found = crops(60, 90, 2, 0.25)
    assert len(found) == 1 + 4 + 16
    whole = np.zeros((60, 90), int)
    for layer, (left, top, right, bottom) in found[1:]:
        whole[top:bottom, left:right] += 1
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 60 and layer in (1, 2)
    assert whole.min() >= 2


def test_small_parts_are_removed():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 5:20] = True
    with_island = mask.copy()
    with_island[25, 25] = True
    one = {"segmentation": rle.encode(with_island), "area": int(with_island.sum()), "bbox": [5, 5, 25, 25]}
    (out,) = cleaned([one], Everything(least=5))
    assert (rle.decode(out["segmentation"]) == mask).all() and out["area"] == 225 and out["bbox"] == [5, 5, 19, 19]
    (kept,) = cleaned([out, {**one, "segmentation": rle.encode(mask)}], Everything(least=5))
    assert kept["area"] == 225


def test_what_is_refused():
    with pytest.raises(UsageError, match="points = 0"):
        Everything(points=0)
    with pytest.raises(UsageError, match="stability"):
        Everything(stability=1.5)
