"""What an answer keeps of an earlier one, mask by mask."""

import pytest
import torch

from ptheta.sam.export import inputs
from ptheta.sam.model import SAM


def asked(model):
    """Two prompts for one picture, with logits of an earlier answer to each."""
    image, points, _, _, _ = inputs(model, 3, True)
    g = torch.Generator().manual_seed(3)
    before = 8 * torch.randn(2, 1, model.side, model.side, generator=g)
    return image, torch.cat([points, points.flip(1) / 2]), torch.tensor([[1, 0, 1], [0, 1, 1]]), before


@torch.no_grad()
def looked(model, image, points, labels, before):
    prompts = model.prompt_encoder
    prompt = prompts.joined(points, labels, None)
    tokens, dense = prompts.tokens(prompt, image), prompts.map(before, prompt, image)
    return model.mask_decoder.looked(image, prompts.places(), tokens, dense)


@pytest.mark.parametrize(("several", "first"), [(True, 1), (False, 0)])
@torch.no_grad()
def test_an_answer_keeps_what_its_token_says(tiny, several, first):
    image, points, labels, before = asked(tiny)
    t, z = looked(tiny, image, points, labels, before)
    answers, _ = tiny.decode(image, points, labels, masks=before, several=several)
    new = tiny.mask_decoder.masks(t, z, image, slice(first, first + answers.shape[1]))
    w, b = tiny.mask_decoder.kept.weight[0], tiny.mask_decoder.kept.bias
    shares = []
    for prompt in range(2):
        for k in range(answers.shape[1]):
            share = (w @ t[prompt, 1 + first + k] + b).sigmoid()
            expected = new[prompt, k] + share * before[prompt, 0].clamp(-10, 10)
            torch.testing.assert_close(answers[prompt, k], expected, rtol=1e-4, atol=1e-4)
            shares.append(float(share))
    assert before.abs().max() > 10 and min(shares) > 0.01 and len(set(shares)) == len(shares)


@torch.no_grad()
def test_little_is_kept_at_first_and_nothing_by_what_is_as_published(plain):
    assert SAM("tiny", 64).mask_decoder.kept(torch.randn(1, 128)).sigmoid().item() == pytest.approx(0.1192, abs=1e-4)
    image, points, labels, before = asked(plain)
    t, z = looked(plain, image, points, labels, before)
    masks = plain.mask_decoder.masks
    assert plain.mask_decoder.kept is None
    assert torch.equal(masks(t, z, image, slice(0, 4), before), masks(t, z, image, slice(0, 4)))
