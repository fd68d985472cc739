"""Prompts for pictures: shapes, batches, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from ptheta.engine.errors import InputError, UsageError
from ptheta.sam.predictor import Predictor

PICTURE = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
POINT = {"points": [[30, 20]], "labels": [1]}


@pytest.fixture(scope="module")
def predictor(tiny):
    p = Predictor(tiny)
    p.set_image(PICTURE)
    return p


def test_one_prompt_and_several(predictor):
    one = predictor.predict(**POINT)
    assert one.masks.shape == (3, 60, 90) and one.ious.shape == (3,) and one.logits.shape == (3, 80, 80)
    other = predictor.predict(points=[[70, 50]], labels=[0])
    both = predictor.predict(points=[[[30, 20]], [[70, 50]]], labels=[[1], [0]])
    for i, alone in enumerate((one, other)):
        torch.testing.assert_close(both.logits[i], alone.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both.ious[i], alone.ious, rtol=1e-4, atol=1e-4)
    best = both.best()
    assert best.masks.shape == (2, 1, 60, 90) and (best.ious[:, 0] == both.ious.max(1).values).all()
    assert torch.equal(best.logits[0, 0], both.logits[0, both.ious[0].argmax()])


def test_a_mask_is_its_logits_at_the_pictures_size(predictor):
    one = predictor.predict(**POINT)
    assert torch.equal(one.masks, predictor.model.enlarged(one.logits[None], 60, 90)[0] > 0)
    assert 0.02 < one.masks.float().mean() < 0.98


def test_an_answer_is_a_prompt(predictor):
    first = predictor.predict(**POINT).best()
    again = predictor.predict(**POINT, masks=first.logits, several=False)
    assert again.masks.shape == (1, 60, 90)
    assert not torch.equal(again.logits, predictor.predict(**POINT, several=False).logits)


def test_any_mixture(predictor):
    mixed = predictor.predict(points=[[1, 2], [3, 4]], labels=[1, 0], boxes=[0, 0, 50, 50], several=False)
    assert mixed.logits.shape == (1, 80, 80)
    boxes = predictor.predict(boxes=[[0, 0, 50, 50], [10, 10, 90, 60]])
    assert boxes.masks.shape == (2, 3, 60, 90)


def test_several_pictures(tiny, predictor):
    other = PICTURE[::-1, :40]
    p = Predictor(tiny)
    p.set_image([PICTURE, other])
    first, second = p.predict(points=[[[30, 20]], [[5, 6]]], labels=[[1], [1]])
    torch.testing.assert_close(first.logits, predictor.predict(**POINT).logits, rtol=1e-4, atol=1e-4)
    assert second.masks.shape == (3, 60, 40)
    boxed, pointed = p.predict(points=[None, [[5, 6]]], labels=[None, [1]], boxes=[[0, 0, 9, 9], None])
    assert boxed.masks.shape == (3, 60, 90) and torch.equal(pointed.logits, second.logits)


@pytest.mark.parametrize("size", [(1, 1), (1000, 3), (60, 90)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16", "1"])
def test_pictures_of_every_kind(tiny, size, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full(size, 40_000, np.uint16))
    else:
        image = Image.new(mode, (size[1], size[0]))
    p = Predictor(tiny)
    p.set_image(image)
    answer = p.predict(points=[[0, 0]], labels=[1])
    assert answer.masks.shape == (3, *size)


def test_a_picture_that_was_turned_is_seen_upright(tiny, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(tmp_path / "turned.png", exif=exif)
    p = Predictor(tiny)
    p.set_image(tmp_path / "turned.png")
    assert p.sizes == [(90, 60)]


def test_half_precision_says_nearly_the_same(tiny, predictor):
    p = Predictor(tiny, "bf16")
    p.set_image(PICTURE)
    a, b = p.predict(**POINT).logits, predictor.predict(**POINT).logits
    assert a.dtype == torch.float32 and not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.1 * b.abs().mean()


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ({}, "the prompt is empty"),
        ({"points": [[1, 2]]}, "belong together"),
        (
            {"points": [[91, 2]], "labels": [1]},
            r"the point \(91, 2\) is outside of the picture; allowed: x from 0",
        ),
        ({"points": [[1, -2]], "labels": [1]}, "outside"),
        ({"points": [[1, 2]], "labels": [2]}, "labels hold 2; allowed: 1 inside, 0 outside"),
        ({"points": [[1, 2]], "labels": [0.5]}, "labels hold 0.5"),
        ({"points": [[1, 2]], "labels": [1, 1]}, "1 points have 2 labels"),
        ({"points": [1, 2], "labels": [1]}, r"points have shape \(2,\)"),
        ({"points": np.zeros((0, 2)), "labels": []}, "no points"),
        ({"points": [[float("nan"), 2]], "labels": [1]}, "not finite"),
        ({"points": "here", "labels": [1]}, "no array of numbers"),
        ({"boxes": [50, 0, 10, 20]}, r"the box \(50, 0, 10, 20\) is reversed or empty"),
        ({"boxes": [5, 5, 5, 9]}, "reversed or empty"),
        ({"boxes": [0, 0, 91, 9]}, "reaches out"),
        ({"boxes": [[0, 0, 9, 9]], "points": [[1, 2]], "labels": [1]}, "not for the same number of prompts"),
        ({"masks": np.zeros((1, 256, 256))}, r"masks have shape \(1, 256, 256\); allowed: \(1, 80, 80\)"),
    ],
)
def test_prompts_that_are_refused(predictor, prompt, why):
    with pytest.raises(InputError, match=why):
        predictor.predict(**prompt)


def test_a_prompt_before_a_picture(tiny):
    with pytest.raises(UsageError, match="call set_image first"):
        Predictor(tiny).predict(**POINT)


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        ("nowhere.png", "no file"),
        ([], "no picture in the list"),
    ],
)
def test_what_is_no_picture(tiny, picture, why):
    with pytest.raises(InputError, match=why):
        Predictor(tiny).set_image(picture)
