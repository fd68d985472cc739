"""Prompts in words, by a model of pictures and texts that knows mean colours."""

import numpy as np
import pytest
import torch

from ptheta.data import instances, rle
from ptheta.data.instances import Example, InstanceData
from ptheta.engine.errors import UsageError
from ptheta.sam import examples
from ptheta.sam.evaluation import called, figures, overlap
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor

from .test_sam import method

RED, GREEN = (200, 20, 20), (20, 200, 20)


class Colours:
    """What `clip` is to a user: u of pictures, v of texts, in one space; here the mean colour, brought to length 1."""

    name, shape = "colours", (3, 8, 8)

    def eval(self):
        return self

    def image(self, x):
        return torch.nn.functional.normalize(x.float().mean((2, 3)), dim=1)

    def text(self, texts):
        known = {"a red square": RED, "a green square": GREEN}
        return torch.nn.functional.normalize(torch.tensor([known.get(t, (1, 1, 1)) for t in texts]).float(), dim=1)


def squares(count: int, seed: int = 0) -> list[Example]:
    """Pictures of a red and a green square, side by side or one above the other."""
    r, found = np.random.default_rng(seed), []
    for i in range(count):
        x, masks = r.integers(0, 40, (3, 64, 64)).astype(np.uint8), np.zeros((2, 64, 64), bool)
        places = [(6, 6), (6, 36), (36, 6), (36, 36)]
        for mask, colour, k in zip(masks, (RED, GREEN), r.permutation(4)):
            t, l = places[k]
            mask[t : t + 22, l : l + 22] = True
            x[:, mask] = np.array(colour, np.uint8)[:, None]
        told = tuple(rle.encode(mask) for mask in masks)
        found.append(Example(str(i), x, told, (0, 0), ("a red square", "a green square")))
    return found


def spoken(train: int = 24) -> InstanceData:
    read = {"train": lambda: squares(train), "valid": lambda: squares(6, 1)}
    return InstanceData("squares", 64, "squares.", read).spoken(Colours())


def test_what_is_said_of_masks_is_said_of_their_crops():
    one = squares(1)[0]
    masks = np.stack([one.mask(0), one.mask(1), np.zeros((64, 64), bool)])
    masks[2, 30:34, 30:40] = True  # too small to be spoken of
    said = examples.said(Colours(), one.picture, masks, np.random.default_rng(0))
    assert said.shape == (3, 3) and not said[2].any()
    assert said[0].argmax() == 0 and said[1].argmax() == 1
    torch.testing.assert_close(said[:2].norm(dim=1), torch.ones(2))


def test_first_prompts_are_points_boxes_and_words_alike_and_words_only_where_something_is_said():
    talk = method(spoken()).trained
    Y = torch.ones(1, 3000, 8, 8, dtype=torch.bool)
    said = torch.ones(1, 3000, 3)
    said[:, 1500:] = 0
    _, labels = talk.first(Y, said, [torch.Generator().manual_seed(0)])
    share = [(labels[:1500, 0] == k).float().mean().item() for k in (1, 2, 4)]
    assert all(abs(p - 1 / 3) < 0.05 for p in share)
    assert not (labels[1500:] == 4).any() and abs((labels[1500:, 0] == 1).float().mean() - 2 / 3) < 0.05


@torch.no_grad()
def test_a_name_is_asked_for_as_a_user_does():
    model, one = SAM("tiny", 64, words=3).eval(), squares(1)[0]
    predictor = Predictor(model)
    predictor.set_image(one.picture.transpose(1, 2, 0))
    found = called(model, one, Colours())
    for name, i, iou in zip(one.names, range(2), found):
        best = predictor.predict(words=Colours().text([name])[0]).best()
        torch.testing.assert_close(iou, overlap(best.masks[0], torch.from_numpy(one.mask(i))), rtol=0, atol=2e-3)


def test_a_little_training_finds_what_a_text_says():
    """By mean colours of crops: 100 updates suffice to tell red from green."""
    data = spoken()
    learner = method(data, batch_size=4, prompts=2, interactions=1, learning_rate=6e-3, colour=0.0, words="colours")
    learner.total = 100
    for _, batch in zip(range(100), learner.batches(0, 0, 1)):
        learner.update(batch)
    found = learner.evaluate(data, "valid")
    assert found["miou_words"].n == 12 and found["miou_words"].mean > 0.6, found
    assert "miou_words" not in figures(learner.model, data.split("valid"))


def test_weights_come_with_and_without_words(tmp_path):
    without, with_words = SAM("tiny", 64), SAM("tiny", 64, words=3)
    again = SAM.from_pretrained(with_words.save_pretrained(tmp_path))
    assert again.words == 3 and torch.equal(again.prompt_encoder.words.weight, with_words.prompt_encoder.words.weight)
    learner = method(spoken())
    learner.start_from(without)
    assert torch.equal(learner.model.mask_decoder.iou_token.weight, without.mask_decoder.iou_token.weight)
    silent = method()
    silent.start_from(with_words)
    assert torch.equal(silent.model.mask_decoder.iou_token.weight, with_words.mask_decoder.iou_token.weight)
    with pytest.raises(UsageError, match="weights know words of 5 numbers, the model of 3.*--words"):
        learner.start_from(SAM("tiny", 64, words=5))


def test_what_is_refused():
    with pytest.raises(UsageError, match="a model of sam has no words; give a run of clip"):
        spoken().spoken(SAM("tiny", 64))
    predictor = Predictor(SAM("tiny", 64))
    predictor.set_image(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UsageError, match="the model knows no words; train one with --words"):
        predictor.predict(words=torch.zeros(3))


def test_scenes_have_names_of_wholes():
    names = instances.load("nested", size=64).split("valid")[4].names
    assert any(name.split()[0] in ("a", "an") for name in names) and all(name == "" or " " in name for name in names)
