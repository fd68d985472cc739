"""Mirror images: what is said of them is mirrored, and the mean is what the predictor says of both by hand."""

import numpy as np
import pytest
import torch

from ptheta.sam.mirrored import Mirrored
from ptheta.sam.predictor import Predictor

WIDE = np.random.RandomState(0).randint(0, 256, (100, 160, 3)).astype(np.uint8)
HIGH = np.random.RandomState(1).randint(0, 256, (160, 90, 3)).astype(np.uint8)


def looked(model, picture):
    predictor = Predictor(model)
    predictor.set_image(picture)
    return predictor


@pytest.mark.parametrize("picture", [WIDE, HIGH])
def test_is_the_mean_of_both_by_hand(tiny, picture):
    w = picture.shape[1]
    plain, mirror, both = (looked(m, p) for m, p in (
        (tiny, picture), (tiny, np.ascontiguousarray(picture[:, ::-1])), (Mirrored(tiny), picture)
    ))  # fmt: skip
    cells = w * tiny.side // tiny.size

    def back(logits):
        return torch.cat([logits[..., :cells].flip(-1), logits[..., cells:]], -1)

    points, labels, box = np.array([[30.0, 20], [11, 70]]), [1, 0], np.array([5.0, 10, 60, 50])
    other, its = points.copy(), np.array([w - box[2], box[1], w - box[0], box[3]])
    other[:, 0] = w - 1 - points[:, 0]
    a, b, found = (p.predict(at, labels) for p, at in ((plain, points), (mirror, other), (both, points)))
    torch.testing.assert_close(found.logits, (a.logits + back(b.logits)) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.ious, (a.ious + b.ious) / 2, atol=1e-5, rtol=1e-4)
    assert not torch.equal(found.masks, a.masks) and found.masks.shape == (3, *picture.shape[:2])
    earlier, of_mirror = a.logits[:1], back(a.logits[:1])
    a = plain.predict(boxes=box, masks=earlier, several=False)
    b = mirror.predict(boxes=its, masks=of_mirror, several=False)
    found = both.predict(boxes=box, masks=earlier, several=False)
    torch.testing.assert_close(found.logits, (a.logits + back(b.logits)) / 2, atol=1e-4, rtol=1e-4)


def test_what_is_said_of_a_mirror_image_is_mirrored(tiny):
    """Of pictures together, of which each has its own width."""
    pictures = [WIDE, HIGH]
    one = looked(Mirrored(tiny), pictures)
    other = looked(Mirrored(tiny), [np.ascontiguousarray(p[:, ::-1]) for p in pictures])
    points = [np.array([[20.0, 30.0]]), np.array([[40.0, 90.0]])]
    turned = [np.array([[p.shape[1] - 1 - at[0, 0], at[0, 1]]]) for p, at in zip(pictures, points)]
    answers, mirrors = one.predict(points, [[1]] * 2), other.predict(turned, [[1]] * 2)
    for a, b in zip(answers, mirrors):
        torch.testing.assert_close(a.ious, b.ious, atol=1e-5, rtol=1e-4)
        cells = a.masks.shape[2] * tiny.side // tiny.size
        torch.testing.assert_close(a.logits[..., :cells], b.logits[..., :cells].flip(-1), atol=1e-4, rtol=1e-4)


def test_a_width_that_cells_do_not_divide_goes_on_to_the_end_of_one(tiny):
    x = torch.from_numpy(np.random.RandomState(2).randint(0, 256, (3, 160, 91)).astype(np.uint8))
    frame = Mirrored(tiny).framed(x)
    assert torch.equal(frame[:3], tiny.framed(x)) and (frame[6] * tiny.size).round().eq(92).all()
    assert torch.equal(frame[3:6, :, :92], frame[:3, :, :92].flip(-1)) and not frame[3:6, :, 92:].any()
