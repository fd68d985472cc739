"""Boxes, one at a time and written out."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.sam.boxes import around, iou, suppressed

BOX = st.tuples(*[st.integers(0, 20)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def one_iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    either = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - both
    return both / either if either else 0.0


@settings(deadline=None)
@given(st.lists(BOX, min_size=1, max_size=8), st.lists(BOX, min_size=1, max_size=8))
def test_overlaps(a, b):
    found = iou(torch.tensor(a).float(), torch.tensor(b).float())
    torch.testing.assert_close(found, torch.tensor([[one_iou(x, y) for y in b] for x in a], dtype=torch.float32))


@settings(deadline=None)
@given(st.lists(st.tuples(BOX, st.integers(0, 5)), max_size=12), st.floats(0, 1, width=32))
def test_suppression_is_the_greedy_loop(scored, threshold):
    kept = []
    for i in sorted(range(len(scored)), key=lambda i: -scored[i][1]):
        a = torch.tensor([scored[i][0]]).float()
        if all(iou(torch.tensor([scored[j][0]]).float(), a).item() <= threshold for j in kept):
            kept.append(i)
    boxes = torch.tensor([b for b, _ in scored]).float().view(-1, 4)
    scores = torch.tensor([float(s) for _, s in scored])
    assert suppressed(boxes, scores, threshold).tolist() == kept


def test_a_box_is_around_its_mask():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:4, 2] = True
    masks[2, 4, 6] = masks[2, 0, 0] = True
    assert around(masks).tolist() == [[2, 1, 2, 3], [0, 0, 0, 0], [0, 0, 6, 4]]
